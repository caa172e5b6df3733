"""The stages of a config: what each depends on, and what it does.

manifest -> idt -> fisher -> ir -> la -> tune -> evaluate -> finetune, or fisher -> svm
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vcjax import settings, transfer_stages, validation
from vcjax import workdir as workdirs
from vcjax.data import manifest as manifests
from vcjax.data.manifest import Manifest
from vcjax.runtime import stage_cache
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)


def build(config: ConfigDict, workdir: Path) -> list[Stage]:
    """The stages that `config.stages` lists, in order.

    Raises SettingsError for an unknown one, and for settings that cannot be.
    """
    validation.check(config)
    if unknown := [s for s in config.stages if s not in _BUILDERS]:
        raise settings.SettingsError(f"no stage {unknown[0]!r}; use some of {sorted(_BUILDERS)}")
    if twice := [s for s in config.stages if config.stages.count(s) > 1]:
        raise settings.SettingsError(
            f"--config.stages has {twice[0]!r} twice; a second --config.stages adds to the first"
        )
    return [_BUILDERS[name](name, config, workdir) for name in config.stages]


def _manifest_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    data = workdirs.data_settings(config)
    seed = config.seed if config.data.seed < 0 else config.data.seed
    if not config.data.rendered.num_videos:
        if not config.data.manifest:
            raise settings.SettingsError(
                "no videos: give --config.data.manifest=FOLDER_OR_TSV, or use the variant :rendered"
            )
        data["source"] = manifests.signature(config.data.manifest)

    def run(directory: Path) -> str:
        source = config.data.manifest
        if config.data.rendered.num_videos:
            from vcjax.data import rendered

            source = rendered.render(
                directory / "videos",
                num_videos=config.data.rendered.num_videos,
                seed=seed,
                num_workers=workdirs.num_workers(config),
                look=rendered.Look(config.data.rendered.contrast, config.data.rendered.brightness),
            )
        manifest, problems = manifests.verify(
            manifests.read(source),
            on_missing=config.data.on_missing,
            decode=config.data.verify == "decode",
            num_workers=workdirs.num_workers(config),
        )
        manifests.save_problems(problems, directory / "problems.tsv")
        manifest = manifests.assign_split(
            manifest,
            group=group_column(config, manifest),
            holdout=config.data.holdout,
            seed=seed,
            known=_known_split(directory / "manifest.tsv", manifest, config),
        )
        manifest = manifests.limit(manifest, config.data.num_videos, seed=seed)
        manifests.save(manifest, directory / "manifest.tsv")
        log.info("%s", manifests.summary(manifest, problems))
        return hashlib.sha256((directory / "manifest.tsv").read_bytes()).hexdigest()[:16]

    return Stage(
        name,
        data | {"seed": seed},
        (),
        run,
        keeps=True,
        which_videos=("manifest", "source", "on_missing", "verify"),
        by_video=("manifest.tsv",),
    )


def _known_split(path: Path, manifest: Manifest, config: ConfigDict) -> dict[str, str]:
    """The side of each video by id, as this stage has drawn it before; only some have changed."""
    if not path.exists():
        return {}
    before = manifests.load(path)
    share = config.data.max_changed_share
    if not manifests.few_changes(before.video_ids, manifest.video_ids, max_share=share):
        return {}
    return dict(zip(before.video_ids, before.split, strict=True))


def group_column(config: ConfigDict, manifest: Manifest) -> str:
    """The label column that `data.group` names, or "" for none."""
    if config.data.group == "auto":
        return next((c for c in settings.GROUP_COLUMNS if c in manifest.labels), "")
    if config.data.group and config.data.group not in manifest.labels:
        raise settings.SettingsError(
            f"data.group is {config.data.group!r}, and the manifest's label columns are "
            f"{sorted(manifest.labels)}"
        )
    return config.data.group


def _idt_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    def run(directory: Path) -> None:
        from vcjax.data import shards
        from vcjax.idt import collection
        from vcjax.runtime import filesystem

        manifest = workdirs.manifest(workdir)
        if any(shards.file_of(path) != path for path in manifest.paths):
            raise settings.SettingsError(
                "dense trajectories want the videos themselves: data.manifest is a prepared folder"
            )
        if any(map(filesystem.is_remote, manifest.paths)):
            raise settings.SettingsError(
                "dense trajectories want videos on a disk: some of data.manifest are remote"
            )
        counts = collection.extract_collection(
            dict(zip(manifest.video_ids, manifest.paths, strict=True)),
            directory,
            matcher=config.idt.matcher,
            people=Path(config.idt.people) if config.idt.people else None,
            num_workers=workdirs.num_workers(config),
            on_error=config.data.on_missing,
        )
        empty = [video_id for video_id in manifest.video_ids if not counts.get(video_id)]
        log.info(
            "idt: %d trajectories of %d videos; %d videos have none",
            sum(counts.values()),
            len(manifest),
            len(empty),
        )

    # each file of trajectories has its own checksum
    return Stage(name, config.idt.to_dict(), ("manifest",), run, keeps=True, files="")


def _fisher_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    def run(directory: Path) -> None:
        import fisher
        from vcjax import prior
        from vcjax.idt import storage

        manifest = workdirs.manifest(workdir)
        if config.fisher.fitted_to not in ("train", "all"):
            raise settings.SettingsError(
                f"fisher.fitted_to is {config.fisher.fitted_to!r}; use train or all"
            )
        known = prior.known(directory, workdir / "idt")
        share = config.data.max_changed_share
        try:
            if manifests.few_changes(known.video_ids, manifest.video_ids, max_share=share):
                model = fisher.Model.load(directory / "model.npz")
            else:
                (directory / "vectors.npz").unlink(missing_ok=True)  # of another mixture
                fitted = manifest if config.fisher.fitted_to == "all" else manifest.subset("train")
                ids, seed = fitted.video_ids, config.seed
                model = prior.fit(ids, workdir / "idt", config.fisher, seed=seed)
                model.save(directory / "model.npz")
                known = known.of(())
            vectors = prior.encode(
                model,
                manifest.video_ids,
                workdir / "idt",
                reading=config.fisher.reading,
                known=known,
            )
        except storage.StorageError as error:
            stage_cache.reopen(workdir, "idt")
            raise stage_cache.StageError(f"{error}; run again, and idt extracts it anew") from error
        vectors.save(directory / "vectors.npz")
        log.info("fisher: %d of %d videos have a vector", vectors.has_vector.sum(), len(manifest))

    return Stage(
        name,
        config.fisher.to_dict() | {"seed": config.seed},
        ("manifest", "idt"),
        run,
        by_video=("model.npz", "vectors.npz"),
    )


def _training_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    stage = config[name]
    inputs = ["manifest", *([stage.start] if stage.start else [])]
    depends: dict[str, Any] = {name: stage.to_dict(), "seed": config.seed}
    depends |= {k: config[k].to_dict() for k in ("clip", "model")}
    depends["epochs_scale"] = config.epochs_scale
    if stage.objective == "local_aggregation":
        depends["clusters"] = config.clusters.to_dict()
        inputs += ["fisher"] if stage.source in ("idt", "joint") else []

    def run(directory: Path) -> None:
        from vcjax import train

        manifest = workdirs.manifest(workdir)
        training = manifest.subset("train")
        train.pretrain(
            name,
            config,
            train=training,
            test=manifest.subset("test"),
            fisher=workdirs.fisher_vectors(workdir, training) if "fisher" in inputs else None,
            workdir=workdir,
        )

    return Stage(name, depends, tuple(inputs), run, together=True, by_video=("checkpoints",))


def _evaluate_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    inputs = tuple(config.stages[: config.stages.index(name)])
    depends = {k: config[k].to_dict() for k in ("evaluation", "clusters", "clip", "model")}

    def run(directory: Path) -> None:
        from vcjax import evaluation

        manifest = workdirs.manifest(workdir)
        models = {"scratch": workdirs.network(config, workdir, "")}
        models |= {
            model_name(s, config): workdirs.network(config, workdir, s)
            for s in inputs
            if s in (*settings.TRAINING_STAGES, "supervised")
        }
        report = evaluation.evaluate(
            manifest,
            _outputs(models, manifest, config),
            _idt_outputs(workdir, manifest, config) if "fisher" in inputs else None,
            group=group_column(config, manifest),
            seed=config.seed,
            directory=directory,
            dataset=_dataset(config),
            seconds=stage_cache.seconds(workdir, inputs),
            probing=workdirs.probing(config),
        )
        print(evaluation.table(report))
        print(f"report: {workdir / 'report.json'}   clusters: {directory / 'index.html'}")

    depends |= {"seed": config.seed}
    return Stage(name, depends, inputs, run, beside=("report.json",))


def _svm_stage(name: str, config: ConfigDict, workdir: Path) -> Stage:
    if config.fisher.sketch_dim and len(config.fisher.descriptors) > 1:
        raise settings.SettingsError(
            "svm tells descriptors apart: set --config.fisher.sketch_dim=0"
        )
    depends = {"svm": config.svm.to_dict(), "clusters": config.clusters.to_dict()}

    def run(directory: Path) -> None:
        import fisher
        from vcjax import evaluation, prior

        manifest = workdirs.manifest(workdir)
        group = group_column(config, manifest)
        if config.svm.leave_groups_out and not group:
            raise settings.SettingsError("svm.leave_groups_out needs --config.data.group=COLUMN")
        model = fisher.Model.load(workdir / "fisher" / "model.npz")
        found = workdirs.fisher_vectors(workdir, manifest)
        vectors = prior.apart(model, found.vectors)
        rows = slice(None) if config.svm.leave_groups_out else manifest.rows("train")
        report = evaluation.evaluate_baseline(
            manifest,
            vectors,
            found.has_vector,
            {k: _cluster(v[rows], found.has_vector[rows], config) for k, v in vectors.items()},
            group=group,
            leave_groups_out=config.svm.leave_groups_out,
            penalty=config.svm.penalty,
            seed=config.seed,
            dataset=_dataset(config),
        )
        evaluation.write(report, workdir / "report.json")
        print(evaluation.table(report))
        print(f"report: {workdir / 'report.json'}")

    depends |= {"seed": config.seed}
    return Stage(name, depends, ("manifest", "fisher"), run, beside=("report.json",))


def model_name(stage: str, config: ConfigDict) -> str:
    """What a training stage's result is called in the report: ir, la, la_idt, la_idt_tune."""
    aggregation = "la_idt" if config.la.source == "idt" else "la"
    if stage == "supervised":
        return stage
    return {"ir": "ir", "la_own": "la", "la": aggregation, "tune": f"{aggregation}_tune"}[stage]


