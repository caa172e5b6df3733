"""The report as a table, for the terminal and for the page."""

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
    "idt": "IDT Fisher vectors",
}
COLUMNS = ("neighbor", "linear", "AMI")
_WIDTH = 100  # of a terminal
_FIRST = 22  # width of the models' names
_CELLS = (9, 8, 7)  # widths of neighbor, linear, AMI
_GAP = 2  # before each label


class Row(NamedTuple):
    """One line: a title, and for each label what stands below COLUMNS."""

    title: str
    cells: Mapping[str, tuple[str, str, str]]


def table(report: Mapping[str, Any]) -> str:
    """The report for a terminal of 100 columns: one row a model, three columns a label."""
    names, lines = labels(report), rows(report)
    block = sum(_CELLS) + _GAP
    at_once = (_WIDTH - _FIRST) // block
    parts = [f"Evaluation of {printable(report['dataset'])}", *notes(report)[:1]]
    for start in range(0, max(len(names), 1), at_once):
        shown = names[start : start + at_once]
        titles = (printable(name)[: block - _GAP].center(block - _GAP) for name in shown)
        parts += [
            "",
            (" " * _FIRST + "".join(" " * _GAP + title for title in titles)).rstrip(),
            _line("", [COLUMNS for _ in shown]),
            "-" * (_FIRST + block * len(shown)),
        ]
        parts += [_line(row.title, [row.cells[name] for name in shown]) for row in lines]
    return "\n".join([*parts, "", *notes(report)[1:]])


def _line(title: str, cells: Sequence[Sequence[str]]) -> str:
    text = title.ljust(_FIRST)
    for group in cells:
        text += " " * _GAP + "".join(c.rjust(w) for c, w in zip(group, _CELLS, strict=True))
    return text.rstrip()


def labels(report: Mapping[str, Any]) -> list[str]:
    """The label columns of which the report says anything."""
    entries = [*report["models"].values(), *([report["idt"]] if "idt" in report else [])]
    found = {label: None for e in entries for label in [*e["linear"], *e["clusters"]["ami"]]}
    return sorted(found)


def rows(report: Mapping[str, Any]) -> list[Row]:
    """One row a model, one for the prior, one for chance."""
    entries: dict[str, Any] = dict(
        sorted(report["models"].items(), key=lambda item: _place(item[0]))
    )
    if "idt" in report:
        entries["idt"] = report["idt"]
    found = []
    for name, entry in entries.items():
        cells = {
            label: (
                _percent(entry.get("neighbor", {}).get(label)),
                _percent(entry["linear"].get(label)),
                _decimal(entry["clusters"]["ami"].get(label)),
            )
            for label in labels(report)
        }
        found.append(Row(TITLES.get(name, name), cells))
    if "chance" in report:
        chance = {label: _percent(report["chance"].get(label)) for label in labels(report)}
        found.append(Row("Chance", {k: (v, v, _decimal(0.0)) for k, v in chance.items()}))
    return found


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the figures mean, for a stranger; the first says of how many videos they are."""
    count, asked = report.get("num_videos", {}), report.get("asked", {})
    found = ["In % of held-out videos"]
    if group := report.get("held_out_in_turn"):
        found = [f"In % of all videos, each value of {printable(group)} held out in turn"]
    if count:
        found = [f"{count['test']} videos held out, {count['train']} trained on"]
    found += [
        "neighbor  % of held-out videos whose most similar known video has the same label",
        "linear    % of held-out videos that a linear classifier, fitted on known ones, gets right",
        "AMI       agreement of the clusters with the label: 0 chance, 1 equal",
    ]
    if report.get("chance"):
        found.append("Chance    % right for always answering the most frequent label")
    for label, sides in asked.items():
        known = "other held-out videos" if sides["within_test"] else "training videos"
        found.append(
            f"{printable(label)}: asked of {sides['test']} held-out videos, "
            f"known from {sides['fit']} {known}"
        )
    return found


def printable(text: str) -> str:
    """`text` on one line, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _place(name: str) -> int:
    order = list(TITLES)
    return order.index(name) if name in order else len(order)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00")
