"""The manifest of a data set in a folder, and what is missing, unknown or there twice.

UCF101, HMDB51, Kinetics and Something-Something v2 are told by their official lists, in --lists or
in the folder itself; anything else is a plain folder, whose parent folders are the classes.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcjax.data import layouts, manifest
from vcjax.data.layouts import Found
from vcjax.runtime import filesystem

_SHOWN = 10  # of each kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `scan` takes."""
    parser.add_argument(
        "root", type=filesystem.path_of, help="folder of the videos; also gs:// or s3://"
    )
    parser.add_argument(
        "--lists", type=filesystem.path_of, metavar="DIR", help="folder of the official lists"
    )
    parser.add_argument(
        "--split",
        type=int,
        choices=(1, 2, 3),
        help="of UCF101 and HMDB51 alone (default: all, in columns split1 to split3)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("manifest.tsv"), help="default: manifest.tsv"
    )


def run(options: argparse.Namespace) -> None:
    """Writes the manifest, and beside it what is missing; prints the counts."""
    if options.split:
        splits = {"": layouts.find(options.root, options.lists, split=options.split)}
    else:
        splits = layouts.find_splits(options.root, options.lists)
    found = next(iter(splits.values()))
    columns, rows = table(splits)
    if not rows:
        raise manifest.ManifestError(
            f"{found.layout}: no video of this split in {options.root}; "
            f"{found.left_out} files belong to others"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_table(options.out, columns, rows)
    missing = options.out.with_name(f"{options.out.stem}.missing.tsv")
    missing.unlink(missing_ok=True)
    if found.missing:
        manifest.write_table(missing, ("video_id", "class", "split"), found.missing)
    files = {path for x in splits.values() for path in x.videos}
    print(summary(found, layouts.duplicates(sorted(files))))
    for name, other in list(splits.items())[1:]:
        print(f"{name}: {counted(other)}")
    print(f"manifest: {options.out}" + (f"; missing: {missing}" if found.missing else ""))


def table(splits: Mapping[str, Found]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the manifest: the videos of all `splits`, and each one's side in each.

    Column `split` is the first of them. It is left out where other splits alone have a video.
    """
    names = [name for name in splits if name]
    paths = {video.video_id: path for x in splits.values() for path, video in x.videos.items()}
    labels = {v.video_id: v.label for x in splits.values() for v in x.videos.values()}
    sides = [{v.video_id: v.split for v in x.videos.values()} for x in splits.values()]
    whole = sides[0].keys() == paths.keys()
    rows = [
        [
            filesystem.absolute(str(path)),
            video_id,
            labels[video_id],
            *([sides[0][video_id]] if whole else []),
            *(side.get(video_id, "") for side in sides[: len(names)]),
        ]
        for video_id, path in sorted(paths.items())
    ]
    return ["path", "video_id", "class", *(["split"] if whole else []), *names], rows


def counted(found: Found) -> str:
    """Videos of each side, and how many are missing."""
    sides = Counter(video.split for video in found.videos.values())
    return f"{sides['train']} train, {sides['test']} test, {len(found.missing)} missing"


def summary(found: Found, duplicates: Sequence[Sequence[Path]]) -> str:
    """Counts by class and split, and what is missing, unknown, empty or there twice."""
    videos = found.videos.values()
    sides = sorted({v.split for v in videos} | {v.split for v in found.missing}, reverse=True)
    here = Counter((v.label, v.split) for v in videos)
    absent = Counter((v.label, v.split) for v in found.missing)
    classes = sorted({label for label, _ in here})
    width = max(len("class"), *map(len, classes))
    lines = [f"{found.layout}: {len(videos)} videos of {len(classes)} classes"]
    head = "".join(f"{side or 'videos':>9}{'missing':>9}" for side in sides)
    lines.append(f"{'class':{width}}{head}")
    for label in classes:
        counts = "".join(f"{here[label, s]:9d}{absent[label, s]:9d}" for s in sides)
        lines.append(f"{label or '-':{width}}{counts}")
    totals = [(_count(here, side), _count(absent, side)) for side in sides]
    lines.append(f"{'all':{width}}" + "".join(f"{n:9d}{m:9d}" for n, m in totals))
    if untouched := len({label for label, _ in absent} - set(classes)):
        lines.append(f"{untouched} classes without any file are not shown")
    if found.left_out:
        lines.append(f"{found.left_out} files are of videos that this split leaves out")
    empty = [path for path in found.videos if not path.stat().st_size]
    lines += _some(empty, "files are empty")
    lines += _some(found.unlisted, "files are in no list")
    lines += _some(found.extra, "files are second ones of a video, and left out")
    lines += _some([_same(group, found) for group in duplicates], "contents are there repeatedly")
    return "\n".join(lines)


def _count(counts: Counter[tuple[str, str]], side: str) -> int:
    return sum(n for (_, split), n in counts.items() if split == side)


def _same(group: Sequence[Path], found: Found) -> str:
    sides = {found.videos[path].split for path in group if path in found.videos}
    across = ", in train and test" if len(sides) > 1 else ""
    return " = ".join(str(path) for path in group) + across


def _some(items: Sequence[object], what: str) -> list[str]:
    shown = [f"  {item}" for item in items[:_SHOWN]]
    more = [f"  and {len(items) - _SHOWN} more"] * (len(items) > _SHOWN)
    return [f"{len(items)} {what}:", *shown, *more] if items else []
