import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vcjax.data import augment

MEAN = np.array([114.7748, 107.7354, 99.4750]) / 255
OFF = dict(flip=0.0, grayscale=0.0, jitter=(0.0, 0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def clips():
    clips = np.random.default_rng(0).integers(0, 256, (6, 2, 5, 7, 3)).astype(np.uint8)
    clips[0, 0, 0] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [9, 9, 9]] + [
        [7, 3, 7]
    ] * 2
    return clips


@pytest.fixture(scope="module")
def clip(clips):
    return clips[0].astype(np.float64) / 255


_jitted = jax.jit(augment.augment, static_argnames=("flip", "grayscale", "jitter"))


def augmented(clips, keys, **settings):
    return np.asarray(_jitted(jnp.asarray(clips), keys, **settings))


def normalized(clips):
    return np.asarray(augment.normalize(jnp.asarray(clips)))


def keys(seed, count=6):
    return jnp.asarray(np.random.default_rng(seed).integers(2**32, size=count), jnp.uint32)


def gray(clip):
    return clip @ [0.299, 0.587, 0.114]


def test_normalising_subtracts_the_mean_colour(clips):
    np.testing.assert_allclose(normalized(clips), clips / 255 - MEAN, atol=1e-6)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_brightness_contrast_and_saturation_are_the_formulas(clip, factor):
    x, factor32 = jnp.asarray(clip, jnp.float32), jnp.float32(factor)
    expected = {
        augment.adjust_brightness: clip * factor,
        augment.adjust_contrast: factor * clip + (1 - factor) * gray(clip).mean(),
        augment.adjust_saturation: factor * clip + (1 - factor) * gray(clip)[..., None],
    }
    for adjust, value in expected.items():
        np.testing.assert_allclose(adjust(x, factor32), value.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("turns", [-0.4, -0.1, 0.0, 0.25, 0.4])
def test_hue_turns_as_in_colorsys(clip, turns):
    expected = np.empty_like(clip)
    for at in np.ndindex(clip.shape[:-1]):
        hue, saturation, value = colorsys.rgb_to_hsv(*clip[at])
        expected[at] = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
    actual = augment.adjust_hue(jnp.asarray(clip, jnp.float32), jnp.float32(turns))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_nothing_drawn_is_normalising_alone(clips):
    actual = augmented(clips, keys(0), **OFF)
    np.testing.assert_allclose(actual, normalized(clips), atol=1e-6)


def test_a_flip_mirrors_the_columns_of_every_frame(clips):
    actual = augmented(clips, keys(0), **OFF | {"flip": 1.0})
    np.testing.assert_allclose(actual, normalized(clips)[:, :, :, ::-1], atol=1e-6)


def test_greyscale_has_equal_channels_of_the_same_luminance(clips):
    actual = augmented(clips, keys(0), **OFF | {"grayscale": 1.0}) + MEAN
    expected = np.repeat(gray(clips / 255)[..., None], 3, axis=-1)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_key_decides_for_its_clip_alone(clips):
    first = augmented(clips, keys(0))
    np.testing.assert_array_equal(first, augmented(clips, keys(0)))
    order = np.array([3, 1, 5, 0, 2, 4])
    shuffled = augmented(clips[order], keys(0)[order])
    np.testing.assert_allclose(shuffled, first[order], atol=1e-6)
    other = augmented(clips, keys(1))
    assert (np.abs(other - first).max(axis=(1, 2, 3, 4)) > 1e-3).all()


def test_all_frames_of_a_clip_are_treated_alike(clips):
    still = np.repeat(clips[:, :1], 2, axis=1)
    actual = augmented(still, keys(0))
    np.testing.assert_allclose(actual[:, 0], actual[:, 1], atol=1e-6)


def test_colours_stay_in_their_range(clips):
    many = np.tile(clips, (30, 1, 1, 1, 1))
    colours = augmented(many, keys(0, 180)) + MEAN
    assert colours.min() > -1e-6 and colours.max() < 1 + 1e-6


def test_flips_and_greyscale_come_with_their_probabilities():
    ramp = np.zeros((2000, 1, 1, 2, 3), np.uint8)
    ramp[:, :, :, 1] = [200, 100, 50]
    settings = OFF | {"flip": 0.5, "grayscale": 0.2}
    drawn = augmented(ramp, keys(0, 2000), **settings)[:, 0, 0] + MEAN
    flipped = drawn[:, 0].sum(axis=-1) > 0.1
    is_grey = np.ptp(drawn, axis=-1).max(axis=-1) < 1e-3
    assert abs(flipped.mean() - 0.5) < 0.04 and abs(is_grey.mean() - 0.2) < 0.04
    assert abs(np.corrcoef(flipped, is_grey)[0, 1]) < 0.08  # one does not tell the other


def test_jitter_fills_its_ranges_evenly():
    dull = np.full((500, 1, 1, 1, 3), [120, 60, 60], np.uint8)
    bright = augmented(dull, keys(0, 500), **OFF | {"jitter": (0.4, 0.0, 0.0, 0.0)})
    factors = (bright[:, 0, 0, 0, 0] + MEAN[0]) * 255 / 120
    np.testing.assert_allclose(np.quantile(factors, [0, 0.5, 1]), [0.6, 1, 1.4], atol=0.05)
    turned = augmented(dull, keys(0, 500), **OFF | {"jitter": (0.0, 0.0, 0.0, 0.4)})
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in turned[:, 0, 0, 0] + MEAN]
    hues = (np.array(hues) + 0.5) % 1 - 0.5  # red, from which they are turned, is 0
    np.testing.assert_allclose(np.quantile(hues, [0, 0.5, 1]), [-0.4, 0, 0.4], atol=0.06)
