"""Tables 1-7 and Figure 4 of the paper, with the run that reproduces each number.

A run is a config in `configs/` with variants. Its results are read from the folder RUNS/NAME.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vcjax.evaluation import transfer_results

_TITLES = ("Scratch", "Video LA", "Video LA + IDT prior", "Supervised")
_KINETICS = "--config.data.collection=KINETICS"
_TRANSFER = (
    "--config.few_shot.manifest=UCF101 --config.ucf101.manifest=UCF101 "
    "--config.hmdb51.manifest=HMDB51"
)


class Run(NamedTuple):
    """One experiment.

    `config` is a file in `configs/` and `variants` its comma-separated variants, without
    "transfer". `people` says whether IDT uses person detections.
    """

    config: str
    variants: str = ""
    people: bool = False

    @property
    def name(self) -> str:
        """Return the name of the folder with the results."""
        parts = [self.config, *filter(None, self.variants.split(","))]
        if self.config == "la_idt" and not self.people:
            parts.append("no_detections")
        return "-".join(parts)

    @property
    def argument(self) -> str:
        """Return the value of the flag --config."""
        if self.config == "idt_baseline":
            return "configs/idt_baseline.py"
        variants = ",".join(filter(None, ("transfer", self.variants)))
        return f"configs/{self.config}.py:{variants}"

    def command(self, runs: Path) -> str:
        """Return the command line of the run; words in capitals are placeholders for paths."""
        start = f"python -m vcjax.main --config={self.argument}"
        workdir = f"--workdir={runs / self.name}"
        if self.config == "idt_baseline":
            manifest = self.variants.upper().replace("-", "_")
            return f"{start} {workdir} --config.data.manifest={manifest}"
        videos = "--config.data.manifest=UCF101" if self.config == "scratch" else _KINETICS
        if self.variants == "videos370k":
            videos = "--config.data.collection=KINETICS600"
        people = " --config.idt.detector=none" * (self.config == "la_idt" and not self.people)
        return f"{start} {workdir} {videos}{people} {_TRANSFER}"


class Cell(NamedTuple):
    """A number of the paper, and the source of ours.

    `paper` is None if the paper only plots the number or omits it. `measure` is STAGE/SPLIT,
    STAGE/mean, few_shot/SHOTS or svm, averaged over `runs`. With `relative`, the result is a
    percentage of that run's.
    """

    paper: float | None
    runs: tuple[Run, ...] = ()
    measure: str = ""
    relative: Run | None = None


class Table(NamedTuple):
    """A table of the paper: its rows are pairs of a title and cells, one for each column."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def _la_idt(variants: str = "") -> Run:
    return Run("la_idt", variants, people=True)


def _both(run: Run, ucf101: float | None, hmdb51: float | None) -> tuple[Cell, ...]:
    return Cell(ucf101, (run,), "ucf101/split1"), Cell(hmdb51, (run,), "hmdb51/split1")


def _with_share(
    run: Run, figures: Sequence[float], *, split: str, variants: str = ""
) -> tuple[Cell, ...]:
    """Return cells with accuracy and percentage of the supervised accuracy, for both datasets."""
    supervised = Run("supervised", variants)
    return tuple(
        Cell(figure, (run,), f"{stage}/{split}", relative)
        for figure, stage, relative in zip(
            figures,
            ("ucf101", "ucf101", "hmdb51", "hmdb51"),
            (None, supervised, None, supervised),
            strict=True,
        )
    )


def _lengths(config: str, figures: Sequence[float]) -> tuple[Cell, ...]:
    """Return cells for clips of 16, 32 and 64 frames, first on UCF101, then on HMDB51."""
    runs = [
        Run(config, variants, people=config == "la_idt")
        for variants in ("", "frames32", "frames64")
    ]
    stages = ("ucf101/split1",) * 3 + ("hmdb51/split1",) * 3
    return tuple(Cell(f, (r,), s) for f, r, s in zip(figures, runs * 2, stages, strict=True))


def _shots(run: Run, figures: Sequence[float]) -> tuple[Cell, ...]:
    shots = ("1", "5", "10", "20", "all")
    return tuple(Cell(f, (run,), f"few_shot/{s}") for f, s in zip(figures, shots, strict=True))


def _idt(dataset: str, figure: float) -> Cell:
    runs = tuple(Run("idt_baseline", f"{dataset}-split{i}") for i in (1, 2, 3))
    return Cell(figure, runs, "svm")


def _others(*figures: float | None) -> tuple[Cell, ...]:
    return tuple(Cell(figure) for figure in figures)


