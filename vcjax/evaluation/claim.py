"""The claim of Sec. 4.5 as an experiment: a config trained with several seeds, with error bars.

The claim: clusters of a network's own features follow appearance, IDT clusters follow motion.
"""

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vcjax.data import manifest as manifests
from vcjax.evaluation import few_shot, report_table, transfer_results
from vcjax.evaluation.few_shot import Estimate
from vcjax.runtime import preemption
from vcjax.settings import GROUP_COLUMNS

_SHARED = ("manifest", "ingest", "fisher")  # stages whose results do not depend on the seed
_ACCURACIES = ("5-shot", "linear", "neighbor", "finetuned")
_BY_FOLD = {"linear": "linear_by_fold", "finetuned": "finetuned"}  # measure -> entry of a report
_FIRST = 44  # width of the column of titles
_PAIRS = (
    *((name, "scratch") for name in ("ir", "la", "la_idt", "la_idt_tune")),
    *(("la_idt", "la"), ("la_idt_tune", "la_idt")),
)
_COLORS = ("#2a6f97", "#c9713b")  # of the labels of a claim

Measures = Mapping[str, Estimate]


class Claim(NamedTuple):
    """Names of two label columns: the one to represent, and the one to be invariant to."""

    motion: str
    scene: str

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, in the order of the columns of a table."""
        return (*_ACCURACIES, *self.ami("AMI"), *self.ami("mixed"))

    def ami(self, videos: str) -> tuple[str, str]:
        """Return the names of the agreements with both labels.

        `videos` is "AMI" for all videos, or in evaluations by folds "mixed" for the videos of
        scenes with several motions.
        """
        return f"{videos} {self.motion}", f"{videos} {self.scene}"


def train(
    config: str, seeds: Sequence[int], workdir: Path, *, overrides: Sequence[str] = ()
) -> list[Path]:
    """Run `config` once per seed and return the runs' folders, `workdir/seedN`.

    Complete stages are skipped and interrupted ones resumed. Seeds share the compilation cache
    `workdir/compiled`, and the first seed's stages in _SHARED.

    Raises:
      RuntimeError: if a run fails.
      preemption.StopRequested: if a stop was requested; the run has written its checkpoint.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": str(workdir / "compiled"), **os.environ}
    folders: list[Path] = []
    for seed in seeds:
        folder = workdir / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        if folders:
            _share(folders[0], folder)
        command = [sys.executable, "-m", "vcjax.main", f"--config={config}"]
        command += [f"--workdir={folder}", f"--config.seed={seed}", *overrides]
        if code := preemption.run(command, environment):
            raise RuntimeError(
                f"seed {seed} failed with exit code {code}; rerun the same command to resume"
            )
        folders.append(folder)
    return folders


def _share(first: Path, folder: Path) -> None:
    for name in _SHARED:
        if not (folder / name).exists():
            os.symlink(os.path.relpath(first / name, folder), folder / name)


def collect(reports: Sequence[Mapping[str, Any]], claim: Claim) -> dict[str, Measures]:
    """Return the mean and interval of each measure over the reports, for each model in all of them.

    Raises:
      ValueError: if no model is in all reports.
    """
    names = [n for n in report_table.TITLES if all(n in _entries(report) for report in reports)]
    if not names:
        raise ValueError(
            "the reports have no model in common; evaluate the same stages for each seed"
        )
    collected: dict[str, Measures] = {}
    for name in names:
        entries = [_entries(report)[name] for report in reports]
        figures = [_figures(entry, claim) for entry in entries]
        common = set.intersection(*(set(f) for f in figures))
        collected[name] = {
            measure: few_shot.estimate([f[measure] for f in figures])
            for measure in figures[0]
            if measure in common
        }
    return collected


