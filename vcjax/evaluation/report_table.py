"""The report as a table, for the terminal and the HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TITLES = {
    "scratch": "Scratch",
    "ir": "Video IR",
    "la": "Video LA",
    "la_tune": "Video LA, tuned",
    "la_idt": "Video LA + IDT",
    "la_idt_tune": "Video LA + IDT, tuned",
    "supervised": "Supervised",
    "looks": "Looks (HOG)",
    "motion": "Motion (HOF, MBH)",
    "idt": "IDT Fisher vectors",
}
_WIDTH = 100  # of a terminal
_FIRST = 22  # width of the models' names
_CELLS = (9, 8, 7)  # widths of `columns`
_AMI_NOTES = (
    "AMI       adjusted mutual information of clusters and label: 0 is chance, 1 is identical",
    "Chance    accuracy in % of always predicting the most frequent label",
)
_GAP = 2  # before the columns of each label


class Row(NamedTuple):
    """A row of the table: its title, and label -> the texts in the `columns` of the report."""

    title: str
    cells: Mapping[str, tuple[str, str, str]]


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text of at most 100 columns, with one row per model."""
    names, lines = labels(report), rows(report)
    block = sum(_CELLS) + _GAP
    at_once = (_WIDTH - _FIRST) // block
    parts = [f"Evaluation of {printable(report['dataset'])}", *notes(report)[:1]]
    no_labels = 0 if "leave_one_out" in report else 1  # models, without any columns
    for start in range(0, max(len(names), no_labels), at_once):
        shown = names[start : start + at_once]
        titles = (printable(name)[: block - _GAP].center(block - _GAP) for name in shown)
        parts += [
            "",
            (" " * _FIRST + "".join(" " * _GAP + title for title in titles)).rstrip(),
            _line("", [columns(report) for _ in shown]),
            "-" * (_FIRST + block * len(shown)),
        ]
        parts += [_line(row.title, [row.cells[name] for name in shown]) for row in lines]
    return "\n".join([*parts, "", *notes(report)[1:]])


def _line(title: str, cells: Sequence[Sequence[str]]) -> str:
    text = title.ljust(_FIRST)
    for group in cells:
        text += " " * _GAP + "".join(c.rjust(w) for c, w in zip(group, _CELLS, strict=True))
    return text.rstrip()


def columns(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the titles of the columns for each label."""
    return ("neighbor", "k-NN" if "leave_one_out" in report else "linear", "AMI")


def place(name: str) -> int:
    """Return the position of a model among the rows; unknown models follow the models of TITLES."""
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def labels(report: Mapping[str, Any]) -> list[str]:
    """Return the sorted names of the labels that the report has a result for."""
    entries = [*report["models"].values(), *([report["idt"]] if "idt" in report else [])]
    return sorted({label for e in entries for label in [*e["linear"], *e["clusters"]["ami"]]})


def rows(report: Mapping[str, Any]) -> list[Row]:
    """Return one row per model in the order of TITLES, then one for chance."""
    entries: dict[str, Any] = dict(
        sorted(report["models"].items(), key=lambda item: place(item[0]))
    )
    if "idt" in report:
        entries["idt"] = report["idt"]
    lines = []
    second = "vote" if "leave_one_out" in report else "linear"
    for name, entry in entries.items():
        cells = {
            label: (
                _percent(entry.get("neighbor", {}).get(label)),
                _percent(entry[second].get(label)),
                _decimal(entry["clusters"]["ami"].get(label)),
            )
            for label in labels(report)
        }
        lines.append(Row(TITLES.get(name, name), cells))
    if "chance" in report:
        chance = {label: _percent(report["chance"].get(label)) for label in labels(report)}
        lines.append(Row("Chance", {k: (v, v, _decimal(0.0)) for k, v in chance.items()}))
    return lines


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return explanations of the table, one per line; the first is the number of videos."""
    if "leave_one_out" in report:
        return _exploration_notes(report)
    count, splits = report.get("num_videos", {}), report.get("asked", {})
    lines = ["Percentages of the held-out videos"]
    if group := report.get("held_out_in_turn"):
        lines = [f"Percentages of all videos, each value of {printable(group)} held out in turn"]
    elif count:
        lines = [f"{count['test']} held-out videos, {count['train']} training videos"]
    lines += [
        "neighbor  accuracy in % of a nearest-neighbor classifier on the embedding",
        "linear    accuracy in % of a linear classifier on the frozen features",
        *_AMI_NOTES[: 2 if report.get("chance") else 1],
    ]
    for label, sides in splits.items():
        if group:
            lines.append(
                f"{printable(label)}: evaluated on {sides['test']} videos, each by a probe that "
                f"was fitted on at least {sides['fit']} others"
            )
            continue
        source = "other held-out videos" if sides["within_test"] else "training videos"
        lines.append(
            f"{printable(label)}: evaluated on {sides['test']} held-out videos, "
            f"fitted on {sides['fit']} {source}"
        )
    return lines


def _exploration_notes(report: Mapping[str, Any]) -> list[str]:
    """Return the notes of a report on all videos, none of which is held out."""
    lines = ["Percentages of all videos, each compared with the others; no video is held out"]
    if report["chance"]:
        lines += [
            "neighbor  accuracy in % of the label of the nearest other video",
            "k-NN      accuracy in % of a vote of the nearest videos, weighted by similarity",
            *_AMI_NOTES,
        ]
    else:
        lines = ["No label has a value that two videos share, so only clusters are reported"]
    for label, protocol in report["leave_one_out"].items():
        others = f" of other values of {printable(protocol['apart'])}" if protocol["apart"] else ""
        lines.append(f"{printable(label)}: {protocol['num']} videos, compared with videos{others}")
    for name, entry in report["models"].items():
        sizes, missing = entry["clusters"]["sizes"], report["without_vector"][name]
        without = f"; {missing} without trajectories" if missing else ""
        lines.append(
            f"{TITLES.get(name, name)}: {sum(sizes)} videos in {len(sizes)} clusters of "
            f"{sizes[-1]} to {sizes[0]} videos{without}"
        )
    shared = report["shared_neighbors"]
    for first, second, share in shared["pairs"]:
        pair = f"{TITLES.get(first, first)} and {TITLES.get(second, second)}"
        count, chance = shared["num_neighbors"], 100 * shared["chance"]
        lines.append(
            f"{pair} share {100 * share:.0f}% of the nearest {count} videos (chance {chance:.0f}%)"
        )
    return lines


def printable(text: str) -> str:
    """Return `text` with each unprintable character replaced by a space.

    Labels come from users and could contain line breaks or terminal escape sequences.
    """
    return "".join(c if c.isprintable() else " " for c in text)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00")
