import numpy as np

from vcjax.evaluation import retrieval

DEPTHS = (1, 5, 10, 20, 50)


def test_recall_by_hand():
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    known = 3 * np.column_stack([np.cos(angles), np.sin(angles)])
    values = np.array(["a", "b", "b", "c", "a"])
    asked = np.array([[1.0, -0.5], [1.0, -0.5], [1.0, -0.5], [0.0, 0.1]])  # from 0 up; from .4 down
    found = retrieval.recall(
        known, values, asked, np.array(["a", "b", "c", "c"]), depths=(1, 2, 3, 4)
    )
    assert found == {"1": 0.25, "2": 0.75, "3": 0.75, "4": 1.0}


def test_separable_embeddings_are_found_at_once_and_random_ones_by_chance():
    generator = np.random.default_rng(0)
    values = np.array(list("abcdefghij")).repeat(100)
    rows = 20 * np.eye(10)[np.arange(1000) // 100] + generator.normal(size=(1000, 10))
    found = retrieval.recall(rows, values, rows, values, depths=DEPTHS)
    assert set(found.values()) == {1.0}
    noise = generator.normal(size=(3000, 16))
    found = retrieval.recall(noise[:1000], values, noise[1000:], values.repeat(2), depths=DEPTHS)
    for depth in DEPTHS:
        assert abs(found[str(depth)] - (1 - 0.9**depth)) < 0.03


def test_the_vote_weighs_by_similarity():
    known = np.array([[1.0, 0.0], [0.9, 0.436], [0.9, -0.436], [-1.0, 0.0]])
    values = np.array(["near", "far", "far", "other"])
    vote = lambda count, temperature: retrieval.vote(  # noqa: E731
        known, values, np.array([[2.0, 0.0]]), num_neighbors=count, temperature=temperature
    )
    # two at cosine 0.9 outweigh one at 1 only while exp(-0.1 / temperature) > 1/2
    assert vote(3, 1.0) == ["far"] and vote(3, 0.05) == ["near"]
    assert vote(1, 1.0) == ["near"] and vote(99, 1.0) == ["far"]
