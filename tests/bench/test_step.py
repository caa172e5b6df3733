import jax
import pytest

from vcjax.bench import step as bench

CLIPS, FRAMES, SIDE, WIDTH = bench.ON_GPU[0]


def _taps(size, kernel, stride):
    """(outputs, products of the kernel with what is not padding) along an axis."""
    starts = range(-(kernel // 2), size + kernel // 2 - kernel + 1, stride)
    inside = sum(0 <= start + i < size for start in starts for i in range(kernel))
    return len(starts), inside


def _convolution(sizes, kernel, strides, features_in, features_out):
    """(sizes of the output, multiplications), as the network's paper has them."""
    axes = [_taps(size, kernel, stride) for size, stride in zip(sizes, strides, strict=True)]
    count = features_in * features_out
    for _, inside in axes:
        count *= inside
    return [outputs for outputs, _ in axes], count


def _multiplications():
    """(of the stem, of the other convolutions) of R3D-18, for a clip."""
    sizes, stem = _convolution((FRAMES, SIDE, SIDE), 7, (1, 2, 2), 3, WIDTH)
    sizes = [-(-size // 2) for size in sizes]  # maximum of 3, every other
    others, features_in = 0, WIDTH
    for stage in range(4):
        features, stride = WIDTH << stage, 2 if stage else 1
        for block in range(2):
            strides = (stride if block == 0 else 1,) * 3
            if block == 0 and stage:
                others += _convolution(sizes, 1, strides, features_in, features)[1]
            sizes, count = _convolution(sizes, 3, strides, features_in, features)
            others += count + _convolution(sizes, 3, (1, 1, 1), features, features)[1]
            features_in = features
    return stem, others


@pytest.fixture(scope="module")
def traced():
    step, state, batch = bench.prepare(1, *bench.ON_GPU[0][1:], dtype="bfloat16")
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((CLIPS, *x.shape[1:]), x.dtype), batch)
    return step.trace(state, batch, 0)


# On GPUs the stem's kernel has a row and a column of zeros more, for pixels two by two.
@pytest.mark.parametrize("platform,of_stem", [("cuda", (8 / 7) ** 2), ("tpu", 1.0)])
def test_step_for_accelerators_has_the_operations_of_the_network(traced, platform, of_stem):
    found = traced.lower(lowering_platforms=(platform,)).cost_analysis()["flops"]
    stem, others = _multiplications()
    # forward, towards the weights, and, but for the clips, towards what came in
    expected = 2 * CLIPS * (2 * of_stem * stem + 3 * others)
    assert expected < found < 1.1 * expected
