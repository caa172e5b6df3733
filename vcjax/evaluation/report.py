"""Evaluation of a run: held-out accuracy, agreement of clusters with labels, and the pages."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vcjax.clustering import kmeans
from vcjax.data.manifest import Manifest
from vcjax.evaluation import agreement, measures, probes, protocol, report_table
from vcjax.evaluation.measures import Measured, ProbeSettings
from vcjax.evaluation.outputs import IdtOutputs, ModelOutputs
from vcjax.evaluation.pages import cluster_sheets, clusters, explorer
from vcjax.evaluation.protocol import TrainTest
from vcjax.runtime import atomic, progress

log = logging.getLogger(__name__)

_ROWS = 4096  # of an array that are checked at once


def evaluate(
    manifest: Manifest,
    outputs: dict[str, ModelOutputs],
    idt: IdtOutputs | None,
    *,
    group: str,
    folds: str = "",
    labels: Sequence[str] = (),
    seed: int,
    directory: Path,
    dataset: str,
    seconds: dict[str, float],
    probing: ProbeSettings = ProbeSettings(),  # noqa: B008 - immutable
) -> dict[str, Any]:
    """Return the report, and write it and the HTML pages of the run.

    The report is written as `report.json` into the parent of `directory`, the pages and images
    into `directory`. The result does not depend on the order of the manifest's rows.

    Args:
      manifest: the videos, of which at least one is in the split "train".
      outputs: features and clusters by model, a key of `report_table.TITLES`.
      idt: Fisher vectors and their clusters, or None if the run has none.
      group: name of the label whose values never occur in both splits, or "".
      folds: name of the label whose values are held out in turn to fit and evaluate the probes, or
        "" for the split.
      labels: names of the labels to report; (): all.
      seed: of all random choices of the evaluation.
      directory: folder of the stage, which exists.
      dataset: title of the report.
      seconds: duration of each stage, copied into the report.
      probing: settings of the probes.

    Raises:
      ValueError: if the model is unknown, an array is not finite, or the number of videos in the
        outputs and the manifest differs.
    """
    _check(manifest, outputs, idt)
    manifest, outputs, idt = _in_order_of_ids(manifest, outputs, idt)
    columns = {name: np.array(values) for name, values in manifest.own_labels.items()}
    reported = {name: columns[name] for name in labels or columns}
    sides = np.array(manifest.split), group, columns[folds] if folds else None
    splits = _folds(reported, *sides, probing.max_train, seed)
    training = manifest.rows("train")
    everywhere = np.ones(len(training), bool)

    def agreement_with(labels: np.ndarray, present: np.ndarray) -> dict[str, Any]:
        return agreement.agreement_of(
            labels, present, reported, training, group=group if folds else ""
        )

    num_models = len(outputs) + (idt is not None)
    with progress.bar(desc="evaluate", unit="probe", total=num_models * len(splits)) as bar:
        measured = _measured(outputs, columns, splits, probing, seed, bar)
        of_idt = _idt(idt, columns, splits, seed, bar) if idt is not None else {}

    report: dict[str, Any] = {
        "dataset": dataset,
        "models": {
            name: _by_label(measured[name], is_folded=bool(folds))
            | {"clusters": agreement_with(output.labels, everywhere)}
            for name, output in outputs.items()
        },
    }
    if idt is not None:
        report["idt"] = of_idt | {"clusters": agreement_with(idt.labels, idt.has_vector[training])}
    report |= {
        "seconds": {stage: float(value) for stage, value in seconds.items()},
        "seed": seed,
        **_setup(manifest, columns, splits, probing),
    }
    if folds:
        report["held_out_in_turn"] = folds
    cluster_sheets.write(directory, manifest.subset("train"), _described(outputs, idt, manifest))
    write(report, directory.parent / "report.json")
    shown = explorer.sample(len(manifest), seed)
    sources = _sources(manifest, shown, outputs, idt, splits, measured)
    explorer.save(directory, manifest, shown, sources)
    explorer.write([directory.parent], directory / "index.html")
    return report


def _measured(
    outputs: Mapping[str, ModelOutputs],
    columns: Mapping[str, np.ndarray],
    splits: Mapping[str, Sequence[TrainTest]],
    probing: ProbeSettings,
    seed: int,
    bar: tqdm,
) -> dict[str, dict[str, Measured]]:
    """Return model -> label -> accuracies of the probes; advance `bar` by model and label."""
    measured: dict[str, dict[str, Measured]] = {name: {} for name in outputs}
    for name, output in outputs.items():
        for label, sides in splits.items():
            measured[name][label] = measures.measure(
                output, columns[label], sides, probing, seed=seed
            )
            bar.update()
    return measured


def _setup(
    manifest: Manifest,
    columns: Mapping[str, np.ndarray],
    splits: Mapping[str, Sequence[TrainTest]],
    probing: ProbeSettings,
) -> dict[str, Any]:
    """Return the entries of the report that are the same for all models."""
    return {
        "num_videos": {split: len(manifest.rows(split)) for split in ("train", "test")},
        "probing": {
            k: list(v) if isinstance(v, tuple) else v for k, v in probing._asdict().items()
        },
        "chance": {n: protocol.chance(columns[n][_tests(s)]) for n, s in splits.items()},
        "asked": {
            n: {
                "fit": min(len(fold.train) for fold in s),
                "test": len(_tests(s)),
                "within_test": s[0].within_test,
            }
            for n, s in splits.items()
        },
    }


def _sources(
    manifest: Manifest,
    shown: np.ndarray,
    outputs: Mapping[str, ModelOutputs],
    idt: IdtOutputs | None,
    splits: Mapping[str, Sequence[TrainTest]],
    measured: Mapping[str, Mapping[str, Measured]],
) -> dict[str, explorer.Source]:
    """Return the data of the rows `shown` on the page, of each model and the Fisher vectors."""
    training = manifest.rows("train")

    def members(labels: np.ndarray, present: np.ndarray) -> np.ndarray:
        clusters = np.full(len(manifest), -1)
        clusters[training] = np.where(present, labels[0], -1)
        return clusters[shown]

    everywhere = np.ones(len(training), bool)
    sources = {
        name: explorer.Source(
            output.embedding[shown],
            {label: (_tests(splits[label]), m.predictions) for label, m in measured[name].items()},
            members(output.labels, everywhere),
        )
        for name, output in outputs.items()
    }
    if idt is not None:
        present = idt.has_vector[training]
        sources["idt"] = explorer.Source(idt.read(shown), {}, members(idt.labels, present))
    return sources


def _folds(
    columns: Mapping[str, np.ndarray],
    split: np.ndarray,
    group: str,
    folds: np.ndarray | None,
    max_train: int,
    seed: int,
) -> dict[str, list[TrainTest]]:
    """Return the folds of each label, without labels that cannot be evaluated."""
    splits = {}
    for name, values in columns.items():
        if folds is not None:
            sides = protocol.leave_groups_out(values, folds)
        else:
            sides = [protocol.sides(values, split, is_group=name == group, seed=seed)]
        if 0 < max_train < (most := max((len(fold.train) for fold in sides), default=0)):
            log.warning(
                "evaluate: the label %r is probed with %d of %d training videos, drawn at random; "
                "--config.evaluation.max_train=0 uses all of them",
                name,
                max_train,
                most,
            )
        sides = [protocol.limited(fold, max_train, seed=seed) for fold in sides]
        if reason := protocol.first_obstacle(values, sides):
            log.warning("evaluate: no accuracy for the label %r: %s", name, reason)
        else:
            splits[name] = sides
    return splits


def _tests(folds: Sequence[TrainTest]) -> np.ndarray:
    """Return the test rows of all folds, in order."""
    return np.concatenate([fold.test for fold in folds])


def _by_label(measured: Mapping[str, Measured], *, is_folded: bool) -> dict[str, dict[str, Any]]:
    """Return measure -> label -> result, for the report."""
    names = (*measures.NAMES, *(["linear_by_fold"] if is_folded else []))
    return {n: {label: getattr(m, n) for label, m in measured.items()} for n in names}


def _idt(
    idt: IdtOutputs,
    columns: Mapping[str, np.ndarray],
    splits: Mapping[str, Sequence[TrainTest]],
    seed: int,
    bar: tqdm,
) -> dict[str, Any]:
    """Return the accuracy of a linear probe of the Fisher vectors for each label; advance `bar`."""
    needed = np.zeros(len(idt.has_vector), bool)
    for fold in itertools.chain.from_iterable(splits.values()):
        needed[fold.train] = needed[fold.test] = True
    vectors, place = idt.read(np.flatnonzero(needed)), np.cumsum(needed) - 1

    def correct(values: np.ndarray, fold: TrainTest) -> np.ndarray:
        predictions = probes.linear_fisher(
            vectors[place[fold.train]].astype(np.float64),  # here, so that no second copy remains
            values[fold.train],
            vectors[place[fold.test]],
            train_has_vector=idt.has_vector[fold.train],
            test_has_vector=idt.has_vector[fold.test],
            seed=seed,
        )
        return predictions == values[fold.test]

    linear = {}
    for name, folds in splits.items():
        linear[name] = float(np.concatenate([correct(columns[name], f) for f in folds]).mean())
        bar.update()
    return {"linear": linear}


def _described(
    outputs: Mapping[str, ModelOutputs], idt: IdtOutputs | None, manifest: Manifest
) -> dict[str, list[clusters.Cluster]]:
    """Return the clusters of each model's first K-means run; rows count training videos only."""
    training = manifest.rows("train")
    columns = {name: np.array(values)[training] for name, values in manifest.own_labels.items()}
    everywhere = np.ones(len(training), bool)
    views = {
        name: (labels[0], kmeans.distances(embedding[training], labels[0]), everywhere)
        for name, (embedding, _, labels) in outputs.items()
    }
    if idt is not None:
        views["idt"] = idt.labels[0], idt.distances[0], idt.has_vector[training]
    return {
        name: clusters.describe(
            labels,
            distances,
            columns,
            has_point=present,
            num_nearest=cluster_sheets.NUM_VIDEOS,
        )
        for name, (labels, distances, present) in views.items()
    }


