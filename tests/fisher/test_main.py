import ast
import doctest
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import fisher
from fisher import __main__ as command
from fisher import files
from vcjax.idt import storage
from vcjax.idt.trajectories import COLUMNS, Trajectories

FIT = ["--num_components", "4", "--sketch_dim", "50", "--rows_per_item", "300"]


@pytest.fixture
def readers(monkeypatch):
    """The readers that pyproject.toml declares, whether or not the package is installed."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(project.read_text("utf-8"))["project"]["entry-points"]

    def entry_points(*, group):
        return [metadata.EntryPoint(name, value, group) for name, value in declared[group].items()]

    monkeypatch.setattr(metadata, "entry_points", entry_points)


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
        np.concatenate(drawn), explained_variance=0.9, num_components=4, sketch_dim=50, seed=0
    ).encode_collection([("a", rows[:900])], variant="paper")[1]
    np.testing.assert_array_equal(vectors.vectors[:1], expected)


def test_inspect_tells_energy_weights_and_norms(folder, tmp_path, capsys):
    model, out = str(tmp_path / "model.npz"), str(tmp_path / "vectors.npz")
    command.main(["fit", str(folder), "--out", model, "--columns", "0:10", "10:", *FIT])
    command.main(["encode", model, str(folder), "--out", out])
    capsys.readouterr()
    command.main(["inspect", model, out])
    text = capsys.readouterr().out
    part = fisher.Model.load(model).parts["10:"]
    assert f"explained variance {part.pca.explained_variance_kept_:.4f}" in text
    assert f"min {part.gmm.weights_.min():.4g}, quartiles" in text
    assert "700 rows of 30 values" in text and str(folder) in text
    norms = np.linalg.norm(fisher.FisherVectors.load(tmp_path / "vectors.npz").vectors, axis=1)
    assert "3 of 4 items have a vector of 50 values" in text and f"max {norms.max():.4g}" in text


def test_trajectories_are_known_by_their_videos_ids(readers, tmp_path):
    generator = np.random.default_rng(0)
    parts = {k: generator.uniform(size=(60, w)).astype(np.float32) for k, w in COLUMNS.items()}
    for video_id in ("some/one.x", "long" * 40):
        storage.write(storage.path_of(tmp_path, video_id), Trajectories(**parts))
    sources = files.find([tmp_path])
    assert len(sources) == 2 and "some/one.x" in sources
    expected = storage.read(storage.path_of(tmp_path, "some/one.x")).features
    np.testing.assert_array_equal(files.read(sources["some/one.x"]), expected)
    model = tmp_path / "model"
    command.main(["fit", str(tmp_path), "--out", str(model), "--columns", "hog", "mbh", *FIT])
    assert [tuple(part.columns) for part in fisher.Model.load(model).parts.values()] == [
        (30, 126, False),
        (234, 426, False),
    ]


def test_a_reader_that_cannot_be_loaded_is_named(folder, tmp_path, monkeypatch):
    broken = metadata.EntryPoint("other", "no_such_module:Reader", "fisher.readers")
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [broken])
    with pytest.raises(SystemExit, match="cannot load the reader no_such_module:Reader"):
        command.main(["fit", str(folder), "--out", str(tmp_path / "model.npz")])


def test_fisher_imports_nothing_of_vcjax():
    folder = Path(fisher.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "vcjax" for name in names), path


def test_the_example_of_the_package_runs():
    results = doctest.testmod(fisher)
    assert results.attempted and not results.failed


def test_two_items_of_one_name_are_refused(folder):
    with pytest.raises(ValueError, match=r"a\.npy: another item is named 'a'"):
        files.find([folder, folder / "a.npy"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), r"rows must be numbers \[n, d\], not float64 \(3,\)"),
        (np.array([["a"]]), r"rows must be numbers \[n, d\], not <U1"),
        (np.array([[None]]), "not a readable array: .*[Oo]bject"),
    ],
)
def test_an_array_that_is_no_rows_is_named(tmp_path, content, message):
    np.save(tmp_path / "bad.npy", content, allow_pickle=True)
    with pytest.raises(SystemExit, match=f"fisher: .*bad.npy: {message}"):
        command.main(["fit", str(tmp_path), "--out", str(tmp_path / "model.npz")])


def test_other_errors_are_one_line(folder, readers, tmp_path):
    out = ["--out", str(tmp_path / "model.npz")]
    with pytest.raises(SystemExit, match="fisher: .*none: neither a .npy or .npz file nor"):
        command.main(["fit", str(tmp_path / "none"), *out])
    with pytest.raises(SystemExit, match="--columns: '3:x' is not BEGIN:END"):
        command.main(["fit", str(folder), *out, "--columns", "3:x"])
    with pytest.raises(
        SystemExit, match="--columns: 'hug' is neither BEGIN:END nor a name .*hog, mbh"
    ):
        command.main(["fit", str(folder), *out, "--columns", "hug"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="fisher: no .npy or .npz files in .*empty"):
        command.main(["fit", str(tmp_path / "empty"), *out])
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(SystemExit, match="text.npz: not a readable npz"):
        command.main(["inspect", str(tmp_path / "text.npz")])
