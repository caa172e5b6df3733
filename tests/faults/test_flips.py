"""Any bit of what a run left may be flipped; VCJAX_FLIPS says how many are (default 40).

What is read then is an error of one line, or what was written; never anything else.
"""

import collections
import os
import random
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vcjax.data import manifest as manifests
from vcjax.data import prepare, shards, video
from vcjax.idt import collection as trajectories
from vcjax.idt import storage
from vcjax.ingest.collection import Collection
from vcjax.runtime import checkpoint_files, stage_record

NUM_FLIPS = int(os.environ.get("VCJAX_FLIPS", "40"))


@pytest.fixture
def run(finished, tmp_path):
    """Return a run's folder with prepared shards, and trajectories of three videos."""
    run = shutil.copytree(finished, tmp_path / "run")
    prepared(run)
    videos = manifests.load(run / "manifest" / "manifest.tsv").take(range(3))
    paths = dict(zip(videos.video_ids, videos.paths, strict=True))
    how = dict(matcher="flow", people=None, num_workers=1, on_error="error")
    trajectories.extract_collection(paths, run / "idt", **how)
    return run


def prepared(run):
    how = dict(side=16, codec="jpeg", videos_per_shard=4, num_workers=1, on_error="error")
    found, _ = prepare.prepare(
        manifests.load(run / "manifest" / "manifest.tsv"), run / "prepared", **how
    )
    return [np.array((found.video_ids, found.paths, found.num_frames))]


def checked(run, stage):
    """Goes on where the run, started again, would not make anything anew."""
    stage_record.check(run / stage)


def read_checkpoint(run):
    newest = checkpoint_files.committed(run / "ir" / "checkpoints")[0]
    if found := checkpoint_files.damaged(newest):
        raise ValueError(f"{found[0]}: damaged")
    with ocp.StandardCheckpointer() as checkpointer:
        return list(map(np.asarray, jax.tree.leaves(checkpointer.restore(newest / "state"))))


def read_record(run):
    found = stage_record.read(run / "ir")  # the one before, if damaged, of the same run
    return [np.array([found["fingerprint"], str(found["settings"]), str(found["inputs"])])]


def read_vectors(run):
    checked(run, "fisher")
    collection = Collection.open(run / "ingest" / "collection")
    (variant,) = collection.variants()
    found = collection.fisher_vectors(variant, collection.manifest().video_ids)
    return [np.array(found.video_ids), found.vectors, found.has_vector]


def read_collection(run):
    """Return the frames; raise if the stage would find damage in them."""
    shards._reader.cache_clear()
    collection = Collection.open(run / "ingest" / "collection")
    if found := list(collection.damaged(collection.variants())):
        raise ValueError(f"{found[0]}: damaged")
    found = collection.manifest()
    return [np.stack(list(video.frames(path))) for path in found.paths] + [
        np.array((found.video_ids, found.num_frames, *found.labels.values()))
    ]


def read_labels(run):
    checked(run, "manifest")
    found = manifests.load(run / "manifest" / "manifest.tsv")
    return [np.array((found.video_ids, found.split, *found.labels.values()))]


def read_trajectories(run):
    return [x for path in sorted((run / "idt").glob("*.parquet")) for x in storage.read(path)]


def read_shards(run):
    shards._reader.cache_clear()
    found = manifests.read(run / "prepared")
    return [np.stack(list(video.frames(path))) for path in found.paths] + [
        np.array((found.video_ids, found.num_frames, *found.labels.values()))
    ]


# what is flipped, what reads it
KINDS = {
    "checkpoints": ("ir/checkpoints/2/**/*", read_checkpoint),
    "stage records": ("ir/stage.json", read_record),
    "vectors": ("ingest/collection/vectors/*/*.npz", read_vectors),
    "models": ("ingest/collection/models/*.json", read_vectors),
    "frames": ("ingest/collection/parts/*", read_collection),
    "index of frames": ("ingest/collection/index.tsv*", read_collection),
    "labels": ("manifest/manifest.tsv", read_labels),
    "trajectories": ("idt/*.parquet", read_trajectories),
    "shards": ("prepared/*.array_record", read_shards),
    "index of shards": ("prepared/index.tsv*", read_shards),
    "records of shards": ("prepared/*.json", prepared),
}


def outcome(read, run, expected):
    try:
        found = read(run)
    except (ValueError, OSError) as error:
        assert str(error) and "\n" not in str(error)
        return "detected"
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    return "harmless"


@pytest.mark.slow
def test_a_flipped_bit_is_detected_or_harmless(run, caplog):
    generator = random.Random(0)
    expected = {kind: read(run) for kind, (_, read) in KINDS.items()}
    counts = {kind: collections.Counter() for kind in KINDS}
    for number in range(NUM_FLIPS):
        kind = list(KINDS)[number % len(KINDS)]
        pattern, read = KINDS[kind]
        files = [path for path in sorted(run.glob(pattern)) if path.is_file()]
        # every file, and every byte of them all, has its turn
        sizes = [path.stat().st_size if number % 3 else 1 for path in files]
        path = generator.choices(files, sizes)[0]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        caplog.clear()
        came = outcome(read, run, expected[kind])
        counts[kind]["detected" if caplog.records else came] += 1
        path.write_bytes(content)
    for kind, count in counts.items():
        print(f"{kind}: {count['detected']} detected, {count['harmless']} harmless")
    assert counts["vectors"]["detected"] and counts["shards"]["detected"]
