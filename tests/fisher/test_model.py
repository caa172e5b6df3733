import dataclasses
import importlib
import tracemalloc

import jax
import numpy as np
import pytest

import fisher
from fisher.rows import Columns

SETTINGS = dict(explained_variance=0.9, num_components=6, sketch_dim=40, seed=0)


@pytest.fixture(scope="module")
def model(rows):
    return fisher.Model.fit(rows, **SETTINGS)


@pytest.fixture(scope="module")
def fitted(model):
    return model.parts["all"]


@pytest.fixture(scope="module")
def collection(rows):
    sizes = {"a": 5, "b": 0, "c": 1200, "d": 1, "e": 1024}
    return [(name, rows[i : i + size]) for i, (name, size) in enumerate(sizes.items())]


def test_a_vector_is_projected_encoded_normalized_and_sketched(model, fitted, rows):
    (video_id,), vectors, has_vector = model.encode_collection([("v", rows)], variant="paper")
    projected = np.asarray(fitted.pca.transform(rows))
    expected = fisher.normalize(fisher.encode(projected, fitted.gmm, "paper"))
    assert video_id == "v" and has_vector.all()
    np.testing.assert_allclose(vectors[0], model.sketch.transform(expected), atol=1e-5)


def test_the_whole_chain_is_the_formulas_of_the_paper(model, fitted, rows):
    """Sec. 3.3: PCA, Eq. 5-6, average, power and L2 normalization, count sketch, in float64."""
    projected = (rows[:500] - fitted.pca.mean_) @ fitted.pca.components_.T
    weights, means, stds = fitted.gmm.weights_, fitted.gmm.means_, np.sqrt(fitted.gmm.covariances_)
    psi = fisher.reference_fisher_vector(projected, weights, means, stds)
    psi = np.sign(psi) * np.sqrt(np.abs(psi))
    psi /= np.linalg.norm(psi)
    p = np.asarray(model.sketch.transform(np.eye(len(psi), dtype=np.float32)), np.float64).T
    vectors = model.encode_collection([("v", rows[:500])], variant="paper")[1]
    np.testing.assert_allclose(vectors[0], p @ psi, atol=1e-4)


def test_without_a_sketch_the_whole_vector_has_unit_norm(model, fitted, rows):
    whole = dataclasses.replace(model, sketch=None)
    vectors = whole.encode_collection([("v", rows[:99])], variant="released")[1]
    assert vectors.shape == (1, whole.num_values) == (1, 2 * fitted.gmm.means_.size)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_a_video_without_rows_has_no_vector(model, collection):
    video_ids, vectors, has_vector = model.encode_collection(collection, variant="paper")
    assert video_ids == ("a", "b", "c", "d", "e")
    assert has_vector.tolist() == [True, False, True, True, True]
    assert vectors.dtype == np.float32 and np.isfinite(vectors).all() and not vectors[1].any()


def test_no_video_depends_on_the_others(model, collection):
    vectors = model.encode_collection(collection, variant="paper")[1]
    backwards = model.encode_collection(collection[::-1], variant="paper")[1]
    np.testing.assert_array_equal(backwards[::-1], vectors)
    alone = model.encode_collection(collection[2:3], variant="paper")[1]
    np.testing.assert_array_equal(alone[0], vectors[2])


def test_no_videos_are_no_vectors(model):
    video_ids, vectors, has_vector = model.encode_collection([], variant="paper")
    assert video_ids == () and vectors.shape == (0, 40) and has_vector.shape == (0,)


def test_videos_of_any_length_share_one_program(model, collection):
    module = importlib.import_module("fisher.encode")
    model.encode_collection(collection, variant="paper")
    num_programs = module._advance._cache_size()
    longer = [("f", np.concatenate([rows for _, rows in collection]))]
    model.encode_collection(longer + collection, variant="paper")
    assert module._advance._cache_size() == num_programs


def test_a_video_with_bad_values_is_named(model, rows):
    bad = rows[:9].copy()
    bad[4, 4] = np.nan
    with pytest.raises(ValueError, match="bad video: .* not finite"):
        model.encode_collection([("fine", rows), ("bad video", bad)], variant="paper")
    with pytest.raises(ValueError, match="narrow: rows of 7 values, not 30"):
        model.encode_collection([("narrow", rows[:, :7])], variant="paper")


def test_loading_gives_back_what_was_saved(model, fitted, collection, tmp_path):
    model.save(tmp_path / "model.npz")
    loaded = fisher.Model.load(tmp_path / "model.npz")
    part = loaded.parts["all"]
    for name in ("mean_", "components_", "explained_variance_"):
        np.testing.assert_array_equal(getattr(part.pca, name), getattr(fitted.pca, name))
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(part.gmm, name), getattr(fitted.gmm, name))
    assert (loaded.num_rows, loaded.seed, part.pca.explained_variance_kept_) == (
        model.num_rows, 0, fitted.pca.explained_variance_kept_,
    )  # fmt: skip
    encode = lambda m: m.encode_collection(collection, variant="paper")[1]  # noqa: E731
    np.testing.assert_array_equal(encode(loaded), encode(model))


