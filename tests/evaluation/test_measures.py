import numpy as np

from vcjax.evaluation import measures, probes
from vcjax.evaluation.measures import ProbeSettings
from vcjax.evaluation.outputs import ModelOutputs
from vcjax.evaluation.protocol import TrainTest, leave_groups_out

N = 60
PROBING = ProbeSettings(shots=(2,), num_draws=3, retrieval=(1, 5), num_neighbors=5)


def _output():
    rng = np.random.default_rng(0)
    labels = np.array(["run", "walk", "jump"])[rng.integers(0, 3, N)]
    pooled = rng.normal(size=(N, 8)) + 1.5 * np.eye(3, 8)[np.unique(labels, return_inverse=True)[1]]
    embedding = probes.unit(pooled)
    return ModelOutputs(embedding, pooled.astype(np.float32), np.zeros((1, N), int)), labels


def test_accuracy_over_folds_is_the_fraction_of_all_videos_each_predicted_without_its_group():
    output, labels = _output()
    groups = np.repeat(["s0", "s1", "s2"], (10, 20, 30))
    folds = leave_groups_out(labels, groups)
    measured = measures.measure(output, labels, folds, PROBING, seed=0)
    correct = []
    for group in ("s0", "s1", "s2"):
        train, test = groups != group, groups == group
        predicted = probes.linear(output.pooled[train], labels[train], output.pooled[test], seed=0)
        correct.append(predicted == labels[test])
    assert measured.linear == np.concatenate(correct).mean()
    np.testing.assert_allclose(measured.linear_by_fold, [c.mean() for c in correct])
    nearest = [
        probes.nearest_neighbor(
            output.embedding[f.train], labels[f.train], output.embedding[f.test]
        )
        == labels[f.test]
        for f in folds
    ]
    np.testing.assert_allclose(measured.neighbor, np.concatenate(nearest).mean())
    assert measured.retrieval["1"] == measured.neighbor
    assert measured.few_shot["2"]["num_draws"] == 3


def test_one_fold_is_the_split():
    output, labels = _output()
    fold = TrainTest(np.arange(40), np.arange(40, N), within_test=False)
    measured = measures.measure(output, labels, [fold], PROBING, seed=0)
    predicted = probes.linear(output.pooled[:40], labels[:40], output.pooled[40:], seed=0)
    np.testing.assert_array_equal(measured.predictions, predicted)
    assert measured.linear == measured.few_shot["all"]["mean"] == np.mean(predicted == labels[40:])
