"""Evaluation of a run: held-out accuracy, agreement of clusters with labels, and the pages."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcjax.data.manifest import Manifest
from vcjax.evaluation import agreement, measures, probes, protocol, report_table
from vcjax.evaluation.measures import ProbeSettings
from vcjax.evaluation.outputs import IdtOutputs, ModelOutputs
from vcjax.evaluation.pages import cluster_sheets, clusters, explorer
from vcjax.evaluation.protocol import TrainTest
from vcjax.runtime import atomic

log = logging.getLogger(__name__)


def evaluate(
    manifest: Manifest,
    outputs: dict[str, ModelOutputs],
    idt: IdtOutputs | None,
    *,
    group: str,
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
      outputs: features and clusters by model, a key of `tables.TITLES`.
      idt: Fisher vectors and their clusters, or None if the run has none.
      group: name of the label whose values never occur in both splits, or "".
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
    splits = _sides(columns, np.array(manifest.split), group, seed)
    training = manifest.rows("train")
    everywhere = np.ones(len(training), bool)
    measured = {
        name: measures.measure(output, columns, splits, probing, seed=seed)
        for name, output in outputs.items()
    }
    report: dict[str, Any] = {
        "dataset": dataset,
        "models": {
            name: measured[name][0]
            | {"clusters": agreement.agreement_of(output.labels, everywhere, columns, training)}
            for name, output in outputs.items()
        },
    }
    if idt is not None:
        report["idt"] = _idt(idt, columns, splits, training, seed)
    report |= {
        "seconds": {stage: float(value) for stage, value in seconds.items()},
        "seed": seed,
        "num_videos": {split: len(manifest.rows(split)) for split in ("train", "test")},
        "probing": {
            k: list(v) if isinstance(v, tuple) else v for k, v in probing._asdict().items()
        },
        "chance": {n: protocol.chance(columns[n][s.test]) for n, s in splits.items()},
        "asked": {
            n: {"fit": len(s.train), "test": len(s.test), "within_test": s.within_test}
            for n, s in splits.items()
        },
    }
    cluster_sheets.write(directory, manifest.subset("train"), _described(outputs, idt, manifest))
    write(report, directory.parent / "report.json")
    predictions = {name: predicted for name, (_, predicted) in measured.items()}
    sources = _sources(outputs, idt, splits, predictions)
    explorer.save(directory, manifest, sources, seed=seed)
    explorer.write([directory.parent], directory / "index.html")
    return report


def _sources(
    outputs: Mapping[str, ModelOutputs],
    idt: IdtOutputs | None,
    splits: Mapping[str, TrainTest],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, explorer.Source]:
    """Return the data that the explorer shows for each model and for the Fisher vectors."""
    sources = {
        name: explorer.Source(
            output.embedding,
            {label: (splits[label].test, y) for label, y in predictions[name].items()},
        )
        for name, output in outputs.items()
    }
    if idt is not None:
        sources["idt"] = explorer.Source(idt.vectors, {})
    return sources


def _sides(
    columns: Mapping[str, np.ndarray], split: np.ndarray, group: str, seed: int
) -> dict[str, TrainTest]:
    """Return the split for each label, without labels that cannot be evaluated."""
    splits = {}
    for name, values in columns.items():
        sides = protocol.sides(values, split, is_group=name == group, seed=seed)
        if reason := protocol.obstacle(values, sides):
            log.warning("evaluate: no accuracy for the label %r: %s", name, reason)
        else:
            splits[name] = sides
    return splits


def _idt(
    idt: IdtOutputs,
    columns: Mapping[str, np.ndarray],
    splits: Mapping[str, TrainTest],
    training: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    linear = {}
    for name, (train, test, _) in splits.items():
        values = columns[name]
        predictions = probes.linear_fisher(
            idt.vectors[train],
            values[train],
            idt.vectors[test],
            train_has_vector=idt.has_vector[train],
            test_has_vector=idt.has_vector[test],
            seed=seed,
        )
        linear[name] = float(np.mean(predictions == values[test]))
    present = idt.has_vector[training]
    return {
        "linear": linear,
        "clusters": agreement.agreement_of(idt.labels, present, columns, training),
    }


def _described(
    outputs: Mapping[str, ModelOutputs], idt: IdtOutputs | None, manifest: Manifest
) -> dict[str, list[clusters.Cluster]]:
    """Return the clusters of each model's first K-means run; rows count training videos only."""
    training = manifest.rows("train")
    columns = {name: np.array(values)[training] for name, values in manifest.own_labels.items()}
    views = {
        name: (output.embedding[training], output.labels[0], np.ones(len(training), bool))
        for name, output in outputs.items()
    }
    if idt is not None:
        views["idt"] = (idt.vectors[training], idt.labels[0], idt.has_vector[training])
    return {
        name: clusters.describe(
            points, labels, columns, has_point=present, num_nearest=cluster_sheets.NUM_VIDEOS
        )
        for name, (points, labels, present) in views.items()
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
    arrays |= {f"idt: {f}": a for f, a in idt._asdict().items()} if idt else {}
    for name, array in arrays.items():
        count, expected = (
            (array.shape[1], num_train) if name.endswith("labels") else (len(array), len(manifest))
        )
        if count != expected:
            raise ValueError(f"{name} has {count} videos, the manifest {expected}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite: the training diverged; lower its lr")


def _in_order_of_ids(
    manifest: Manifest, outputs: dict[str, ModelOutputs], idt: IdtOutputs | None
) -> tuple[Manifest, dict[str, ModelOutputs], IdtOutputs | None]:
    """Return all three with rows sorted by video id, so that random choices depend on ids alone."""
    ids = np.array(manifest.video_ids, dtype=object)
    rows = np.argsort(ids)
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
        idt = IdtOutputs(
            np.asarray(idt.vectors)[rows],
            np.asarray(idt.has_vector)[rows],
            np.asarray(idt.labels)[:, columns],
        )
    return manifest.take(rows.tolist()), networks, idt


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON, atomically."""
    atomic.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