def gains(reports: Sequence[Mapping[str, Any]], claim: Claim) -> dict[tuple[str, str], Measures]:
    """Return the mean and interval of the gain of one model over another, for the pairs in _PAIRS.

    Differences are paired by seed, and those of the linear probe and of finetuning by fold too if
    the reports have their accuracy by fold. Pairs with a model that is missing from a report are
    left out.
    """
    gained: dict[tuple[str, str], Measures] = {}
    for pair in _PAIRS:
        if all(name in report["models"] for name in pair for report in reports):
            sides = [[_figures(r["models"][name], claim) for r in reports] for name in pair]
            common = set.intersection(*(set(figures) for side in sides for figures in side))
            measures = {
                measure: few_shot.estimate(
                    [a[measure] - b[measure] for a, b in zip(*sides, strict=True)]
                )
                for measure in claim.measures
                if measure in common
            }
            for measure, entry in _BY_FOLD.items():
                by_fold = [
                    [r["models"][name].get(entry, {}).get(claim.motion) for r in reports]
                    for name in pair
                ]
                if all(map(all, by_fold)):
                    differences = np.array(by_fold[0]) - np.array(by_fold[1])
                    measures[measure] = few_shot.estimate(differences.ravel().tolist())
            gained[pair] = measures
    return gained


def _entries(report: Mapping[str, Any]) -> dict[str, Any]:
    return {**report["models"], **({"idt": report["idt"]} if "idt" in report else {})}


def _figures(entry: Mapping[str, Any], claim: Claim) -> dict[str, float]:
    figures = {}
    few = entry.get("few_shot", {}).get(claim.motion, {})
    if "5" in few:
        figures["5-shot"] = few["5"]["mean"]
    if claim.motion in entry["linear"]:
        figures["linear"] = entry["linear"][claim.motion]
    for measure, label in zip(claim.ami("AMI"), claim, strict=True):
        if label in entry["clusters"]["ami"]:
            figures[measure] = entry["clusters"]["ami"][label]
    if claim.motion in entry.get("linear_by_fold", {}):
        figures["neighbor"] = entry["neighbor"][claim.motion]
    if claim.motion in entry.get("finetuned", {}):
        figures["finetuned"] = float(np.mean(entry["finetuned"][claim.motion]))
    if mixed := entry["clusters"].get("mixed", {}).get(claim.motion):
        figures |= zip(claim.ami("mixed"), (mixed["label"], mixed["group"]), strict=True)
    return figures


def table(
    collected: Mapping[str, Measures],
    gained: Mapping[tuple[str, str], Measures],
    claim: Claim,
    num_seeds: int,
) -> str:
    """Return a text table: a row per model of `collect`, then a row per pair of `gains`."""
    present = {measure for measures in collected.values() for measure in measures}
    columns = [m for m in claim.measures if m in present]
    headings = [report_table.printable(measure).rjust(14) for measure in columns]
    lines = [
        f"{report_table.printable(claim.motion)} against {report_table.printable(claim.scene)}, "
        f"{num_seeds} seeds, mean +- half-width of the 95% interval",
        "  ".join([" " * _FIRST, *headings]),
    ]
    rows = {report_table.TITLES[name]: measures for name, measures in collected.items()}
    for (first, second), measures in gained.items():
        rows[f"{report_table.TITLES[first]} over {report_table.TITLES[second]}"] = measures
    for title, measures in rows.items():
        cells = (_cell(measures.get(m), 100 if m in _ACCURACIES else 1) for m in columns)
        aligned = [cell.rjust(len(h)) for cell, h in zip(cells, headings, strict=True)]
        lines.append("  ".join([title.ljust(_FIRST), *aligned]))
    return "\n".join(lines)


def _cell(estimate: Estimate | None, scale: int) -> str:
    if estimate is None:
        return "-"
    digits = 1 if scale == 100 else 3
    text = f"{scale * estimate.mean:.{digits}f}"
    if estimate.interval is None:
        return text
    return f"{text} +- {scale * estimate.interval:.{digits}f}"


