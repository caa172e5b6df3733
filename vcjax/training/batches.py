"""The clips of this process, batch by batch, from any step on."""

from collections.abc import Iterator
from pathlib import Path

import grain
import jax
from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import clips, decoder_crashes
from vcjax.data.manifest import Manifest
from vcjax.data.read_marks import Marks
from vcjax.runtime import sharding
from vcjax.training.step import Batch


def num_steps_per_epoch(name: str, stage: ConfigDict, num_videos: int) -> int:
    """Whole batches among `num_videos`. Raises SettingsError for none, or uneven devices."""
    if stage.batch_size > num_videos:
        raise settings.SettingsError(
            f"a batch of {stage.batch_size} needs as many training videos, and there are "
            f"{num_videos}; set --config.{name}.batch_size"
        )
    parts = stage.get("accumulation_steps", 1)
    if stage.batch_size % (jax.device_count() * parts):
        in_parts = f" in {parts} parts" if parts > 1 else ""
        raise settings.SettingsError(
            f"a batch of {stage.batch_size}{in_parts} does not divide among {jax.device_count()} "
            f"devices; set --config.{name}.batch_size"
        )
    return num_videos // stage.batch_size


def training_batches(
    name: str,
    config: ConfigDict,
    train: Manifest,
    num_epochs: int,
    first: int,
    devices: jax.sharding.Mesh,
    workdir: Path,
) -> Iterator[Batch]:
    """Batches from step `first` on, each array split over the devices, each process its part.

    `name` is a stage of `config`, or a part STAGE/PART of one.
    """
    stage, num_parts = config[name.split("/")[0]], jax.process_count()

    def dataset(excluded: frozenset[int], marks: Marks) -> grain.MapDataset:
        parts = clips.training_clips(
            train,
            num_frames=config.clip.num_frames,
            stride=config.clip.stride,
            side=config.clip.side,
            scales=stage.scales if "scales" in stage else config.clip.scales,
            batch_size=stage.batch_size // num_parts,
            num_epochs=1,
            seed=config.seed,
            excluded=excluded,
            marks=marks,
        )
        # a batch is that of one process, cut: row for row the same for any number of them
        num_whole = len(train) // stage.batch_size * num_parts
        own = parts[:num_whole][jax.process_index() :: num_parts]
        return own.repeat(num_epochs)[first:]

    rows = sharding.rows(devices)
    batches = decoder_crashes.skip_crashing_videos(
        dataset,
        train,
        listed=workdir / "excluded_videos.tsv",
        marks=workdir / name / f"reading.{jax.process_index()}",
        num_workers=config.data.num_workers,
        num_threads=config.data.num_threads,
    )
    for batch in clips.limit_bad_videos(
        batches, train, max_corrupt_fraction=config.data.max_corrupt_fraction
    ):
        yield {k: jax.make_array_from_process_local_data(rows, v) for k, v in batch.items()}
