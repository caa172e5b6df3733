"""One pass over every video: shards, vectors and boxes, however the work is divided."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from fisher.vectors import FisherVectors
from vcjax.data import manifest as manifests
from vcjax.data import video
from vcjax.data.manifest import ManifestError
from vcjax.idt import collection as trajectories
from vcjax.idt import detection, fisher_vectors, people, storage
from vcjax.ingest.collection import Pictures
from vcjax.ingest.plan import Shard
from vcjax.settings import paper


def content(root):
    """Return the bytes of all files of a collection by name."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def in_two_passes(videos, folder, variant):
    """Return (model, vectors) from trajectory files of all videos."""
    paths = dict(zip(videos.video_ids, videos.paths, strict=True))
    boxes = variant.extraction.people or None
    trajectories.extract_collection(
        paths, folder, matcher="flow", people=boxes, num_workers=1, on_error="error"
    )
    section = paper().fisher
    section.update(variant.fisher)
    model = fisher_vectors.fit(
        videos.video_ids, fisher_vectors.stored_features(folder), section, seed=variant.seed
    )
    return fisher_vectors.encode(model, videos.video_ids, folder, variant="paper")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_vectors_are_those_of_two_passes(videos, variant, run, tmp_path, num_workers):
    collection = run(videos, tmp_path / "c", [variant()], num_workers=num_workers)
    expected = in_two_passes(videos, tmp_path / "idt", variant())
    actual = collection.fisher_vectors(variant(), videos.video_ids)
    assert actual.has_vector.all() and expected.has_vector.all()
    np.testing.assert_allclose(actual.vectors, expected.vectors, atol=1e-5)
    assert not (tmp_path / "c" / "staging").exists()
    assert not list((tmp_path / "c").rglob("*trajectories*"))


@pytest.mark.slow
def test_every_video_is_decoded_once_for_all_results(videos, variant, run, tmp_path, read):
    variants = [variant(), variant(**{"fisher.descriptors": ("hof", "mbh")}),
                variant(**{"idt.detector": "hog"})]  # fmt: skip
    together = run(videos, tmp_path / "c", variants)
    assert sorted(read) == sorted(videos.paths)
    for number, one in enumerate(variants):
        alone = run(videos, tmp_path / f"alone{number}", [one])
        np.testing.assert_array_equal(
            alone.fisher_vectors(one, videos.video_ids).vectors,
            together.fisher_vectors(one, videos.video_ids).vectors,
        )
    read.clear()
    run(videos, tmp_path / "c", variants)
    assert not read


def test_frames_are_those_of_the_videos_at_reduced_size(videos, run, tmp_path):
    collection = run(videos, tmp_path / "c", [])
    stored = collection.manifest()
    assert stored.video_ids == videos.video_ids and stored.labels == videos.labels
    assert stored.num_frames == (18,) * 7
    for path, original in zip(stored.paths, videos.paths, strict=True):
        frames, expected = (
            np.stack(list(video.frames(path))),
            np.stack(list(video.frames(original))),
        )
        assert frames.shape == (18, 48, 64, 3)
        halved = expected.reshape(18, 48, 2, 64, 2, 3).mean(axis=(2, 4))
        assert np.abs(frames - halved).mean() < 3


def test_shards_of_two_machines_make_the_collection_of_one(videos, variant, run, tmp_path):
    one = run(videos, tmp_path / "one", [variant()])
    assert one.num_parts == 3
    for number in (1, 0):
        with_index = (tmp_path / "two" / "index.tsv").exists()
        run(videos, tmp_path / "two", [variant()], shard=Shard(number, 2))
        assert not with_index
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_another_variant_reads_the_videos_and_encodes_no_frame_again(
    videos, variant, run, tmp_path, read
):
    run(videos, tmp_path / "c", [])
    frames = {k: v for k, v in content(tmp_path / "c").items() if k.startswith("parts/")}
    read.clear()
    collection = run(videos, tmp_path / "c", [variant()])
    assert sorted(read) == sorted(videos.paths)
    after = content(tmp_path / "c")
    assert {k: v for k, v in after.items() if k.startswith("parts/")} == frames
    alone = run(videos, tmp_path / "alone", [variant()])
    assert content(alone.root) == content(collection.root)