_SHARES = ("UCF101", "% sup.", "HMDB51", "% sup.")
_SETS = ("UCF101", "HMDB51")

TABLES = (
    Table(
        "1",
        "Objectives, split 1, 16 frames of 112 x 112, 3D ResNet18",
        _SHARES,
        tuple(
            (title, _with_share(run, figures, split="split1"))
            for title, run, figures in (
                ("Scratch", Run("scratch"), (42.4, 50.2, 17.1, 30.3)),
                ("Video IR", Run("ir"), (70.0, 82.9, 39.9, 70.7)),
                ("Video LA", Run("la"), (71.4, 84.6, 41.7, 73.9)),
                ("Video LA + IDT prior", _la_idt(), (72.8, 86.3, 44.0, 78.0)),
                ("Supervised", Run("supervised"), (84.4, 100.0, 56.4, 100.0)),
            )
        ),
    ),
    Table(
        "2",
        "Few-shot, UCF101 split 1, frozen network",
        ("1-shot", "5-shot", "10-shot", "20-shot", "All"),
        tuple(
            (title, _shots(run, figures))
            for title, run, figures in (
                ("Scratch", Run("scratch"), (1.7, 7.5, 10.6, 17.2, 38.2)),
                ("Video IR", Run("ir"), (13.4, 27.7, 35.2, 42.4, 56.5)),
                ("Video LA", Run("la"), (15.6, 30.6, 36.4, 44.2, 58.6)),
                ("Video LA + IDT prior", _la_idt(), (17.8, 31.5, 38.4, 45.5, 58.8)),
                ("Supervised", Run("supervised"), (46.4, 62.0, 67.7, 73.3, 81.8)),
            )
        ),
    ),
    Table(
        "3",
        "Clip length, split 1: UCF101 and HMDB51 with 16, 32 and 64 frames",
        ("UCF 16", "UCF 32", "UCF 64", "HMDB 16", "HMDB 32", "HMDB 64"),
        tuple(
            (title, _lengths(config, figures))
            for title, config, figures in zip(
                _TITLES,
                ("scratch", "la", "la_idt", "supervised"),
                (
                    (42.4, 44.9, 45.3, 17.1, 18.0, 17.4),
                    (71.4, 75.0, 79.4, 41.7, 43.1, 48.9),
                    (72.8, 76.3, 81.5, 44.0, 44.7, 49.6),
                    (84.4, 87.0, 91.2, 56.4, 63.1, 67.5),
                ),
                strict=True,
            )
        ),
    ),
    Table(
        "4",
        "Comparison to the state of the art, mean of three splits",
        _SHARES,
        (
            ("PMAS, C3D, 112, 16 frames", _others(61.2, 74.3, 33.4, None)),
            ("3D-Puzzle, R18, 224, 16", _others(65.8, 78.0, 33.7, 59.8)),
            ("DPC, R18, 112, 40", _others(68.2, None, 34.5, None)),
            (
                "Ours, R18, 112, 16",
                _with_share(_la_idt(), (73.0, 86.5, 41.6, 73.8), split="mean"),
            ),
            ("3D-RotNet, R18, 112, 64", _others(66.0, 72.1, 37.1, 55.5)),
            (
                "Ours, R18, 112, 64",
                _with_share(
                    _la_idt("frames64"),
                    (83.0, 90.7, 50.4, 75.6),
                    split="mean",
                    variants="frames64",
                ),
            ),
            ("DPC, R34, 224, 40", _others(75.7, None, 35.7, None)),
            ("CBT, S3D, 112, 16", _others(79.5, 82.1, 44.6, 58.8)),
            (
                "IDT, full videos",
                (_idt("ucf101", 85.9), Cell(None), _idt("hmdb51", 57.2), Cell(None)),
            ),
        ),
    ),
    Table(
        "5",
        "Ablations, split 1",
        _SETS,
        (
            ("Ours without detections", _both(Run("la_idt"), 72.6, 43.1)),
            ("Ours without tuning", _both(_la_idt("no_tune"), 72.6, 43.1)),
            ("Ours full", _both(_la_idt(), 72.8, 44.0)),
        ),
    ),
    Table(
        "6",
        "Number of clusters K and of K-means runs m, split 1",
        _SETS,
        (
            ("K 30000, m 10", _both(_la_idt("clusters30000x10"), 73.0, 42.4)),
            ("K 12000, m 6", _both(_la_idt("clusters12000x6"), 73.7, 42.2)),
            ("K 6000, m 3", _both(_la_idt(), 72.8, 44.0)),
            ("K 3000, m 2", _both(_la_idt("clusters3000x2"), 72.8, 43.9)),
            ("K 1500, m 1", _both(_la_idt("clusters1500x1"), 72.2, 41.6)),
        ),
    ),
    Table(
        "7",
        "Network depth and frame resolution, split 1",
        _SETS,
        (
            ("3D ResNet18, 112 x 112", _both(_la_idt(), 72.8, 44.0)),
            ("3D ResNet18, 224 x 224", _both(_la_idt("side224"), 74.6, 43.8)),
            ("3D ResNet34, 112 x 112", _both(_la_idt("depth34"), 73.6, 42.2)),
            ("3D ResNet34, 224 x 224", _both(_la_idt("depth34,side224"), 77.1, 45.8)),
        ),
    ),
    Table(
        "figure4",
        "Number of pretraining videos, split 1; plotted in the paper, 235,000 also in Table 1",
        _SETS,
        (
            ("135,000 videos", _both(_la_idt("videos135k"), None, None)),
            ("185,000 videos", _both(_la_idt("videos185k"), None, None)),
            ("235,000 videos", _both(_la_idt(), 72.8, 44.0)),
            ("370,000 videos", _both(_la_idt("videos370k"), None, None)),
        ),
    ),
)


