import numpy as np
import pytest

import fisher
from fisher import rows as row_source


def test_a_sample_depends_on_its_own_key_and_seed_alone(rows):
    drawn = fisher.sample_rows(rows, 50, "video a", 0)
    np.testing.assert_array_equal(drawn, fisher.sample_rows(rows, 50, "video a", 0))
    assert not np.array_equal(drawn, fisher.sample_rows(rows, 50, "video b", 0))
    assert not np.array_equal(drawn, fisher.sample_rows(rows, 50, "video a", 1))


def test_a_sample_has_no_row_twice_and_keeps_their_order():
    numbers = np.arange(1000.0)[:, None]
    drawn = fisher.sample_rows(numbers, 300, "video", 0)
    assert len(drawn) == 300 and (np.diff(drawn[:, 0]) > 0).all()
    np.testing.assert_array_equal(fisher.sample_rows(numbers, 1000, "video", 0), numbers)
    np.testing.assert_array_equal(fisher.sample_rows(numbers, 2000, "video", 0), numbers)


def test_every_row_is_drawn_equally_often():
    numbers = np.arange(20.0)[:, None]
    drawn = [fisher.sample_rows(numbers, 5, f"video {i}", 0) for i in range(2000)]
    counts = np.bincount(np.concatenate(drawn)[:, 0].astype(int), minlength=20)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500 * 0.75)


def test_moments_of_a_stream_are_those_of_all_rows(rows):
    pieces = lambda: iter([rows[:1], rows[1:2500], rows[2500:]])  # noqa: E731
    moments = row_source.moments(pieces)
    assert moments.num_rows == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-10)
    np.testing.assert_allclose(moments.variance, rows.var(axis=0, dtype=np.float64), rtol=1e-10)


def test_chunks_hold_all_rows_in_order(rows):
    chunks = list(row_source.chunks(lambda: iter([rows[:77], rows[77:1300]]), 2, 100))
    whole = [blocks[i, :n] for blocks, counts in chunks for i, n in enumerate(counts)]
    np.testing.assert_array_equal(np.concatenate(whole), rows[:1300])
    assert all(blocks.shape == (2, 100, 30) for blocks, _ in chunks)


def test_rows_of_two_widths_are_refused(rows):
    with pytest.raises(ValueError, match="rows of 30 and of 29 values"):
        row_source.moments(lambda: iter([rows, rows[:, :29]]))


def test_segments_hold_each_item_from_a_block_of_its_own(rows):
    stream = lambda: iter([rows[:30], rows[30:30], rows[30:250]])  # noqa: E731
    items = [rows[:7], rows[:0], stream, rows[:100]]
    chunks = list(row_source.segments(items, 30, 2, 100))
    found, current = {}, []
    for chunk in chunks:
        item_of = {block: item for item, block in chunk.ended.items()}
        for block, count in enumerate(chunk.num_rows):
            assert chunk.is_primary[block] == (count > 0 and not current)
            current += [chunk.blocks[block, :count]] if count else []
            assert not chunk.blocks[block, count:].any()
            if chunk.is_last[block]:
                found[item_of[block]], current = np.concatenate(current), []
    assert list(found) == [0, 2, 3] and not current
    for item, expected in zip(found, (rows[:7], rows[:250], rows[:100]), strict=True):
        np.testing.assert_array_equal(found[item], expected)
    assert [chunk.num_rows.tolist() for chunk in chunks] == [[7, 100], [100, 50], [100, 0]]


def test_a_sample_holds_rows_of_each_item_that_has_any(rows):
    items = {"a": rows[:50], "b": rows[:0], "c": rows[50:53]}
    drawn = fisher.sample(items, items.__getitem__, rows_per_item=10, seed=0)
    expected = np.concatenate([fisher.sample_rows(rows[:50], 10, "a", 0), rows[50:53]])
    np.testing.assert_array_equal(drawn, expected)
    with pytest.raises(ValueError, match="there are no rows"):
        fisher.sample(["b"], items.__getitem__, rows_per_item=10, seed=0)


def test_columns_are_a_part_of_the_rows_or_its_signed_roots():
    x = np.array([[1.0, -4.0, 9.0, 5.0]])
    np.testing.assert_array_equal(row_source.Columns(1, 3).select(x), [[-4, 9]])
    np.testing.assert_array_equal(row_source.Columns(1, 3, True).select(x), [[-2, 3]])
