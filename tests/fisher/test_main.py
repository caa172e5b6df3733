import numpy as np
import pytest

import fisher
from fisher import __main__ as command
from fisher import files
from vcjax.idt import storage
from vcjax.idt.trajectories import COLUMNS, Trajectories

FIT = ["--num_components", "4", "--sketch_dim", "50", "--rows_per_item", "300"]


@pytest.fixture
def folder(rows, tmp_path):
    """Rows of three items, one of them without any, as arrays of both kinds."""
    folder = tmp_path / "rows"
    (folder / "deep").mkdir(parents=True)
    np.save(folder / "a.npy", rows[:900])
    np.savez(folder / "deep" / "b.npz", rows[900:1500])
    np.savez(folder / "c.npz", first=rows[:0], second=rows[1500:1600])
    return folder


def test_fit_and_encode_do_what_the_library_does(folder, rows, tmp_path, capsys):
    model, out = str(tmp_path / "model.npz"), str(tmp_path / "vectors.npz")
    command.main(["fit", str(folder), "--out", model, *FIT])
    command.main(["encode", model, str(folder), "--out", out])
    vectors = fisher.FisherVectors.load(tmp_path / "vectors.npz")
    assert vectors.video_ids == ("a", "c/first", "c/second", "deep/b")
    assert vectors.has_vector.tolist() == [True, False, True, True]
    drawn = [
        fisher.sample_rows(rows[begin:end], 300, name, 0)
        for name, begin, end in (("a", 0, 900), ("c/second", 1500, 1600), ("deep/b", 900, 1500))
    ]
    expected = fisher.Model.fit(
        np.concatenate(drawn), energy=0.9, num_components=4, sketch_dim=50, seed=0
    ).encode_collection([("a", rows[:900])], reading="paper")[1]
    np.testing.assert_array_equal(vectors.vectors[:1], expected)


def test_inspect_tells_energy_weights_and_norms(folder, tmp_path, capsys):
    model, out = str(tmp_path / "model.npz"), str(tmp_path / "vectors.npz")
    command.main(["fit", str(folder), "--out", model, "--columns", "0:10", "10:", *FIT])
    command.main(["encode", model, str(folder), "--out", out])
    capsys.readouterr()
    command.main(["inspect", model, out])
    text = capsys.readouterr().out
    part = fisher.Model.load(model).parts["10:"]
    assert f"energy kept        {part.pca.energy_kept_:.4f}" in text
    assert f"min {part.gmm.weights_.min():.4g}, quartiles" in text
    assert "700 rows of 30 values" in text and str(folder) in text
    norms = np.linalg.norm(fisher.FisherVectors.load(tmp_path / "vectors.npz").vectors, axis=1)
    assert "3 of 4 items have a vector of 50 values" in text and f"max {norms.max():.4g}" in text


def test_trajectories_are_known_by_their_videos_ids(tmp_path):
    generator = np.random.default_rng(0)
    parts = {k: generator.uniform(size=(60, w)).astype(np.float32) for k, w in COLUMNS.items()}
    for video_id in ("some/one.x", "long" * 40):
        storage.write(storage.path_of(tmp_path, video_id), Trajectories(**parts))
    found = files.find([tmp_path])
    assert len(found) == 2 and "some/one.x" in found
    expected = storage.read(storage.path_of(tmp_path, "some/one.x")).features
    np.testing.assert_array_equal(files.read(found["some/one.x"]), expected)
    model = tmp_path / "model"
    command.main(["fit", str(tmp_path), "--out", str(model), "--columns", "hog", "mbh", *FIT])
    assert [tuple(part.columns) for part in fisher.Model.load(model).parts.values()] == [
        (30, 126, False),
        (234, 426, False),
    ]


def test_two_items_of_one_name_are_refused(folder):
    with pytest.raises(ValueError, match=r"a\.npy: another item is named 'a'"):
        files.find([folder, folder / "a.npy"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), r"rows are numbers \[n, d\], not float64 \(3,\)"),
        (np.array([["a"]]), r"rows are numbers \[n, d\], not <U1"),
        (np.array([[None]]), "not a readable array: .*[Oo]bject"),
    ],
)
def test_an_array_that_is_no_rows_is_named(tmp_path, content, message):
    np.save(tmp_path / "bad.npy", content, allow_pickle=True)
    with pytest.raises(SystemExit, match=f"fisher: .*bad.npy: {message}"):
        command.main(["fit", str(tmp_path), "--out", str(tmp_path / "model.npz")])


def test_other_errors_are_one_line(folder, tmp_path):
    out = ["--out", str(tmp_path / "model.npz")]
    with pytest.raises(SystemExit, match="fisher: .*none: not a .npy or .npz file, nor"):
        command.main(["fit", str(tmp_path / "none"), *out])
    with pytest.raises(SystemExit, match="--columns: '3:x' is not BEGIN:END"):
        command.main(["fit", str(folder), *out, "--columns", "3:x"])
    with pytest.raises(SystemExit, match="no descriptor 'hug'; use some of"):
        command.main(["fit", str(folder), *out, "--columns", "hug"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="fisher: no .npy or .npz files in .*empty"):
        command.main(["fit", str(tmp_path / "empty"), *out])
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(SystemExit, match="text.npz: not a readable npz"):
        command.main(["inspect", str(tmp_path / "text.npz")])
