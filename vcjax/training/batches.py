"""Batches of training clips, on the devices, starting at any step."""

from collections.abc import Iterator
from pathlib import Path

import grain
import jax
from ml_collections import ConfigDict

from vcjax.data import clips, decoder_crashes
from vcjax.data.manifest import Manifest
from vcjax.data.read_marks import Marks
from vcjax.runtime import sharding
from vcjax.training.step import Batch


def training_batches(
    name: str,
    config: ConfigDict,
    train: Manifest,
    num_epochs: int,
    first: int,
    devices: jax.sharding.Mesh,
    workdir: Path,
) -> Iterator[Batch]:
    """Yield the batches from step `first` on, each array split over the devices by rows.

    Each process reads its own share of a batch. Videos that cannot be decoded or that crash the
    decoder are replaced by other videos.

    Args:
      name: a section of `config`, or a part of it as STAGE/PART.
      config: the settings of the run.
      train: the training videos, by row of the bank.
      num_epochs: number of epochs from step 0 to the last batch.
      first: number of steps to skip.
      devices: the mesh of devices.
      workdir: folder of the run, for the list of excluded videos.
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
        # Row for row, the parts of all processes are the batch that a single process reads.
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
