import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.models import conv3d

SHAPES = [
    ((2, 6, 9, 8, 3), (7, 7, 7, 3, 4), (1, 2, 2)),
    ((2, 3, 8, 10, 3), (5, 5, 3, 3, 4), (1, 2, 2)),
    ((2, 5, 6, 6, 4), (3, 3, 3, 4, 5), (2, 2, 2)),
    ((2, 3, 4, 4, 4), (3, 3, 3, 4, 4), (1, 1, 1)),
    ((2, 4, 5, 6, 3), (3, 3, 3, 3, 4), (1, 1, 1)),
    ((2, 4, 5, 5, 4), (1, 1, 1, 4, 6), (2, 2, 2)),
]


FORMS = [
    conv3d.sum_of_planes,
    conv3d.matrix_product,
    conv3d.product_by_clip,
    conv3d.space_to_depth,
]


@pytest.mark.parametrize(
    "form,shape,kernel,stride",
    [
        (form, *case)
        for form in FORMS
        for case in SHAPES
        if (form is not conv3d.product_by_clip or case[2][0] == 1)
        and (form is not conv3d.space_to_depth or case[2] == (1, 2, 2))
    ],
)
def test_forms_and_their_gradients_agree_with_the_native_one(form, shape, kernel, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    clips, weights = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel)
    weights = weights / np.sqrt(np.prod(kernel[:4]))

    def mean_square(form, clips, weights):
        out = form(clips, weights, stride)
        return jnp.square(out).mean(), out

    def both(form):
        gradient = jax.jit(jax.grad(mean_square, (1, 2), has_aux=True), static_argnums=0)
        return gradient(form, clips, weights)

    expected = both(conv3d.native)
    for e, a in zip(jax.tree.leaves(expected), jax.tree.leaves(both(form)), strict=True):
        np.testing.assert_allclose(a, e, atol=2e-6 * max(1.0, float(jnp.abs(e).max())))


def test_platform_form_is_differentiable_and_equal():
    clips = jax.random.normal(jax.random.key(0), (1, 4, 6, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 4))
    actual = jax.jit(lambda x: conv3d.conv3d(x, kernel, (1, 1, 1)))(clips)
    np.testing.assert_allclose(actual, conv3d.native(clips, kernel, (1, 1, 1)), atol=2e-5)


def test_space_to_depth_refuses_another_stride():
    with pytest.raises(ValueError, match="stride is"):
        conv3d.space_to_depth(jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros((3, 3, 3, 3, 4)), (1, 1, 1))


@pytest.mark.parametrize("shape", [(2, 8, 7, 6, 3), (1, 1, 1, 1, 2)])
def test_separable_max_pool_is_the_native_one(shape):
    clips = jax.random.normal(jax.random.key(0), shape)
    actual = conv3d.separable_max_pool(clips)
    np.testing.assert_array_equal(actual, conv3d.native_max_pool(clips))
