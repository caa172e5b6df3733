import numpy as np

from vcjax.clustering import neighbors


def test_nearest_are_those_of_a_sort_across_tiles():
    generator = np.random.default_rng(0)
    rows, queries = generator.normal(size=(40, 6)), generator.normal(size=(11, 6))
    found = neighbors.nearest(
        queries.astype(np.float32), rows.astype(np.float32), num_neighbors=3, tile=4
    )
    np.testing.assert_array_equal(found, np.argsort(-(queries @ rows.T), axis=1)[:, :3])


def test_tiles_of_many_rows_have_fewer_queries(monkeypatch):
    sizes = []
    search = neighbors._nearest
    monkeypatch.setattr(
        neighbors, "_nearest", lambda tile, *rest: sizes.append(len(tile)) or search(tile, *rest)
    )
    monkeypatch.setattr(neighbors, "_MAX_BYTES", 3 * 40 * 4)  # of three queries and 40 rows
    rows = np.eye(40, dtype=np.float32)
    nearest = neighbors.nearest(rows[:7], rows)
    assert sizes == [3, 3, 1]
    np.testing.assert_array_equal(nearest[:, 0], np.arange(7))


def test_no_queries_have_no_neighbors():
    assert neighbors.nearest(np.zeros((0, 6)), np.ones((4, 6)), num_neighbors=2).shape == (0, 2)
