import numpy as np

from vcjax.runtime import sharding


def test_a_cpu_uses_aligned_rows_without_a_copy():
    rows = sharding.aligned_zeros(5, 3)
    assert rows.shape == (5, 3) and rows.dtype == np.float32 and not rows.any()
    rows[:] = np.arange(15).reshape(5, 3)
    placed = sharding.shard_rows(rows, sharding.make(1))
    assert placed.addressable_data(0).unsafe_buffer_pointer() == rows.ctypes.data
    np.testing.assert_array_equal(placed, rows)


def test_rows_are_padded_with_zeros_to_a_multiple_of_the_devices():
    rows = np.arange(30, dtype=np.float32).reshape(10, 3) + 1
    placed = np.asarray(sharding.shard_rows(rows, sharding.make(8)))
    np.testing.assert_array_equal(placed[:10], rows)
    assert placed.shape == (16, 3) and not placed[10:].any()
