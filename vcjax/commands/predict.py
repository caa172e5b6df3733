"""Predict class probabilities of videos, or of windows, by a finetuned classifier.

vcjax predict --checkpoint runs/mine/finetune --manifest VIDEOS --out predictions.csv
"""

import argparse
import csv
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vcjax import embed
from vcjax.runtime import atomic, extras

if TYPE_CHECKING:
    from vcjax.data.manifest import Manifest


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with a message if the input is invalid."""
    parser = argparse.ArgumentParser(
        prog="vcjax predict",
        description=__doc__.partition("\n")[0],
        epilog="The output has the columns video_id (with --window also start and end, in "
        "seconds), class, and the probability of each class. If the table has the column of the "
        "classes, the accuracy is printed.",
    )
    embed.add_network(parser)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument(
        "--only",
        metavar="COLUMN=VALUE",
        help="predict only videos with this value, such as split1=test",
    )
    options = parser.parse_args(arguments)
    try:
        with extras.explained():
            _predict(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.predict: {error}")


def _predict(options: argparse.Namespace) -> None:
    if options.out.suffix != ".csv":
        raise ValueError(f"--out is {options.out}; use a name that ends in .csv")
    embed.check(options)
    network, manifest, config = embed.load(options)
    classifier = network.require_classifier()
    if options.only:
        manifest = _only(manifest, options.only)

    def probabilities(part: "Manifest") -> embed.Columns:
        from vcjax.training import finetune

        if options.window is None:
            found = network.predict(part, clips_per_video=options.clips_per_video, config=config)
            return {"video_id": np.array(part.video_ids, str), "probability": found}
        averages_softmax = classifier.average == "softmax"
        run = finetune.forward(network.model, classifier.input_scale, softmax=averages_softmax)
        cut = embed.cut_of(options, config)
        columns = embed.window_columns(run, ["probability"], part, cut, options.batch_size)
        return columns | {"probability": classifier.probabilities(columns["probability"])}

    settings = ["predict", options.clips_per_video, options.window, options.stride, classifier]
    columns = embed.in_parts(options, network, manifest, config, settings, probabilities)
    predictions = np.array(classifier.classes)[columns["probability"].argmax(axis=1)]
    _write(options.out, columns, predictions, classifier.classes)
    shutil.rmtree(embed.parts_of(options))
    print(f"{options.out}: {len(predictions)} rows, {len(classifier.classes)} classes")
    if options.window is None and classifier.label in manifest.labels:
        print(_accuracy(manifest, classifier.label, predictions))


def _only(manifest: "Manifest", text: str) -> "Manifest":
    """Return the videos with a value of a column, given COLUMN=VALUE."""
    column, equals, value = text.partition("=")
    columns = {**manifest.labels, "split": manifest.split}
    if not equals or column not in columns:
        raise ValueError(f"--only is {text!r}; use COLUMN=VALUE with one of {sorted(columns)}")
    rows = [row for row, entry in enumerate(columns[column]) if entry == value]
    if not rows:
        raise ValueError(
            f"--only: no video has {column}={value}; values are {set(columns[column])}"
        )
    return manifest.take(rows)


def _accuracy(manifest: "Manifest", label: str, predictions: np.ndarray) -> str:
    truth = np.array(manifest.labels[label])
    labeled = truth != ""
    if not labeled.any():
        return f"no video has a value of {label}, so there is no accuracy"
    accuracy = float(np.mean(predictions[labeled] == truth[labeled]))
    return f"accuracy of {label}: {accuracy!r} on {labeled.sum()} videos"


def _write(
    path: Path, columns: embed.Columns, predictions: np.ndarray, classes: Sequence[str]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = [name for name in columns if name != "probability"]
    writer.writerow([*first, "class", *classes])
    for row, (prediction, probability) in enumerate(
        zip(predictions.tolist(), columns["probability"], strict=True)
    ):
        start = [
            f"{v:.3f}" if isinstance(v, float) else v
            for v in (columns[k][row].item() for k in first)
        ]
        writer.writerow([*start, prediction, *(f"{value:.6f}" for value in probability)])
    atomic.write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
