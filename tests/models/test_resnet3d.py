import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vcjax.models import conv3d, resnet3d
from vcjax.models.resnet3d import ResNet3D
from vcjax.runtime import sharding


@pytest.fixture(scope="module")
def model():
    return ResNet3D(width=4, rngs=nnx.Rngs(0))


def _num_parameters(**options):
    abstract = nnx.eval_shape(lambda: ResNet3D(rngs=nnx.Rngs(0), **options))
    return sum(x.size for x in jax.tree.leaves(nnx.state(abstract, nnx.Param)))


def test_resnet18_has_33_million_parameters():
    assert _num_parameters(depth=18) == pytest.approx(33.27e6, rel=1e-3)
    # 34: eight blocks more, 63.6 M by the sizes of Hara et al.
    assert _num_parameters(depth=34) == pytest.approx(63.6e6, rel=5e-3)


def _multiply_adds(monkeypatch, num_frames, side, depth):
    """Of all convolutions, from the shapes that the network really makes."""
    counts = []

    def counted(clips, kernel, stride):
        out = conv3d.native(clips, kernel, stride)
        counts.append(out.size * int(np.prod(kernel.shape[:-1])))
        return out

    monkeypatch.setattr(conv3d, "conv3d", counted)
    clip = jax.ShapeDtypeStruct((1, num_frames, side, side, 3), jnp.float32)
    jax.eval_shape(lambda clip: ResNet3D(depth=depth, rngs=nnx.Rngs(0))(clip), clip)
    return sum(counts)


@pytest.mark.parametrize(
    "num_frames,side,depth,giga",
    [(16, 112, 18, 8.31), (32, 112, 18, 16.6), (16, 224, 18, 32.9), (16, 112, 34, 12.70)],
)
def test_multiply_adds_a_clip(monkeypatch, num_frames, side, depth, giga):
    assert _multiply_adds(monkeypatch, num_frames, side, depth) == pytest.approx(
        giga * 1e9, rel=5e-3
    )


def test_embedding_is_unit_and_pooled_has_eight_widths(model):
    clips = jax.random.normal(jax.random.key(0), (2, 4, 16, 16, 3))
    model.eval()
    np.testing.assert_allclose(jnp.linalg.norm(model(clips), axis=1), 1.0, rtol=1e-5)
    assert model.pooled(clips).shape == (2, 32)


def test_only_normalisation_is_not_decayed(model):
    mask = resnet3d.decayed(nnx.state(model, nnx.Param))
    for path, decays in jax.tree_util.tree_leaves_with_path(mask):
        assert decays == ("norm" not in jax.tree_util.keystr(path))
    assert {True, False} == set(jax.tree.leaves(mask))


def test_unknown_depth_names_the_known_ones():
    with pytest.raises(ValueError, match=r"model.depth is 50; use 18 or 34"):
        ResNet3D(depth=50, rngs=nnx.Rngs(0))


def test_statistics_are_of_the_global_batch(model):
    """One device and eight give the same embedding and running statistics."""
    model.train()
    graphdef, state = nnx.split(model)
    clips = jax.random.normal(jax.random.key(0), (8, 4, 16, 16, 3))

    @jax.jit
    def forward(state, clips):
        model = nnx.merge(graphdef, state)
        return model(clips), nnx.state(model, nnx.BatchStat)

    one = forward(state, jax.device_put(clips, sharding.rows(sharding.make(1))))
    replicated = jax.device_put(state, sharding.replicated(sharding.make(8)))
    eight = forward(replicated, jax.device_put(clips, sharding.rows(sharding.make(8))))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_gradients_of_normalization_layers_are_sums_in_float32():
    """3003 is no number of bfloat16, whose neighbors are 2992 and 3008."""
    norm = resnet3d.BatchNorm(2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    clips = jax.random.normal(jax.random.key(0), (3, 7, 11, 13, 2), jnp.bfloat16)
    assert norm(clips).dtype == jnp.bfloat16
    gradient = nnx.grad(lambda norm: norm(clips).astype(jnp.float32).sum())(norm)
    np.testing.assert_array_equal(gradient.bias[...], 3003)
