"""The stage `fisher`: PCA, mixture, and one Fisher vector per video (Sec. 3.3)."""

import logging
from pathlib import Path

from ml_collections import ConfigDict

import fisher
from vcjax.data import splits
from vcjax.idt import fisher_vectors, storage
from vcjax.pipeline import workdir as workdirs
from vcjax.runtime import previous_result, stage_record
from vcjax.runtime.stage_cache import Stage

log = logging.getLogger(__name__)


def fisher_stage(name: str, config: ConfigDict, workdir: Path, videos: workdirs.Videos) -> Stage:
    """Return the stage that writes the model to `model.npz` and each p(psi) to `vectors.npz`.

    If few videos have changed, the model and the vectors of unchanged videos are kept.
    """

    def run(directory: Path) -> None:
        manifest = workdirs.manifest(workdir)
        stored = fisher_vectors.reusable(directory, workdir / "idt")
        share = config.data.max_changed_share
        try:
            if splits.mostly_unchanged(stored.video_ids, manifest.video_ids, max_share=share):
                model = fisher.Model.load(directory / "model.npz")
            else:
                # encoded with the old model
                previous_result.set_part_aside(directory / "vectors.npz")
                fitted = manifest if config.fisher.fit_split == "all" else manifest.subset("train")
                ids, seed = fitted.video_ids, config.seed
                model = fisher_vectors.fit(ids, workdir / "idt", config.fisher, seed=seed)
                model.save(directory / "model.npz")
                stored = stored.of(())
            vectors = fisher_vectors.encode(
                model,
                manifest.video_ids,
                workdir / "idt",
                variant=config.fisher.variant,
                stored=stored,
            )
        except storage.StorageError as error:
            stage_record.reopen(workdir, "idt")
            raise stage_record.StageError(f"{error}; run again to extract it again") from error
        vectors.save(directory / "vectors.npz")
        log.info("fisher: %d of %d videos have a vector", vectors.has_vector.sum(), len(manifest))

    return Stage(
        name,
        config.fisher.to_dict() | {"seed": config.seed},
        ("manifest", "idt"),
        run,
        by_video=("model.npz", "vectors.npz"),
        section="fisher",
    )