def draw(claims: Mapping[Claim, Mapping[str, Measures]], path: Path) -> None:
    """Write a figure with one row per claim: accuracy for motion, and agreement of the clusters."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure((13, 3.6 * len(claims)), layout="constrained")
    axes = figure.subplots(len(claims), 3, squeeze=False)
    for row, (claim, models) in zip(axes, claims.items(), strict=True):
        titles = [report_table.TITLES[name] for name in models]
        for axis, measure in zip(row, ("5-shot", "linear"), strict=False):
            _bars(axis, models, {measure: _COLORS[0]}, titles, scale=100)
            axis.set_title(f"{claim.motion}: {measure} accuracy, %")
        _bars(row[2], models, dict(zip(claim.ami("AMI"), _COLORS, strict=True)), titles, scale=1)
        row[2].set_title(f"clusters: {claim.motion}, {claim.scene}")
        row[2].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=110)


def _bars(
    axis: Any,
    models: Mapping[str, Measures],
    measures: Mapping[str, str],
    titles: Sequence[str],
    *,
    scale: int,
) -> None:
    height = 0.8 / len(measures)
    for number, (measure, color) in enumerate(measures.items()):
        estimates = [model.get(measure) for model in models.values()]
        places = [i + (number - (len(measures) - 1) / 2) * height for i in range(len(estimates))]
        means = [scale * estimate.mean if estimate else 0.0 for estimate in estimates]
        # NaN draws no error bar: a single seed has no interval.
        errors = [scale * ((e.interval if e else None) or float("nan")) for e in estimates]
        axis.barh(places, means, height, xerr=errors, color=color, label=measure, capsize=2)
    axis.set_yticks(range(len(titles)), titles)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


def report(folders: Sequence[Path], claims: Sequence[Claim], out: Path) -> str:
    """Return the tables of all claims, and write `claim.png` and `claim.json` into `out`."""
    reports = [_report(folder) for folder in folders]
    collected = {claim: collect(reports, claim) for claim in claims}
    draw(collected, out / "claim.png")
    as_json = {
        claim.motion: {
            name: {measure: estimate._asdict() for measure, estimate in measures.items()}
            for name, measures in models.items()
        }
        for claim, models in collected.items()
    }
    (out / "claim.json").write_text(json.dumps(as_json, indent=1) + "\n", "utf-8")
    parts = [
        table(models, gains(reports, claim), claim, len(folders))
        for claim, models in collected.items()
    ]
    return "\n\n".join([*parts, f"figure: {out / 'claim.png'}"])


def _report(folder: Path) -> dict[str, Any]:
    """Return the report of a run, with the accuracies `finetuned` of its networks by fold."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    finetuned = transfer_results.read_result(folder / "finetune") or {"splits": {}}
    for result in finetuned["splits"].values():
        if entry := report["models"].get(result.get("network")):
            by_label = entry.setdefault("finetuned", {})
            by_label.setdefault(finetuned["label"], []).append(result["accuracy"])
    return report


def join(sources: Sequence[Path], path: Path) -> None:
    """Write a manifest that merges the manifests `sources`.

    Video ids, label columns and groups get their file's name as a prefix, and videos of another
    file are unlabeled. The column `group` keeps each group within one side of the split; a file
    without a group column gets one group per video.
    """
    rows: list[dict[str, str]] = []
    for source in sources:
        videos = manifests.read(source)
        group = next((c for c in GROUP_COLUMNS if c in videos.labels), None)
        for row, video_id in enumerate(videos.video_ids):
            labels = {f"{source.stem} {k}": v[row] for k, v in videos.labels.items()}
            key = videos.labels[group][row] if group else video_id
            about = {"path": videos.paths[row], "video_id": f"{source.stem}/{video_id}"}
            about |= {"split": videos.split[row]}
            rows.append(about | {"group": f"{source.stem} {key}"} | labels)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