def test_only_changed_new_and_vanished_videos_are_brought_up_to_date(
    videos, variant, run, tmp_path, read, write_moving
):
    root = tmp_path / "c"
    before = run(videos, root, [variant()]).fisher_vectors(variant(), videos.video_ids)
    folder = tmp_path / "videos" / "class0"
    changed = write_moving(folder / "v2.avi", seed=20)
    new = write_moving(folder / "v9.avi", seed=21, num_frames=20)
    (folder / "v4.avi").unlink()
    later = manifests.read(tmp_path / "videos")
    read.clear()
    collection = run(later, root, [variant()])
    assert sorted(read) == [str(changed), str(new)]
    assert collection.manifest().video_ids == later.video_ids
    assert (
        dict(zip(later.video_ids, collection.manifest().num_frames, strict=True))["class0/v9"] == 20
    )
    after = collection.fisher_vectors(variant(), later.video_ids)
    both = [i for i in later.video_ids if i in videos.video_ids]
    same = (before.of(both).vectors == after.of(both).vectors).all(axis=1)
    assert [i for i, is_same in zip(both, same, strict=True) if not is_same] == ["class0/v2"]
    frames = list(video.frames(collection.manifest().paths[later.video_ids.index("class0/v2")]))
    expected = np.stack(list(video.frames(changed)))
    halved = expected.reshape(18, 48, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(np.stack(frames) - halved).mean() < 3


def test_a_run_that_reads_during_an_update_keeps_its_shards_until_the_next_one(
    videos, run, tmp_path
):
    old = run(videos, tmp_path / "c", []).manifest()
    run(videos.take(range(6)), tmp_path / "c", [])
    assert [len(list(video.frames(path))) for path in old.paths] == [18] * 7
    collection = run(videos.take(range(6)), tmp_path / "c", [])
    needed = {collection.record(part)["shard"] for part in range(collection.num_parts)}
    assert {p.name for p in (tmp_path / "c" / "parts").glob("*.array_record")} == needed


def test_frames_of_another_size_replace_the_frames_alone(videos, variant, run, tmp_path, read):
    run(videos, tmp_path / "c", [variant()])
    vectors = {k: v for k, v in content(tmp_path / "c").items() if k.startswith("vectors/")}
    read.clear()
    collection = run(videos, tmp_path / "c", [variant()], pictures=Pictures(80, "jpeg"))
    assert sorted(read) == sorted(videos.paths)
    assert next(video.frames(collection.manifest().paths[0])).shape == (80, 106, 3)
    after = content(tmp_path / "c")
    assert {k: v for k, v in after.items() if k.startswith("vectors/")} == vectors


def test_another_listing_does_not_empty_a_shared_collection(videos, run, tmp_path):
    run(videos, tmp_path / "c", [])
    before = content(tmp_path / "c")
    with pytest.raises(ManifestError, match="5 of its 7 videos, such as .*, are not among the 2"):
        run(videos.take([0, 1]), tmp_path / "c", [])
    after = content(tmp_path / "c")
    assert {k: v for k, v in after.items() if not k.startswith("staging")} == before
    own = run(videos.take([0, 1]), tmp_path / "c", [], max_changed_share=0.1)
    assert len(own.manifest()) == 2


@pytest.mark.slow
def test_models_are_fitted_again_if_many_videos_changed(videos, variant, run, tmp_path):
    few, many, every = videos.take(range(4)), videos.take(range(6)), videos
    of = lambda collection: collection.model_digest(variant())  # noqa: E731
    first = of(run(few, tmp_path / "c", [variant()], max_changed_share=0.5))
    assert of(run(many, tmp_path / "c", [variant()], max_changed_share=0.5)) == first
    again = run(every, tmp_path / "c", [variant()], max_changed_share=0.5)
    fresh = run(every, tmp_path / "fresh", [variant()])
    assert of(again) == of(fresh) != first
    np.testing.assert_array_equal(
        again.fisher_vectors(variant(), every.video_ids).vectors,
        fresh.fisher_vectors(variant(), every.video_ids).vectors,
    )


def test_bad_videos_are_listed_and_tried_again_when_they_change(
    videos, variant, run, tmp_path, read, write_moving
):
    bad = tmp_path / "videos" / "class1" / "v3.avi"
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(ManifestError, match="1 of 7 videos cannot be used"):
        run(videos, tmp_path / "c", [variant()])
    collection = run(videos, tmp_path / "c", [variant()], on_error="skip")
    assert len(collection.manifest()) == 6
    assert "class1/v3" in (tmp_path / "c" / "problems.tsv").read_text()
    read.clear()
    run(videos, tmp_path / "c", [variant()], on_error="skip")
    assert not read
    write_moving(bad, seed=3)
    collection = run(videos, tmp_path / "c", [variant()])
    assert read == [str(bad)] and len(collection.manifest()) == 7


def test_missing_files_are_refused_before_any_is_decoded(videos, run, tmp_path, read):
    (tmp_path / "videos" / "class1" / "v3.avi").unlink()
    with pytest.raises(ManifestError, match="no such file"):
        run(videos, tmp_path / "c", [])
    assert not read and not (tmp_path / "c").exists()


@pytest.mark.slow
def test_detected_people_are_those_of_the_command_and_leave_the_same_vectors(
    videos, variant, run, tmp_path
):
    detected = variant(**{"idt.detector": "hog"})
    collection = run(videos, tmp_path / "c", [detected])
    paths = dict(zip(videos.video_ids, videos.paths, strict=True))
    detection.detect_collection(
        paths, tmp_path / "boxes", detection.Settings("hog"), num_workers=1, on_error="error"
    )
    given = variant(**{"idt.people": str(tmp_path / "boxes")})
    again = run(videos, tmp_path / "again", [given])
    np.testing.assert_array_equal(
        collection.fisher_vectors(detected, videos.video_ids).vectors,
        again.fisher_vectors(given, videos.video_ids).vectors,
    )
    for video_id in videos.video_ids:
        expected = people.path_of(tmp_path / "boxes", video_id).read_text()
        assert collection.boxes(detected.extraction.key, video_id) == expected


def test_a_changed_box_file_computes_the_vectors_of_its_video_again(
    videos, variant, run, tmp_path, read
):
    for video_id in videos.video_ids:
        path = people.path_of(tmp_path / "boxes", video_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{i}\n" for i in range(18)))
    given = variant(**{"idt.people": str(tmp_path / "boxes")})
    run(videos, tmp_path / "c", [given])
    read.clear()
    path = people.path_of(tmp_path / "boxes", "class0/v2")
    path.write_text("".join(f"{i} 10 10 60 80 1\n" for i in range(18)))
    run(videos, tmp_path / "c", [given])
    assert read == [videos.paths[videos.video_ids.index("class0/v2")]]


def test_kept_trajectories_are_those_of_the_extraction(videos, variant, run, tmp_path):
    run(videos, tmp_path / "c", [variant()], trajectories=tmp_path / "kept")
    in_two_passes(videos, tmp_path / "idt", variant())
    for video_id in videos.video_ids:
        kept = storage.path_of(tmp_path / "kept" / variant().extraction.key, video_id)
        actual = storage.read(kept)
        expected = storage.read(storage.path_of(tmp_path / "idt", video_id))
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_damaged_files_are_made_again(videos, variant, run, tmp_path, read):
    collection = run(videos, tmp_path / "c", [variant()])
    before = content(tmp_path / "c")
    path = collection.vectors_path(variant(), 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ManifestError, match="are missing or damaged; run `vcjax ingest` again"):
        collection.fisher_vectors(variant(), videos.video_ids)
    shard = collection.shard(collection.record(0))
    shard.write_bytes(shard.read_bytes()[:1000])
    read.clear()
    run(videos, tmp_path / "c", [variant()])
    assert 0 < len(read) < 7
    assert content(tmp_path / "c") == before


def test_results_do_not_depend_on_the_order_of_the_videos(videos, variant, run, tmp_path):
    collection = run(videos, tmp_path / "c", [variant()])
    before = content(tmp_path / "c")
    shutil.rmtree(tmp_path / "c")
    table = tmp_path / "videos.tsv"
    rows = [f"{p}\t{i}\t{v}" for p, i, v in
            zip(videos.paths, videos.video_ids, videos.labels["class"], strict=True)]  # fmt: skip
    table.write_text("\n".join(["path\tvideo_id\tclass", *reversed(rows)]) + "\n")
    again = run(replace(manifests.read(table)), tmp_path / "c", [variant()])
    assert content(again.root) == before
    assert isinstance(collection.fisher_vectors(variant(), videos.video_ids), FisherVectors)
