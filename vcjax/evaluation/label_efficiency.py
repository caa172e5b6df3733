"""Accuracy of several kinds of features as a function of the number of labeled videos per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from vcjax.evaluation import few_shot, protocol, report_table
from vcjax.evaluation.few_shot import Estimate
from vcjax.evaluation.report_table import printable

_FIRST = 22  # width of the column of names
_CELL = 14
_SHOWN = 5  # names in a note


class Features(NamedTuple):
    """Features of n videos."""

    rows: Float[np.ndarray, "n f"]
    is_fisher: bool = False  # Fisher vectors of unit norm, which are not standardized


def measure(
    features: Mapping[str, Features],
    values: Shaped[np.ndarray, " n"],
    split: Shaped[np.ndarray, " n"],
    *,
    label: str,
    shots: Sequence[int],
    num_draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return the accuracy on the held-out videos for each number of shots, and notes.

    Args:
      features: the kinds of features by name.
      values: the class of each video, "" without a label.
      split: "train" or "test" for each video.
      label: name of the label.
      shots: numbers of labeled training videos per class.
      num_draws: random samples for each number of shots.
      seed: seed of the samples.

    Raises:
      ValueError: if no class occurs on both sides, or if the training side has one class.
    """
    train, test = (np.flatnonzero((values != "") & (split == side)) for side in ("train", "test"))
    y_train, y_test = values[train], values[test]
    if not set(y_train) & set(y_test) or len(set(y_train)) < 2:
        raise ValueError(
            f"the label {label!r} has {len(set(y_train))} classes among {len(train)} labeled "
            f"training videos and {len(set(y_test))} among {len(test)} held-out ones; it needs "
            "two, and one of them on both sides: label more videos, or change the column `split`"
        )
    accuracy = {}
    for name, (rows, is_fisher) in features.items():
        estimates = few_shot.accuracy(
            rows[train],
            y_train,
            rows[test],
            y_test,
            shots=shots,
            num_draws=num_draws,
            seed=seed,
            is_fisher=is_fisher,
        )
        accuracy[name] = {shot: estimate._asdict() for shot, estimate in estimates.items()}
    return {
        "label": label,
        "num_train": len(train),
        "num_test": len(test),
        "num_draws": num_draws,
        "chance": protocol.chance(y_test),
        "accuracy": accuracy,
        "notes": _notes(y_train, y_test, shots),
    }


def _notes(y_train: np.ndarray, y_test: np.ndarray, shots: Sequence[int]) -> list[str]:
    """Return one line for each problem of the classes."""
    names, counts = np.unique(y_train, return_counts=True)
    lines = []
    if only := sorted(set(y_test) - set(y_train)):
        share = float(np.isin(y_test, only).mean())
        lines.append(
            f"only held out, so never predicted ({100 * share:.0f}% of the held-out videos): "
            f"{_some(only)}"
        )
    if only := sorted(set(y_train) - set(y_test)):
        lines.append(f"only among the training videos, so never tested: {_some(only)}")
    for shot in shots:
        if few := names[counts < shot].tolist():
            omitted = "; left out, since no class has as many" if len(few) == len(names) else ""
            lines.append(
                f"{shot}-shot: {len(few)} of {len(names)} classes have fewer training videos and "
                f"use all of them: {_some(few)}{omitted}"
            )
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def table(result: Mapping[str, Any]) -> str:
    """Return the result of `measure` as text."""
    shots = sorted({int(s) for row in result["accuracy"].values() for s in row})
    lines = [
        f"Accuracy in % of {printable(result['label'])} on {result['num_test']} held-out videos, "
        f"mean ± half of the 95% interval of {result['num_draws']} draws of the labels",
        " " * _FIRST + "".join(f"{shot}-shot".rjust(_CELL) for shot in shots),
    ]
    for name, row in result["accuracy"].items():
        cells = (_cell(Estimate(**row[str(shot)])).rjust(_CELL) for shot in shots)
        lines.append(report_table.TITLES.get(name, name).ljust(_FIRST) + "".join(cells))
    lines.append("Chance".ljust(_FIRST) + f"{100 * result['chance']:.1f}".rjust(_CELL) * len(shots))
    return "\n".join([*lines, *result["notes"]])


def _cell(estimate: Estimate) -> str:
    interval = "" if estimate.interval is None else f" ± {100 * estimate.interval:.1f}"
    return f"{100 * estimate.mean:.1f}{interval}"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the accuracies with their intervals as a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, row in result["accuracy"].items():
        estimates = [Estimate(**row[shot]) for shot in row]
        axes.errorbar(
            [int(shot) for shot in row],
            [100 * estimate.mean for estimate in estimates],
            yerr=[100 * (estimate.interval or 0) for estimate in estimates],
            marker="o",
            capsize=3,
            label=report_table.TITLES.get(name, name),
        )
    axes.axhline(100 * result["chance"], color="gray", linestyle=":", label="Chance")
    shots = sorted({int(shot) for row in result["accuracy"].values() for shot in row})
    axes.set(xscale="log", xlabel="labeled videos per class", ylabel="accuracy in %", ylim=(0, 102))
    axes.set_xticks(shots, list(map(str, shots)))
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120)
