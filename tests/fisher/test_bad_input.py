import jax.numpy as jnp
import numpy as np
import pytest

import fisher

ROWS = np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def gmm():
    return fisher.GMM(2).fit(ROWS)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[1.0, 2.0], [3.0, 4.0]], r"rows must be an array \[n, d\], not a list"),
        (ROWS[0], r"rows must be an array \[n, d\], not of shape"),
        (ROWS.astype(str), "rows must hold real numbers"),
        (ROWS.astype(object), "rows must hold real numbers"),
        (ROWS + 1j, "rows must hold real numbers"),
        (ROWS[:, :0], "rows have no values"),
    ],
    ids=["list", "vector", "text", "object", "complex", "no columns"],
)
def test_rows_that_are_no_matrix_of_numbers_are_refused_everywhere(gmm, rows, message):
    pca = fisher.PCA().fit(ROWS)
    for use in (
        fisher.GMM(2).fit,
        fisher.PCA().fit,
        gmm.posterior,
        gmm.score,
        pca.transform,
        lambda x: fisher.encode(x, gmm),
        lambda x: fisher.sample_rows(x, 1, "a", 0),
    ):
        with pytest.raises(ValueError, match=message):
            use(rows)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_rows_of_another_dimension_are_refused(gmm, array):
    pca = fisher.PCA().fit(ROWS)
    other = array(ROWS[:, :2])
    for use in (gmm.posterior, gmm.score, pca.transform, lambda x: fisher.encode(x, gmm)):
        with pytest.raises(ValueError, match="rows of 2 values, not 3"):
            use(other)


def test_integers_and_booleans_are_numbers(gmm):
    for kind in (np.uint8, np.int64, bool, np.float16):
        assert np.isfinite(gmm.posterior((ROWS > 0).astype(kind))).all()


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="num_items is -1"):
        fisher.sample_items(["a", "b"], -1, 0)
    with pytest.raises(ValueError, match="num_rows is -1"):
        fisher.sample_rows(ROWS, -1, "a", 0)
    with pytest.raises(ValueError, match="variance_floor is nan; use a number from 0"):
        fisher.GMM(2, variance_floor=float("nan"))


def test_a_sketch_of_no_array_is_refused():
    sketch = fisher.Sketch(4, 2, 0)
    for vectors in ([1.0, 2.0, 3.0, 4.0], np.float32(1)):
        with pytest.raises(ValueError, match="array|a single number"):
            sketch.transform(vectors)
