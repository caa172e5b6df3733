import numpy as np

from vcjax.evaluation import retrieval

DEPTHS = (1, 5, 10, 20, 50)


def test_recall_by_hand():
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    x_train = 3 * np.column_stack([np.cos(angles), np.sin(angles)])
    y_train = np.array(["a", "b", "b", "c", "a"])
    # three queries with neighbors in the order 0, 1, 2, 3, 4, one in the order 4, 3, 2, 1, 0
    x_test = np.array([[1.0, -0.5], [1.0, -0.5], [1.0, -0.5], [0.0, 0.1]])
    recall = retrieval.recall(
        x_train, y_train, x_test, np.array(["a", "b", "c", "c"]), depths=(1, 2, 3, 4)
    )
    assert recall == {"1": 0.25, "2": 0.75, "3": 0.75, "4": 1.0}


def test_separable_embeddings_are_found_at_once_and_random_ones_by_chance():
    generator = np.random.default_rng(0)
    y_train = np.array(list("abcdefghij")).repeat(100)
    rows = 20 * np.eye(10)[np.arange(1000) // 100] + generator.normal(size=(1000, 10))
    recall = retrieval.recall(rows, y_train, rows, y_train, depths=DEPTHS)
    assert set(recall.values()) == {1.0}
    noise = generator.normal(size=(3000, 16))
    recall = retrieval.recall(noise[:1000], y_train, noise[1000:], y_train.repeat(2), depths=DEPTHS)
    for depth in DEPTHS:
        assert abs(recall[str(depth)] - (1 - 0.9**depth)) < 0.03


def test_the_vote_weighs_by_similarity():
    x_train = np.array([[1.0, 0.0], [0.9, 0.436], [0.9, -0.436], [-1.0, 0.0]])
    y_train = np.array(["near", "far", "far", "other"])
    vote = lambda count, temperature: retrieval.vote(  # noqa: E731
        x_train, y_train, np.array([[2.0, 0.0]]), num_neighbors=count, temperature=temperature
    )
    # two at cosine 0.9 outweigh one at 1 only while exp(-0.1 / temperature) > 1/2
    assert vote(3, 1.0) == ["far"] and vote(3, 0.05) == ["near"]
    assert vote(1, 1.0) == ["near"] and vote(99, 1.0) == ["far"]
