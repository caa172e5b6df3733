import grain
import numpy as np
import pytest

from vcjax.data import __main__ as command
from vcjax.data import clips, manifest, prepare, shards, video


def prepared(collection, out, **changed):
    how = dict(side=32, codec="jpeg", videos_per_shard=4, num_workers=1, on_error="error")
    return prepare.prepare(collection, out, **how | changed)


@pytest.mark.parametrize("codec", shards.CODECS)
def test_a_prepared_video_is_the_video_smaller(collection, tmp_path, codec):
    found, problems = prepared(collection, tmp_path, side=48, codec=codec)
    assert not problems
    assert (found.video_ids, found.num_frames) == (collection.video_ids, collection.num_frames)
    assert found.labels == collection.labels
    for place, path in zip(found.paths, collection.paths, strict=True):
        ours, theirs = (np.stack(list(video.frames(p))).astype(int) for p in (place, path))
        assert ours.shape == theirs.shape
        own = np.abs(ours - theirs).mean(axis=(1, 2, 3))
        others = np.abs(ours[1:] - theirs[:-1]).mean(axis=(1, 2, 3))
        assert own.max() < 12 < others.min()  # each frame is that frame and no other
        assert video.probe(place, decode=True).num_frames == len(theirs)


@pytest.mark.parametrize(
    "start, num_frames, stride", [(0, 4, 1), (13, 6, 1), (3, 5, 2), (30, 20, 3)]
)
def test_a_clip_is_cut_as_from_the_file(write_video, tmp_path, start, num_frames, stride):
    write_video(tmp_path / "in" / "a.mp4", 37)  # three chunks
    found, _ = prepared(manifest.read(tmp_path / "in"), tmp_path / "out", side=48)
    whole = np.stack(list(video.frames(found.paths[0])))
    wanted = whole[[i % 37 for i in range(start, start + num_frames * stride, stride)]]
    got = video.clip(found.paths[0], start, num_frames, stride=stride)
    np.testing.assert_array_equal(got, wanted)


def test_chosen_frames_are_the_only_ones_decoded(write_video, tmp_path, monkeypatch):
    write_video(tmp_path / "in" / "a.mp4", 37)
    found, _ = prepared(manifest.read(tmp_path / "in"), tmp_path / "out", side=48)
    whole = list(video.frames(found.paths[0]))
    decoded, decode = [], shards.decode_picture
    monkeypatch.setattr(shards, "decode_picture", lambda x: decoded.append(x) or decode(x))
    chosen = list(video.frames_at(found.paths[0], [2, 16, 36, 40]))
    assert [index for index, _ in chosen] == [2, 16, 36] and len(decoded) == 3
    for index, frame in chosen:
        np.testing.assert_array_equal(frame, whole[index])
    of_the_file = dict(video.frames_at(tmp_path / "in" / "a.mp4", [2, 16, 36, 40]))
    assert list(of_the_file) == [2, 16, 36]
    assert not list(video.frames_at(found.paths[0], [40]))


def test_training_reads_the_folder_with_any_number_of_workers(collection, tmp_path):
    prepared(collection, tmp_path)
    how = dict(num_frames=4, side=24, scales=(1.0,), batch_size=4, num_epochs=1, seed=0)
    dataset = clips.training_clips(manifest.read(tmp_path), **how)
    here, there = (list(clips.iterate(dataset, num_workers=n, num_threads=1)) for n in (0, 1))
    plain = list(
        clips.iterate(clips.training_clips(collection, **how), num_workers=0, num_threads=1)
    )
    assert len(here) == len(there) == 2
    for a, b, c in zip(here, there, plain, strict=True):
        np.testing.assert_array_equal(a["clip"], b["clip"])
        np.testing.assert_array_equal(a["index"], c["index"])
        assert np.abs(a["clip"].astype(int) - c["clip"]).mean() < 12


def test_grain_reads_the_shards(collection, tmp_path):
    found, _ = prepared(collection, tmp_path)
    source = grain.sources.ArrayRecordDataSource(sorted(map(str, tmp_path.glob("*.array_record"))))
    assert len(source) == len(found)  # videos of up to a chunk
    assert source[3][:4] == b"JPEG"


def test_only_a_shard_whose_video_changed_is_written_again(write_video, tmp_path):
    for i in range(4):
        write_video(tmp_path / "in" / f"v{i}.mp4", 5)
    run = lambda: prepared(manifest.read(tmp_path / "in"), tmp_path / "out", videos_per_shard=2)[0]  # noqa: E731
    run()
    times = lambda: [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("out/*.array_record"))]  # noqa: E731
    first = times()
    run()
    assert times() == first
    write_video(tmp_path / "in" / "v3.mp4", 7)
    assert run().num_frames == (5, 5, 5, 7)
    assert times()[0] == first[0] and times()[1] != first[1]


def test_a_bad_file_is_an_error_or_left_out_and_listed(write_video, tmp_path, capsys):
    for i in range(3):
        path = write_video(tmp_path / "in" / f"v{i}.avi", 30, codec="mpeg4")
    path.write_bytes(path.read_bytes()[:0])
    arguments = ["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--num_workers=1"]
    with pytest.raises(SystemExit, match="(?s)1 of 3 videos.*v2.avi: the file is empty"):
        command.main(arguments)
    assert not (tmp_path / "out" / "index.tsv").exists()
    command.main([*arguments, "--on_error=skip"])
    assert manifest.read(tmp_path / "out").video_ids == ("v0", "v1")
    assert "v2" in (tmp_path / "out" / "problems.tsv").read_text()
    assert "3 videos, about" in capsys.readouterr().out


def test_the_size_is_told_about_right(write_video, tmp_path):
    for i in range(6):
        write_video(tmp_path / "in" / f"v{i}.mp4", 40, phase=i)
    read = manifest.read(tmp_path / "in")
    prepared(read, tmp_path / "out")
    written = sum(p.stat().st_size for p in tmp_path.glob("out/*.array_record"))
    expected = prepare.expected_bytes(read, side=32, codec="jpeg", videos_per_shard=4)
    assert 0.75 < expected / written < 1.25
