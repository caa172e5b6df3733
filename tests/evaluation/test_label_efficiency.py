import numpy as np
import pytest

from vcjax.evaluation import label_efficiency
from vcjax.evaluation.label_efficiency import Features

N = 60
CLASSES = np.array(["run", "sit", "walk"])[np.arange(N) % 3]
SPLIT = np.where(np.arange(N) < 42, "train", "test")


def _features(noise):
    generator = np.random.default_rng(0)
    rows = np.eye(3)[np.arange(N) % 3] + noise * generator.normal(size=(N, 3))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return {
        "clean": Features(rows),
        "idt": Features(unit, True),
        "noise": Features(rows * 0 + generator.normal(size=(N, 3))),
    }


def _measure(values=CLASSES, split=SPLIT, shots=(1, 5), noise=0.2):
    return label_efficiency.measure(
        _features(noise), values, split, label="action", shots=shots, num_draws=5, seed=0
    )


def test_more_labels_help_features_that_separate_the_classes():
    result = _measure(noise=0.3)
    for name in ("clean", "idt"):
        one, five = (result["accuracy"][name][shot]["mean"] for shot in ("1", "5"))
        assert five > 0.9 and five >= one
    assert result["accuracy"]["noise"]["5"]["mean"] < 0.6
    assert (result["num_train"], result["num_test"]) == (42, 18)
    assert result["chance"] == pytest.approx(1 / 3) and result["notes"] == []


def test_classes_on_one_side_and_small_classes_are_named():
    values = CLASSES.copy()
    values[:42][values[:42] == "walk"] = "jump"  # in training only, `walk` held out only
    values[:4] = ["rare", "", "rare", ""]
    result = _measure(values, shots=(1, 5, 20))
    assert result["notes"] == [
        "only held out, so never predicted (33% of the held-out videos): walk",
        "only among the training videos, so never tested: jump, rare",
        "5-shot: 1 of 4 classes have fewer training videos and use all of them: rare",
        "20-shot: 4 of 4 classes have fewer training videos and use all of them: jump, rare, run, "
        "sit; left out, since no class has as many",
    ]
    assert "20" not in result["accuracy"]["clean"]


def test_a_label_that_cannot_be_predicted_is_refused():
    with pytest.raises(ValueError, match="label more videos"):
        _measure(np.where(SPLIT == "train", "a", "b"))


def test_table_and_plot_show_every_number_of_shots(tmp_path):
    result = _measure()
    text = label_efficiency.table(result)
    assert "1-shot" in text and "5-shot" in text and "IDT Fisher vectors" in text
    mean = result["accuracy"]["clean"]["5"]["mean"]
    assert f"{100 * mean:.1f} ±" in text
    label_efficiency.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
