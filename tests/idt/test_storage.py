import os

import numpy as np
import pytest
from pyarrow import parquet

from vcjax.idt import storage
from vcjax.idt.trajectories import COLUMNS, Trajectories


@pytest.fixture
def trajectories():
    generator = np.random.default_rng(0)
    return Trajectories(*(generator.random((7, w)).astype(np.float32) for w in COLUMNS.values()))


def test_what_is_written_is_read(tmp_path, trajectories):
    path = tmp_path / "v.parquet"
    storage.write(path, trajectories, source={"size": 3, "settings": {"grid": 5}})
    stored, (_, source) = storage.read(path), storage.inspect(path)
    assert source == {"size": 3, "settings": {"grid": 5}}
    np.testing.assert_array_equal(stored.header, trajectories.header)
    np.testing.assert_array_equal(stored.trajectory, trajectories.trajectory)
    for name in ("hog", "hof", "mbhx", "mbhy"):  # float16 in the file
        assert getattr(stored, name).dtype == np.float32
        np.testing.assert_allclose(getattr(stored, name), getattr(trajectories, name), atol=2.5e-4)
    assert os.listdir(tmp_path) == ["v.parquet"]


def test_no_rows_are_read_as_no_rows(tmp_path):
    storage.write(tmp_path / "v.parquet", Trajectories.empty())
    assert storage.read(tmp_path / "v.parquet").features.shape == (0, 426)


def test_no_flipped_bit_is_read_as_something_else(tmp_path, trajectories):
    path = tmp_path / "v.parquet"
    storage.write(path, trajectories, source={"size": 3})
    intact, content = storage.read(path), path.read_bytes()
    num_detected = 0
    places = np.random.default_rng(0).integers(8 * len(content), size=400)
    for place in places.tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        try:
            stored = storage.read(path)
        except storage.StorageError as error:
            assert "v.parquet" in str(error)
            num_detected += 1
        else:  # a part of the footer that is not needed, such as the name of the writer
            np.testing.assert_array_equal(stored.features, intact.features)
    assert num_detected > 300


@pytest.mark.parametrize("size", [0, 100, -30])
def test_a_cut_file_is_found(tmp_path, trajectories, size):
    path = tmp_path / "v.parquet"
    storage.write(path, trajectories)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(storage.StorageError, match="v.parquet"):
        storage.read(path)


@pytest.mark.parametrize("first, last", [(3, 4), (0, 7), (6, 7)])
def test_a_changed_array_in_a_sound_file_is_found(tmp_path, trajectories, first, last):
    path = tmp_path / "v.parquet"
    storage.write(path, trajectories)
    hog = trajectories.hog.copy()
    hog[first:last] = trajectories.hof[first:last, :96]
    properties = parquet.read_metadata(path).metadata
    with parquet.ParquetWriter(path, storage._SCHEMA) as writer:
        writer.write_table(storage._table(trajectories._replace(hog=hog)))
        writer.add_key_value_metadata(properties)
    for read in (storage.read, storage.inspect):
        with pytest.raises(storage.StorageError, match="v.parquet: damaged .*checksums"):
            read(path)


@pytest.mark.parametrize("change", ["columns", "properties"])
def test_other_parquet_files_are_refused(tmp_path, trajectories, change):
    path = tmp_path / "v.parquet"
    storage.write(path, trajectories)
    table = parquet.read_table(path)
    if change == "columns":
        table = table.set_column(2, "hog", table.column("hof"))
    else:
        table = table.replace_schema_metadata({"properties": "{}", "crc32": "1"})
    parquet.write_table(table, path)
    with pytest.raises(storage.StorageError, match="v.parquet: damaged"):
        storage.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(storage.StorageError, match="v.parquet: no such file"):
        storage.read(tmp_path / "v.parquet")


def test_every_id_has_a_file_of_its_own_within_the_folder(tmp_path):
    ids = ["a", "A", "a/b", "a%2Fb", "a_b", "..", ".", "", "../a", "/a", "a b", "ä", "片", "\udcff"]
    ids += ["x" * 3000, "x" * 3001, "a\0", "a\n"]
    paths = {storage.path_of(tmp_path, video_id) for video_id in ids}
    assert len({str(path).lower() for path in paths}) == len(ids)
    for path in paths:
        assert path.resolve().parent == tmp_path.resolve() and len(os.fsencode(path.name)) < 200
        storage.write(path, Trajectories.empty())


def test_frames_are_read_as_written_at_once_however_they_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_GROUP_ROWS", 7)
    generator = np.random.default_rng(0)
    rows = Trajectories(*(generator.random((50, w), np.float32) for w in COLUMNS.values()))
    rows.header[:, 9] = np.sort(generator.integers(0, 40, 50)) - 7.5
    cuts = [0, 20, 20, 21, 50]
    frames = [
        Trajectories(*(array[a:b] for array in rows)) for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    assert storage.write_frames(tmp_path / "a.parquet", iter(frames), source={"size": 3}) == 50
    expected = rows.header.copy()
    expected[:, 9] = np.clip(rows.header[:, 9] / 4, 0, 0.999)  # of four frames
    storage.write(tmp_path / "b.parquet", rows._replace(header=expected), source={"size": 3})
    for stored in zip(*(storage.read(tmp_path / f"{x}.parquet") for x in "ab"), strict=True):
        np.testing.assert_array_equal(*stored)
    for name in "ab":
        assert storage.inspect(tmp_path / f"{name}.parquet") == (50, {"size": 3})
    blocks = list(storage.read_blocks(tmp_path / "a.parquet"))
    assert [block.num_rows for block in blocks] == [7, 7, 6, 7, 7, 7, 7, 2]
    np.testing.assert_array_equal(
        np.concatenate([block.features for block in blocks]),
        storage.read(tmp_path / "a.parquet").features,
    )


def test_a_failed_write_leaves_what_was_there(tmp_path, trajectories):
    def frames():
        yield trajectories
        raise OSError("the video ends here")

    storage.write(tmp_path / "v.parquet", Trajectories.empty())
    with pytest.raises(OSError, match="ends here"):
        storage.write_frames(tmp_path / "v.parquet", frames())
    assert (
        os.listdir(tmp_path) == ["v.parquet"] and storage.read(tmp_path / "v.parquet").num_rows == 0
    )


def test_the_columns_are_read_by_pyarrow(tmp_path, trajectories):
    storage.write(tmp_path / "v.parquet", trajectories)
    stored = parquet.read_table(tmp_path / "v.parquet").column("hof").to_pylist()
    np.testing.assert_array_equal(
        np.array(stored, np.float32), storage.read(tmp_path / "v.parquet").hof
    )