def test_a_file_tells_where_it_comes_from_without_pickles(model, tmp_path):
    model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
        assert (int(file["num_rows"]), int(file["seed"])) == (4000, 0)
        assert 0.9 <= float(file["all.explained_variance_kept"]) < 1 and str(file["version"])
        assert file["all.means"].dtype == np.float64
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_file_that_is_no_model_is_named(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.npz: not a readable Fisher model"):
            fisher.Model.load(path)
    np.savez(path, weights=np.ones(2))
    with pytest.raises(ValueError, match="model.npz: not a Fisher model: array .* is missing"):
        fisher.Model.load(path)


@pytest.mark.parametrize("name", ["means", "pca_components", "weights", "variances"])
def test_parameters_that_do_not_fit_are_refused(model, tmp_path, name):
    path = tmp_path / "model.npz"
    model.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {f"all.{name}": arrays[f"all.{name}"][:-1]}))
    with pytest.raises(ValueError, match="model.npz: not a readable Fisher model"):
        fisher.Model.load(path)


def test_one_seed_is_one_model_on_any_number_of_devices(model, fitted, rows):
    again = fisher.Model.fit(rows, **SETTINGS).parts["all"]
    np.testing.assert_array_equal(again.gmm.means_, fitted.gmm.means_)
    np.testing.assert_array_equal(again.pca.components_, fitted.pca.components_)
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    shared = fisher.Model.fit(rows, **SETTINGS, mesh=mesh).parts["all"]
    np.testing.assert_allclose(shared.gmm.means_, fitted.gmm.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(shared.gmm.covariances_, fitted.gmm.covariances_, rtol=1e-6)


def test_too_few_rows_are_refused(rows):
    with pytest.raises(ValueError, match="6 components need at least as many rows, not 4"):
        fisher.Model.fit(rows[:4], **SETTINGS)
    with pytest.raises(ValueError, match="no rows"):
        fisher.Model.fit(rows[:0], **SETTINGS)


def test_memory_does_not_grow_with_the_rows_of_a_video(model, rows):
    endless = np.broadcast_to(rows[:1], (3_000_000, 30))  # 360 MB, were they in memory
    tracemalloc.start()
    vectors = model.encode_collection([("v", endless)], variant="paper")[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    one = model.encode_collection([("v", rows[:1])], variant="paper")[1]
    # equal rows are rounded alike: their errors add up instead of averaging out
    np.testing.assert_allclose(vectors, one, atol=3e-5)


def test_memory_does_not_grow_with_the_number_of_videos(model, rows):
    def peak(num_videos):
        """Bytes of host and device while the next video is asked for."""
        used = []

        def videos():
            for i in range(num_videos):
                used.append(sum(a.nbytes for a in jax.live_arrays()))
                yield str(i), rows[:700]

        tracemalloc.start()
        assert sum(v is not None for _, v in model.encode_each(videos(), variant="paper")) == (
            num_videos
        )
        host = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return host + max(used)

    # how many chunks of 1 MB live at once is a matter of timing: as many videos on both sides
    least = min(peak(1000) for _ in range(3))
    assert least < max(peak(50) for _ in range(20)) + 1e6  # 84 MB of rows, were they kept


def test_parts_are_models_of_their_columns_side_by_side(rows):
    columns = {"few": Columns(0, 10), "roots": Columns(10, 30, square_root=True)}
    model = fisher.Model.fit(rows, **SETTINGS | {"sketch_dim": 0}, columns=columns)
    seen = {"few": rows[:, :10], "roots": np.sign(rows[:, 10:]) * np.sqrt(np.abs(rows[:, 10:]))}
    (_, vector), _ = model.encode_each([("v", rows[:99]), ("w", rows[:9])], variant="paper")
    for name, x in seen.items():
        alone = fisher.Model.fit(x, **SETTINGS | {"sketch_dim": 0})
        ((_, expected),) = alone.encode_each([("v", x[:99])], variant="paper")
        np.testing.assert_allclose(
            np.sqrt(2) * vector[model.places[name]], expected, rtol=1e-3, atol=1e-4
        )


def test_parts_are_saved_with_their_origin(rows, tmp_path):
    columns = {"few": Columns(0, 10), "rest": Columns(10, None, square_root=True)}
    model = fisher.Model.fit(rows, **SETTINGS, columns=columns, source={"videos": ["a"]})
    model.save(tmp_path / "model.npz")
    loaded = fisher.Model.load(tmp_path / "model.npz")
    assert {name: part.columns for name, part in loaded.parts.items()} == columns
    assert loaded.source == {"videos": ["a"]} and loaded.places == model.places
    vectors = [m.encode_collection([("v", rows)], variant="paper")[1] for m in (model, loaded)]
    np.testing.assert_array_equal(*vectors)


def test_columns_that_are_not_there_are_refused(rows):
    with pytest.raises(ValueError, match="columns late: 20 to 31 are outside rows of 30"):
        fisher.Model.fit(rows, **SETTINGS, columns={"late": Columns(20, 31)})


def test_a_stream_of_rows_gives_the_same_model_as_an_array(model, fitted, rows):
    pieces = lambda: (rows[begin : begin + 999] for begin in range(0, len(rows), 999))  # noqa: E731
    stream = fisher.Model.fit(pieces, **SETTINGS).parts["all"]
    np.testing.assert_allclose(stream.pca.components_, fitted.pca.components_, atol=1e-5)
    np.testing.assert_allclose(stream.gmm.means_, fitted.gmm.means_, rtol=1e-3, atol=1e-3)
