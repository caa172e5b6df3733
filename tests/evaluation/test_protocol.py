import numpy as np

from vcjax.evaluation import protocol

SPLIT = np.array(["train"] * 6 + ["test"] * 6)


def test_a_label_on_both_sides_is_learned_from_training_videos():
    values = np.array(["a", "b", "", "a", "b", "a", "a", "b", "", "c", "a", "b"])
    sides = protocol.sides(values, SPLIT, is_group=False, seed=0)
    np.testing.assert_array_equal(sides.train, [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(sides.test, [6, 7, 9, 10, 11])
    assert not sides.within_test


def test_a_label_apart_is_halved_value_by_value_within_the_held_out_videos():
    values = np.array(["a"] * 6 + ["b", "b", "c", "c", "c", "d"])
    sides = protocol.sides(values, SPLIT, is_group=False, seed=0)
    assert sides.within_test
    assert sorted(values[sides.train]) == ["b", "c", "c"]
    assert sorted(values[sides.test]) == ["b", "c"]
    assert set(sides.train.tolist() + sides.test.tolist()) == set(range(6, 11))  # d is but one


def test_the_group_is_asked_within_the_held_out_videos():
    values = np.array(["a", "b"] * 6)
    sides = protocol.sides(values, SPLIT, is_group=True, seed=0)
    assert sides.within_test and min(sides.train.min(), sides.test.min()) >= 6


def test_seeds_draw_other_halves_and_one_seed_the_same():
    values = np.array(["a"] * 6 + ["b"] * 100)
    split = np.array(["train"] * 6 + ["test"] * 100)
    draws = [protocol.sides(values, split, is_group=True, seed=s).train for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_a_limit_draws_training_rows_by_the_seed_and_keeps_the_tests():
    fold = protocol.TrainTest(np.arange(0, 100, 2), np.arange(1, 100, 2), within_test=False)
    first, same, other = (protocol.limited(fold, 20, seed=seed) for seed in (0, 0, 1))
    assert len(set(first.train)) == 20 and set(first.train) < set(fold.train)
    assert (np.diff(first.train) > 0).all()
    np.testing.assert_array_equal(first.train, same.train)
    assert (first.train != other.train).any()
    np.testing.assert_array_equal(first.test, fold.test)
    for limit in (0, 50, 51):
        np.testing.assert_array_equal(protocol.limited(fold, limit, seed=0).train, fold.train)


def test_obstacles_are_named():
    def obstacle(train, test):
        values = np.array(train + test)
        split = np.array(["train"] * len(train) + ["test"] * len(test))
        return protocol.obstacle(values, protocol.sides(values, split, is_group=False, seed=0))

    assert "1 values" in obstacle(["a", "a"], ["a", "b"])
    assert "0 values" in obstacle(["a", "b"], ["c", "d"])
    assert obstacle(["a", "b"], ["b"]) == ""
    no_test = protocol.TrainTest(np.array([0, 1]), np.array([], int), within_test=False)
    assert "to test" in protocol.obstacle(np.array(["a", "b"]), no_test)


def test_chance_is_the_share_of_the_most_frequent_value():
    assert protocol.chance(np.array(["a", "b", "b", "c"])) == 0.5


def test_each_group_is_asked_once_and_known_from_the_others():
    groups = np.array(["x", "y", "x", "z", "y", "w"])
    values = np.array(["a", "b", "a", "b", "", ""])  # y has a video, w all without a value
    folds = protocol.leave_groups_out(values, groups)
    assert [(f.train.tolist(), f.test.tolist()) for f in folds] == [
        ([1, 3], [0, 2]),
        ([0, 2, 3], [1]),
        ([0, 1, 2], [3]),
    ]
