"""The stage `evaluate`: the report and the HTML pages."""

import gc
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vcjax import evaluation, settings
from vcjax.clustering import kmeans
from vcjax.data import clusters as clusters_table
from vcjax.data.manifest import Manifest
from vcjax.pipeline import workdir as workdirs
from vcjax.pipeline.manifest import group_column
from vcjax.runtime import stage_record
from vcjax.runtime.stage_cache import Stage


def evaluate_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that evaluates the earlier stages in `report.json` and HTML pages."""
    inputs = tuple(config.stages[: config.stages.index(name)])
    trained = [s for s in inputs if s in (*settings.TRAINING_STAGES, "supervised")]
    depends = {k: config[k].to_dict() for k in ("evaluation", "clusters", "clip", "model")}

    def check(running: Collection[str]) -> None:
        manifest = videos(running)
        group_column(config, manifest)
        check_labels(config, manifest)
        _check_folds(config, manifest)
        training = manifest.subset("train")
        settings.num_clusters(config.clusters.num_clusters, len(training))
        if "fisher" in inputs and not {"manifest", "fisher"} & set(running):
            num_points = workdirs.num_vectors(config, workdir, training)
            settings.num_clusters(config.clusters.num_clusters, num_points)
        for start in set(trained) - set(running):
            workdirs.check_network(config, workdir, name, start)

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        # First: memory never has both the vectors and the features of the networks.
        idt = _idt_outputs(workdir, manifest, config) if "fisher" in inputs else None
        gc.collect()  # until then, JAX keeps the vectors, whose memory it used without a copy
        models = {"scratch": workdirs.network(config, workdir, "")}
        models |= {model_name(s, config): workdirs.network(config, workdir, s) for s in trained}
        embedded = workdirs.embedded(workdir, name, models, manifest, config)
        outputs = _outputs(embedded, manifest, config)
        _write_clusters(workdir, manifest, outputs, idt, trained)
        report = evaluation.evaluate(
            manifest,
            outputs,
            idt,
            group=group_column(config, manifest),
            folds=config.evaluation.folds,
            labels=config.evaluation.labels,
            seed=config.seed,
            directory=directory,
            dataset=dataset_name(config),
            seconds=stage_record.seconds(workdir, inputs),
            probing=workdirs.probing(config),
        )
        print(evaluation.table(report))
        print(f"report: {workdir / 'report.json'}   clusters: {directory / 'index.html'}")

    depends |= {"seed": config.seed}
    return Stage(
        name,
        depends,
        inputs,
        run,
        workdir_files=("report.json", clusters_table.FILE),
        networks=tuple(trained),
        check=check,
    )


def check_labels(config: ConfigDict, manifest: Manifest) -> None:
    """Raise SettingsError if `manifest` lacks one of the labels to report."""
    if missing := [n for n in config.evaluation.labels if n not in manifest.own_labels]:
        raise settings.SettingsError(
            f"--config.evaluation.labels has {missing[0]!r}, which is no label column; use some of "
            f"{', '.join(sorted(manifest.own_labels)) or '(there is none)'}"
        )


def _check_folds(config: ConfigDict, manifest: Manifest) -> None:
    """Raise SettingsError if the probes have no videos to hold out."""
    folds = config.evaluation.folds
    values = set(manifest.labels.get(folds, ())) - {""}
    if folds and len(values) < 2:
        raise settings.SettingsError(
            f"--config.evaluation.folds is {folds!r}, which has {len(values)} values; use a label "
            f"column with at least 2 among {', '.join(sorted(manifest.labels)) or 'none'}"
        )


def model_name(stage: str, config: ConfigDict) -> str:
    """Return the name in the report of the network of a training stage, such as la_idt_tune."""
    aggregation = "la_idt" if config.la.source == "idt" else "la"
    names = {"la_own": "la", "la": aggregation, "tune": f"{aggregation}_tune"}
    return names.get(stage, stage)


def _outputs(embedded: dict[str, Any], manifest: Manifest, config: ConfigDict) -> dict[str, Any]:
    """Return the features of each model with clusters of the training videos."""
    training = manifest.rows("train")
    return {
        name: evaluation.ModelOutputs(embedding, pooled, cluster(embedding[training], None, config))
        for name, (embedding, pooled) in embedded.items()
    }


def _idt_outputs(workdir: Path, manifest: Manifest, config: ConfigDict) -> evaluation.IdtOutputs:
    """Return clusters of the Fisher vectors of the training videos; no vectors stay in memory."""
    training = manifest.subset("train")
    fisher = workdirs.fisher_vectors(config, workdir, training)
    labels = cluster(fisher.vectors, fisher.has_vector, config)
    distances = _distances(fisher.vectors, labels)

    def read(rows: np.ndarray) -> np.ndarray:
        return workdirs.fisher_vectors(config, workdir, manifest.take(rows.tolist())).vectors

    stored = workdirs.collection(config, workdir)
    has_vector = stored.has_vector(workdirs.variant(config), manifest.video_ids)
    return evaluation.IdtOutputs(read, has_vector, labels, distances)


def _write_clusters(
    workdir: Path,
    manifest: Manifest,
    outputs: dict[str, Any],
    idt: evaluation.IdtOutputs | None,
    trained: Sequence[str],
) -> None:
    """Write `clusters.csv` of the run: the evaluated clusters, and the clusters of its stages."""
    rows, training = manifest.rows("train"), manifest.subset("train")
    everywhere = np.ones(len(training), bool)
    stages = [workdir / stage / clusters_table.FILE for stage in trained]

    def tables() -> Iterator[clusters_table.ClusterTable]:
        for name, output in outputs.items():
            yield clusters_of(name, training, output.embedding[rows], output.labels, everywhere)
        if idt is not None:
            ids, present = training.video_ids, idt.has_vector[rows]
            yield clusters_table.table("idt", ids, idt.labels, idt.distances, present)

    clusters_table.write(workdir / clusters_table.FILE, tables(), filter(Path.exists, stages))


def clusters_of(
    space: str, videos: Manifest, points: np.ndarray, labels: np.ndarray, has_point: np.ndarray
) -> clusters_table.ClusterTable:
    """Return the table of the clusters `labels` [runs, n] of `videos`, with distances."""
    distances = _distances(points, labels)
    return clusters_table.table(space, videos.video_ids, labels, distances, has_point)


def _distances(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the distances [runs, n] of the points to the means of their clusters."""
    return np.stack([kmeans.distances(points, run) for run in labels])


def cluster(points: np.ndarray, has_point: np.ndarray | None, config: ConfigDict) -> np.ndarray:
    """Return cluster labels [runs, n] of K-means with the settings `clusters`.

    Rows that `has_point` marks as False are not clustered; None clusters all rows.
    """
    num_points = len(points) if has_point is None else int(has_point.sum())
    count = settings.num_clusters(config.clusters.num_clusters, num_points)
    seeds = [config.clusters.seed + run for run in range(config.clusters.num_runs)]
    runs = kmeans.fit_runs(
        points,
        seeds=seeds,
        num_clusters=count,
        num_iterations=config.clusters.num_iterations,
        included=has_point,
    )
    return np.asarray(runs.labels)


def dataset_name(config: ConfigDict) -> str:
    """Return the name of the videos in the report."""
    rendered = config.data.rendered.num_videos
    source = config.data.collection or config.data.manifest
    return f"rendered ({rendered})" if rendered else Path(source).name
