"""The stage `svm`: the IDT baseline (Table 4)."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vcjax import evaluation, settings
from vcjax.data import clusters as clusters_table
from vcjax.idt import fisher_vectors
from vcjax.pipeline import workdir as workdirs
from vcjax.pipeline.evaluate import check_labels, cluster, clusters_of, dataset_name
from vcjax.pipeline.manifest import group_column
from vcjax.runtime.stage_cache import Stage


def svm_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that writes the accuracy of an SVM on Fisher vectors to `report.json`.

    Raises:
        SettingsError: If vectors of several descriptors are sketched, which mixes them.
    """
    if config.fisher.sketch_dim and len(config.fisher.descriptors) > 1:
        raise settings.SettingsError(
            "svm evaluates each descriptor: set --config.fisher.sketch_dim=0"
        )
    depends = {"svm": config.svm.to_dict(), "clusters": config.clusters.to_dict()}
    depends["evaluation"] = {"labels": config.evaluation.labels}

    def check(running: Collection[str]) -> None:
        manifest = videos(running)
        check_labels(config, manifest)
        if not group_column(config, manifest) and config.svm.leave_groups_out:
            raise settings.SettingsError(
                "--config.svm.leave_groups_out requires --config.data.group=COLUMN"
            )

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        group = group_column(config, manifest)
        model = workdirs.collection(config, workdir).model(workdirs.variant(config))
        encoded = workdirs.fisher_vectors(config, workdir, manifest)
        vectors = fisher_vectors.split_by_descriptor(model, encoded.vectors)
        rows = slice(None) if config.svm.leave_groups_out else manifest.rows("train")
        has_vector = encoded.has_vector[rows]
        labels = {k: cluster(v[rows], has_vector, config) for k, v in vectors.items()}
        clustered = manifest.take(np.arange(len(manifest))[rows].tolist())
        clusters_table.write(
            workdir / clusters_table.FILE,
            [clusters_of(k, clustered, vectors[k][rows], labels[k], has_vector) for k in labels],
        )
        report = evaluation.evaluate_baseline(
            manifest,
            vectors,
            encoded.has_vector,
            labels,
            group=group,
            labels=config.evaluation.labels,
            leave_groups_out=config.svm.leave_groups_out,
            penalty=config.svm.penalty,
            seed=config.seed,
            dataset=dataset_name(config),
        )
        evaluation.write(report, workdir / "report.json")
        print(evaluation.table(report))
        print(f"report: {workdir / 'report.json'}")

    depends |= {"seed": config.seed}
    inputs = ("manifest", "ingest", "fisher")
    written = ("report.json", clusters_table.FILE)
    return Stage(name, depends, inputs, run, workdir_files=written, check=check)