def _check(manifest: Manifest, outputs: Mapping[str, ModelOutputs], idt: IdtOutputs | None) -> None:
    if unknown := sorted(outputs.keys() - report_table.TITLES.keys()):
        raise ValueError(
            f"no model {unknown[0]!r} in a report; use {' or '.join(report_table.TITLES)}"
        )
    num_train = len(manifest.rows("train"))
    if not num_train:
        raise ValueError(
            "no training videos in the manifest, so clusters cannot be evaluated; "
            "add videos of the split train"
        )
    arrays = {f"{n}: {f}": a for n, o in outputs.items() for f, a in o._asdict().items()}
    if idt is not None:
        arrays |= {f"idt: {field}": array for field, array in list(idt._asdict().items())[1:]}
    for name, array in arrays.items():
        count, expected = (
            (array.shape[1], num_train)
            if name.endswith(("labels", "distances"))
            else (len(array), len(manifest))
        )
        if count != expected:
            raise ValueError(f"{name} has {count} videos, the manifest {expected}")
        if not all(np.isfinite(array[i : i + _ROWS]).all() for i in range(0, len(array), _ROWS)):
            raise ValueError(f"{name} is not finite: the training diverged; lower its lr")


def _in_order_of_ids(
    manifest: Manifest, outputs: dict[str, ModelOutputs], idt: IdtOutputs | None
) -> tuple[Manifest, dict[str, ModelOutputs], IdtOutputs | None]:
    """Return all three with rows sorted by video id, so that random choices depend on ids alone."""
    ids = np.array(manifest.video_ids, dtype=object)
    rows = np.argsort(ids)
    if np.array_equal(rows, np.arange(len(rows))):
        return manifest, outputs, idt
    columns = np.argsort(ids[manifest.rows("train")])

    networks = {
        name: ModelOutputs(
            np.asarray(output.embedding)[rows],
            np.asarray(output.pooled)[rows],
            np.asarray(output.labels)[:, columns],
        )
        for name, output in outputs.items()
    }
    if idt is not None:
        read = idt.read
        idt = IdtOutputs(
            lambda places: read(rows[places]),
            idt.has_vector[rows],
            idt.labels[:, columns],
            idt.distances[:, columns],
        )
    return manifest.take(rows.tolist()), networks, idt


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON, atomically."""
    atomic.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
