import importlib
import tracemalloc

import numpy as np
import pytest

import fisher

sketches = importlib.import_module("fisher.sketch")


@pytest.fixture(scope="module")
def pair():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2, 700)) + [[0.5], [0.5]]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def inner_products(pair, size, num_seeds):
    sketches = [np.asarray(fisher.Sketch(700, size, s).transform(pair)) for s in range(num_seeds)]
    return np.array([first @ second for first, second in sketches])


def test_inner_products_are_kept_in_expectation(pair):
    products = inner_products(pair, 50, 300)
    uncertainty = products.std() / np.sqrt(len(products))
    assert abs(products.mean() - pair[0] @ pair[1]) < 3 * uncertainty


def test_error_falls_with_the_root_of_the_size(pair):
    errors = [inner_products(pair, size, 200).std() for size in (10, 40, 160)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.2)


def test_a_sketch_is_the_signed_sum_of_each_bucket():
    sketch = fisher.Sketch(10, 4, 3)
    columns = np.asarray(sketch.transform(np.eye(10, dtype=np.float32)))  # P, row by row
    assert (np.abs(columns).sum(axis=1) == 1).all()  # each value in one bucket, times +-1
    assert columns.sum() == 0  # as many signs of either kind
    assert (np.abs(columns[:4]).sum(axis=0) == 1).all()  # a round fills each bucket once
    x = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    np.testing.assert_allclose(sketch.transform(x), x @ columns, rtol=1e-5, atol=1e-6)


def test_seeds_repeat_and_differ(pair):
    first, again, other = (fisher.Sketch(700, 64, s).transform(pair) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_seed_is_the_same_sketch_for_ever():
    ramp = np.arange(1, 9, dtype=np.float32)
    np.testing.assert_array_equal(fisher.Sketch(8, 3, 0).transform(ramp), [7, -5, -10])


def test_a_million_values_need_less_than_a_hundred_megabytes():
    v = np.ones(1_000_000, np.float32)
    tracemalloc.start()
    sketch = fisher.Sketch(len(v), 2000, 0)
    host = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    program = sketches.apply.lower(v, *sketch.tables()).compile().memory_analysis()
    device = program.argument_size_in_bytes + program.temp_size_in_bytes
    assert host + device < 100e6
    assert np.linalg.norm(sketch.transform(v)) == pytest.approx(1000, rel=0.1)


def test_wrong_sizes_are_refused(pair):
    with pytest.raises(ValueError, match="takes vectors of 8 values, not 700"):
        fisher.Sketch(8, 4, 0).transform(pair)
    with pytest.raises(ValueError, match="dim_out is 0; use an integer of at least 1"):
        fisher.Sketch(8, 0, 0)