def _outputs(models: dict[str, Any], manifest: Manifest, config: ConfigDict) -> dict[str, Any]:
    """Each model's embeddings of all videos, and K-means of the training videos' embeddings."""
    from vcjax import evaluation

    embedded = workdirs.embedded(models, manifest, config)
    training = manifest.rows("train")
    return {
        name: evaluation.ModelOutputs(
            embedding, pooled, _cluster(embedding[training], None, config)
        )
        for name, (embedding, pooled) in embedded.items()
    }


def _idt_outputs(workdir: Path, manifest: Manifest, config: ConfigDict) -> Any:
    from vcjax import evaluation

    vectors = workdirs.fisher_vectors(workdir, manifest)
    training = vectors.of(manifest.subset("train").video_ids)
    labels = _cluster(training.vectors, training.has_vector, config)
    return evaluation.IdtOutputs(vectors.vectors, vectors.has_vector, labels)


def _cluster(points: np.ndarray, has_point: np.ndarray | None, config: ConfigDict) -> np.ndarray:
    from vcjax.clustering import kmeans

    num_points = len(points) if has_point is None else int(has_point.sum())
    count = settings.num_clusters(config.clusters.num_clusters, num_points)
    seeds = [config.clusters.seed + run for run in range(config.clusters.num_runs)]
    runs = kmeans.fit_runs(
        points,
        seeds=seeds,
        num_clusters=count,
        num_iterations=config.clusters.num_iterations,
        known=has_point,
    )
    return np.asarray(runs.labels)


def _dataset(config: ConfigDict) -> str:
    rendered = config.data.rendered.num_videos
    return f"rendered ({rendered})" if rendered else Path(config.data.manifest).name


_BUILDERS: dict[str, Callable[[str, ConfigDict, Path], Stage]] = {
    "manifest": _manifest_stage,
    "idt": _idt_stage,
    "fisher": _fisher_stage,
    **dict.fromkeys(settings.TRAINING_STAGES, _training_stage),
    **dict.fromkeys(settings.FINETUNING_STAGES, transfer_stages.finetune_stage),
    "few_shot": transfer_stages.few_shot_stage,
    "evaluate": _evaluate_stage,
    "svm": _svm_stage,
}
