"""The order of a thousand clips, read from shards: by any number of workers, hosts, restarts."""

import zlib

import jax
import numpy as np
import pytest

from vcjax import settings
from vcjax.data import clips, manifest, prepare
from vcjax.runtime import sharding
from vcjax.training import batches

NUM_CLIPS = 1000
BATCH = 8


@pytest.fixture(scope="module")
def videos(collection, tmp_path_factory) -> manifest.Manifest:
    """A thousand rows, of the same few videos."""
    folder = tmp_path_factory.mktemp("shards")
    how = dict(side=16, codec="jpeg", num_workers=1, on_error="error")
    prepared, _ = prepare.prepare(collection, folder, **how)
    return prepared.take([row % len(prepared) for row in range(NUM_CLIPS)])


@pytest.fixture(scope="module")
def dataset(videos):
    how = dict(num_frames=4, side=16, scales=(1.0, 0.7), batch_size=BATCH, num_epochs=2, seed=0)
    return clips.training_clips(videos, **how)


def listed(batches, num_clips=NUM_CLIPS):
    """Row, key and checksum of the pixels of each clip in order."""
    found = []
    for batch in batches:
        pixels = [zlib.crc32(clip.tobytes()) for clip in batch["clip"]]
        found += zip(batch["index"].tolist(), batch["key"].tolist(), pixels, strict=True)
        if len(found) >= num_clips:
            return found
    return found


def read(dataset, num_workers):
    return clips.iterate(dataset, num_workers=num_workers, num_threads=2)


@pytest.fixture(scope="module")
def expected(dataset):
    return listed(dataset[step] for step in range(NUM_CLIPS // BATCH))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_do_not_matter(dataset, expected, num_workers):
    assert len(expected) == NUM_CLIPS
    assert listed(read(dataset, num_workers)) == expected


@pytest.mark.parametrize("before, after", [(0, 0), (2, 1)])
def test_nor_does_going_on_from_the_middle_with_other_workers(dataset, expected, before, after):
    step = 57
    first = listed(read(dataset, before), step * BATCH)
    assert len(first) == step * BATCH
    rest = listed(read(dataset[step:], after), NUM_CLIPS - len(first))
    assert first + rest == expected


def test_two_hosts_together_see_every_video_once_an_epoch(videos, monkeypatch, tmp_path):
    config = settings.apply_variants(settings.paper(), "smoke")
    config.clip.num_frames, config.clip.side = 4, 16
    config.ir.batch_size = BATCH
    monkeypatch.setattr(jax, "make_array_from_process_local_data", lambda rows, values: values)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    seen = []
    for host in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        read = batches.training_batches("ir", config, videos, 2, 0, sharding.make(1), tmp_path)
        seen.append([batch["index"] for batch in read])
    for epoch in (0, 1):
        steps = slice(epoch * NUM_CLIPS // BATCH, (epoch + 1) * NUM_CLIPS // BATCH)
        rows = np.concatenate([np.concatenate(host[steps]) for host in seen])
        assert sorted(rows.tolist()) == list(range(NUM_CLIPS))
    assert not np.array_equal(seen[0][: NUM_CLIPS // BATCH], seen[0][NUM_CLIPS // BATCH :])