def all_runs(tables: Sequence[Table] = TABLES) -> list[Run]:
    """Return every run of `tables` once, in order of occurrence."""
    return list(dict.fromkeys(run for cell in _cells(tables) for run in _needed(cell)))


def ours(cell: Cell, runs: Path) -> float | None:
    """Return our result in %, or None if a run that it needs has no result yet."""
    figures = [_figure(run, cell.measure, runs) for run in cell.runs]
    if not figures or None in figures:
        return None
    share = sum(filter(None, figures)) / len(figures)
    if cell.relative is None:
        return 100 * share
    whole = _figure(cell.relative, cell.measure, runs)
    return 100 * share / whole if whole else None


def render(runs: Path, tables: Sequence[Table] = TABLES) -> str:
    """Return the tables as text, each cell as PAPER | OURS, and the commands of missing runs."""
    parts = ["Each cell: the paper's result | ours, in % (- if not available)."]
    for table in tables:
        name = "Figure 4" if table.name == "figure4" else f"Table {table.name}"
        parts += ["", f"{name}. {table.title}", _line("", table.columns)]
        for title, cells in table.rows:
            parts.append(_line(title, [_pair(cell, runs) for cell in cells]))
    missing = dict.fromkeys(
        run for cell in _cells(tables) if ours(cell, runs) is None for run in _needed(cell)
    )
    if missing:
        parts += [
            "",
            "Runs without a result yet (UCF101, HMDB51: manifests; KINETICS: a collection made by",
            "vcjax ingest VIDEOS KINETICS --config=la_idt.py --also=idt.detector=none --side=240):",
        ]
        parts += [run.command(runs) for run in missing]
    return "\n".join(parts)


def _cells(tables: Sequence[Table]) -> Iterator[Cell]:
    for table in tables:
        for _, cells in table.rows:
            yield from cells


def _needed(cell: Cell) -> tuple[Run, ...]:
    return cell.runs + ((cell.relative,) if cell.relative else ())


def _figure(run: Run, measure: str, runs: Path) -> float | None:
    folder = runs / run.name
    if measure == "svm":
        return _svm_figure(folder / "report.json")
    stage, _, part = measure.partition("/")
    result = transfer_results.read_result(folder / stage)
    if result is None:
        return None
    if stage == "few_shot":
        first = next(iter(result["splits"].values()))
        return first["few_shot"].get(part, {}).get("mean")
    if part == "mean":
        return result["accuracy"]
    splits = result["splits"]
    return (splits.get(part) or next(iter(splits.values())))["accuracy"]


def _svm_figure(report: Path) -> float | None:
    """Return the accuracy of the SVM on all descriptors, concatenated, for the first label."""
    try:
        models = json.loads(report.read_text("utf-8"))["models"]
        return next(iter(models["IDT side by side"]["linear"].values()), None)
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return None


def _pair(cell: Cell, runs: Path) -> str:
    return f"{_number(cell.paper)} | {_number(ours(cell, runs))}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _line(title: str, cells: Sequence[str]) -> str:
    return (f"  {title:<28}" + "".join(cell.rjust(14) for cell in cells)).rstrip()
