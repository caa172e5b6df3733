"""The evaluation of a run: held-out accuracy, agreement of clusters, and the page (Sec. 4)."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcjax.data.manifest import Manifest
from vcjax.evaluation import agreement, measures, probes, protocol, report_table
from vcjax.evaluation.measures import Probing
from vcjax.evaluation.outputs import IdtOutputs, ModelOutputs
from vcjax.evaluation.pages import cluster_page, clusters, explorer
from vcjax.evaluation.protocol import Sides
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
    probing: Probing = Probing(),  # noqa: B008 - immutable
) -> dict[str, Any]:
    """The report, written beside `directory` as report.json; the clusters to look at go into it.

    `group` is the label column whose values never stand on both sides of the split, or "". The
    order of the manifest's rows does not matter. Raises ValueError for outputs of other videos.
    """
    _check(manifest, outputs, idt)
    manifest, outputs, idt = _in_order_of_ids(manifest, outputs, idt)
    columns = {name: np.array(values) for name, values in manifest.own_labels.items()}
    asked = _sides(columns, np.array(manifest.split), group, seed)
    training = manifest.rows("train")
    everywhere = np.ones(len(training), bool)
    measured = {
        name: measures.measure(output, columns, asked, probing, seed=seed)
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
        report["idt"] = _idt(idt, columns, asked, training, seed)
    report |= {
        "seconds": {stage: float(value) for stage, value in seconds.items()},
        "seed": seed,
        "num_videos": {split: len(manifest.rows(split)) for split in ("train", "test")},
        "probing": {
            k: list(v) if isinstance(v, tuple) else v for k, v in probing._asdict().items()
        },
        "chance": {n: protocol.chance(columns[n][s.test]) for n, s in asked.items()},
        "asked": {
            n: {"fit": len(s.fit), "test": len(s.test), "within_test": s.within_test}
            for n, s in asked.items()
        },
    }
    cluster_page.write(
        directory, report, manifest.subset("train"), _described(outputs, idt, manifest)
    )
    write(report, directory.parent / "report.json")
    told = {name: answers for name, (_, answers) in measured.items()}
    explorer.save(directory, manifest, _sources(outputs, idt, manifest, asked, told), seed=seed)
    explorer.write([directory.parent], directory / "explorer.html")
    return report


def _sources(
    outputs: Mapping[str, ModelOutputs],
    idt: IdtOutputs | None,
    manifest: Manifest,
    asked: Mapping[str, Sides],
    told: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, explorer.Source]:
    """What the explorer shows of each model and of the prior."""
    training = manifest.rows("train")

    def everywhere(labels: np.ndarray) -> np.ndarray:
        clusters = np.full(len(manifest), -1)
        clusters[training] = labels[0]
        return clusters

    all_there = np.ones(len(manifest), bool)
    found = {
        name: explorer.Source(
            output.embedding,
            everywhere(output.labels),
            all_there,
            {label: (asked[label].test, answers) for label, answers in told[name].items()},
        )
        for name, output in outputs.items()
    }
    if idt is not None:
        found["idt"] = explorer.Source(idt.vectors, everywhere(idt.labels), idt.has_vector, {})
    return found


def _sides(
    columns: Mapping[str, np.ndarray], split: np.ndarray, group: str, seed: int
) -> dict[str, Sides]:
    """Where each label column is learned and asked; those of which nothing can be told left out."""
    found = {}
    for name, values in columns.items():
        sides = protocol.sides(values, split, is_group=name == group, seed=seed)
        if reason := protocol.obstacle(values, sides):
            log.warning("evaluate: no accuracy for the label %r: %s", name, reason)
        else:
            found[name] = sides
    return found


def _idt(
    idt: IdtOutputs,
    columns: Mapping[str, np.ndarray],
    asked: Mapping[str, Sides],
    training: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    linear = {}
    for name, (fit, test, _) in asked.items():
        values = columns[name]
        probed = probes.linear_fisher(
            idt.vectors[fit],
            values[fit],
            idt.vectors[test],
            known_has_vector=idt.has_vector[fit],
            asked_has_vector=idt.has_vector[test],
            seed=seed,
        )
        linear[name] = float(np.mean(probed == values[test]))
    present = idt.has_vector[training]
    return {
        "linear": linear,
        "clusters": agreement.agreement_of(idt.labels, present, columns, training),
    }


def _described(
    outputs: Mapping[str, ModelOutputs], idt: IdtOutputs | None, manifest: Manifest
) -> dict[str, list[clusters.Cluster]]:
    """The clusters of each model's first run, rows among the training videos."""
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
            points, labels, columns, has_point=present, num_nearest=cluster_page.NUM_VIDEOS
        )
        for name, (points, labels, present) in views.items()
    }


def _check(manifest: Manifest, outputs: Mapping[str, ModelOutputs], idt: IdtOutputs | None) -> None:
    if unknown := sorted(outputs.keys() - report_table.TITLES.keys()):
        raise ValueError(
            f"no model {unknown[0]!r} in a report; use some of {list(report_table.TITLES)}"
        )
    num_train = len(manifest.rows("train"))
    if not num_train:
        raise ValueError("no training videos in the manifest: its clusters cannot be evaluated")
    arrays = {f"{n}: {f}": a for n, o in outputs.items() for f, a in o._asdict().items()}
    arrays |= {f"idt: {f}": a for f, a in idt._asdict().items()} if idt else {}
    for name, array in arrays.items():
        count, wanted = (
            (array.shape[1], num_train) if name.endswith("labels") else (len(array), len(manifest))
        )
        if count != wanted:
            raise ValueError(f"{name} has {count} videos, the manifest {wanted}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite: the training diverged; lower its lr")


def _in_order_of_ids(
    manifest: Manifest, outputs: dict[str, ModelOutputs], idt: IdtOutputs | None
) -> tuple[Manifest, dict[str, ModelOutputs], IdtOutputs | None]:
    """The same, rows sorted by video id: what is drawn by the seed depends on the ids alone."""
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
    """Writes the report as JSON, atomically."""
    atomic.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
