import numpy as np
import pytest

import fisher
from vcjax.idt import __main__ as command
from vcjax.idt import collection, direct_encoding, storage


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """File of a model of random rows."""
    rows = np.random.default_rng(0).gamma(1, 0.1, (400, 426)).astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "model.npz"
    fisher.Model.fit(rows, explained_variance=0.5, num_components=4, sketch_dim=64, seed=0).save(
        path
    )
    return path


HOW = {"matcher": "flow", "people": None, "num_workers": 1}


def run(videos, directory, model, *, variant="paper", on_error="error"):
    return direct_encoding.extract_vectors(
        videos, directory, model, variant=variant, on_error=on_error, **HOW
    )


def test_vectors_are_those_of_the_stored_trajectories(videos, write_gray, tmp_path, model):
    videos["still"] = str(write_gray("still", np.full((18, 64, 64), 90, np.uint8)))
    result = run(videos, tmp_path / "direct", model)
    collection.extract_collection(videos, tmp_path / "idt", on_error="error", **HOW)
    stored = [(i, storage.read(storage.path_of(tmp_path / "idt", i)).features) for i in videos]
    expected = fisher.Model.load(model).encode_collection(stored, variant="paper")
    assert result.video_ids == expected[0] == ("a/one", "two", "still")
    assert result.has_vector.tolist() == expected[2].tolist() == [True, True, False]
    # descriptors are stored with 11 bits
    np.testing.assert_allclose(result.vectors, expected[1], atol=2e-3)


def test_vectors_that_are_there_stay_until_their_model_changes(videos, tmp_path, model):
    directory = tmp_path / "direct"
    first = run(videos, directory, model)
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    np.testing.assert_array_equal(run(videos, directory, model).vectors, first.vectors)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    released = run(videos, directory, model, variant="released")
    assert not np.allclose(released.vectors, first.vectors)


def test_damaged_vectors_are_made_again(videos, tmp_path, model, caplog):
    first = run(videos, tmp_path / "direct", model)
    path = storage.path_of(tmp_path / "direct", "two").with_suffix(".npz")
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    np.testing.assert_array_equal(run(videos, tmp_path / "direct", model).vectors, first.vectors)
    assert "encoding its video again" in caplog.text


def test_failures_have_no_vector(videos, tmp_path, model):
    videos["bad"] = str(tmp_path / "no.avi")
    with pytest.raises(ValueError, match="idt to fisher: 1 videos failed"):
        run(videos, tmp_path / "direct", model)
    result = run(videos, tmp_path / "direct", model, on_error="skip")
    assert result.has_vector.tolist() == [True, True, False] and not result.vectors[2].any()


def test_parts_have_files_of_their_own_and_together_are_the_whole(videos, tmp_path, model):
    out = tmp_path / "direct"
    arguments = ["extract", "--manifest", str(tmp_path), "--num_workers", "1"]
    arguments += ["--out", str(out), "--fisher", str(model)]
    for part in ("1/2", "2/2"):
        command.main([*arguments, "--shard", part])
    command.main(arguments)
    parts = [np.load(out / f"vectors-0000{i}-of-00002.npz") for i in (1, 2)]
    whole = np.load(out / "vectors.npz")
    assert whole["video_ids"].tolist() == ["a_one", "two"]
    np.testing.assert_array_equal(
        whole["vectors"], np.concatenate([part["vectors"] for part in parts])
    )
