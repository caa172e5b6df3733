import numpy as np
import pytest

from vcjax.evaluation import few_shot

CLASSES = np.array(["a", "b", "c", "d"])


def _accuracy(x_train, x_test, *, shots=(1, 5), num_draws=8, sampling="random"):
    y_train, y_test = CLASSES[np.arange(len(x_train)) % 4], CLASSES[np.arange(len(x_test)) % 4]
    return few_shot.accuracy(
        x_train,
        y_train,
        x_test,
        y_test,
        shots=shots,
        num_draws=num_draws,
        sampling=sampling,
        seed=0,
    )


def test_separable_features_are_always_right_from_one_video_on():
    generator = np.random.default_rng(0)
    rows = 20 * np.eye(4)[np.arange(80) % 4] + generator.normal(size=(80, 4))
    estimates = _accuracy(rows[:40], rows[40:])
    assert {shot: (e.mean, e.interval) for shot, e in estimates.items()} == {
        "1": (1.0, 0.0),
        "5": (1.0, 0.0),
    }


def test_features_that_know_nothing_are_right_by_chance():
    generator = np.random.default_rng(1)
    estimates = _accuracy(
        generator.normal(size=(400, 20)), generator.normal(size=(2000, 20)), num_draws=20
    )
    for estimate in estimates.values():
        assert estimate.num_draws == 20
        assert abs(estimate.mean - 0.25) < 0.01 and 0 < estimate.interval < 0.01


def test_more_videos_of_a_class_tell_more():
    generator = np.random.default_rng(2)
    rows = np.eye(4, 30)[np.arange(4000) % 4] + 0.7 * generator.normal(size=(4000, 30))
    estimates = _accuracy(rows[:400], rows[400:], shots=(1, 5, 20))
    means = [estimates[shot].mean for shot in ("1", "5", "20")]
    assert means[0] + 0.05 < means[1] < means[2] - 0.05


def test_the_interval_by_hand():
    mean, interval, count = few_shot.estimate([0.2, 0.4, 0.6])
    # standard deviation 0.2 over the root of 3, times 4.303 of Student's t with 2 degrees
    assert (mean, count) == (pytest.approx(0.4), 3)
    assert interval == pytest.approx(4.30265 * 0.2 / np.sqrt(3), rel=1e-5)
    assert few_shot.estimate([0.5]) == (0.5, None, 1)


def test_the_first_videos_are_drawn_once_and_only_they_matter():
    generator = np.random.default_rng(3)
    rows = 20 * np.eye(4)[np.arange(80) % 4] + generator.normal(size=(80, 4))
    wrong = rows[:40].copy()
    wrong[8:] = wrong[8:][::-1]  # the classes d, c, b, a: all but the first two rows of each
    estimates = _accuracy(wrong, rows[40:], shots=(2, 10), sampling="first")
    assert estimates["2"] == (1.0, None, 1) and estimates["10"].mean < 0.5


def test_shots_that_no_class_has_are_left_out():
    rows = np.random.default_rng(4).normal(size=(40, 4))
    assert set(_accuracy(rows[:20], rows[20:], shots=(5, 6))) == {"5"}


def test_an_unknown_draw_names_the_known_ones():
    rows = np.zeros((8, 2))
    with pytest.raises(ValueError, match="evaluation.sampling is 'last'; use one of"):
        _accuracy(rows, rows, sampling="last")
