import numpy as np
import pytest
from sklearn.decomposition import PCA

import fisher


def test_components_are_those_of_scikit_learn_up_to_sign(rows):
    ours, theirs = fisher.PCA(0.95).fit(rows), PCA(0.95).fit(rows.astype(np.float64))
    assert len(ours.components_) == theirs.n_components_
    signs = np.sign((ours.components_ * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components_ * signs[:, None], theirs.components_, atol=1e-4)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-5)
    assert ours.explained_variance_kept_ == pytest.approx(
        theirs.explained_variance_ratio_.sum(), rel=1e-5
    )
    np.testing.assert_allclose(
        ours.transform(rows) * signs[None], theirs.transform(rows), atol=2e-3
    )


@pytest.mark.parametrize("explained_variance", [0.3, 0.9, 0.999, 1.0])
def test_no_fewer_components_would_keep_the_energy(rows, explained_variance):
    pca = fisher.PCA(explained_variance).fit(rows)
    total = rows.var(axis=0, ddof=1, dtype=np.float64).sum()
    assert pca.explained_variance_.sum() / total >= explained_variance - 1e-6
    assert pca.explained_variance_[:-1].sum() / total < explained_variance


def test_a_large_offset_is_no_component(rows):
    moved = fisher.PCA().fit(rows + 1000)
    here = fisher.PCA().fit(rows)
    np.testing.assert_allclose(moved.explained_variance_, here.explained_variance_, rtol=1e-4)


def test_a_stream_gives_the_same_components(rows):
    pieces = lambda: (rows[begin : begin + 999] for begin in range(0, len(rows), 999))  # noqa: E731
    stream, array = fisher.PCA().fit(pieces), fisher.PCA().fit(rows)
    np.testing.assert_allclose(stream.components_, array.components_, atol=1e-5)


def test_fewer_rows_than_columns_have_fewer_components(rows):
    assert len(fisher.PCA(1.0).fit(rows[:5]).components_) == 4


def test_what_has_no_components_is_refused(rows):
    with pytest.raises(ValueError, match="all 7 rows are equal"):
        fisher.PCA().fit(np.tile(rows[:1], (7, 1)))
    with pytest.raises(ValueError, match="must be a fraction in"):
        fisher.PCA(90.0)
    with pytest.raises(ValueError, match="call fit first"):
        fisher.PCA().transform(rows)
