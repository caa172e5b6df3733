"""Write the manifest of a data set in a folder; report missing, unlisted and duplicate videos.

UCF101, HMDB51, Kinetics and Something-Something v2 are recognized by their official lists, in
--lists or in the folder itself. Any other data set is a plain folder: the class of a video is its
parent folder.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcjax.data import layouts, manifest
from vcjax.data.layouts import MatchedVideos
from vcjax.runtime import filesystem

_SHOWN = 10  # items listed of each kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `scan`."""
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
        help="split of UCF101 or HMDB51 (default: all, in columns split1 to split3)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("manifest.tsv"),
        help="table to write (default: manifest.tsv)",
    )


def run(options: argparse.Namespace) -> None:
    """Write the manifest and print the counts.

    Videos on the lists without a file are written to OUT.missing.tsv.
    """
    if options.split:
        splits = {"": layouts.find(options.root, options.lists, split=options.split)}
    else:
        splits = layouts.find_splits(options.root, options.lists)
    matched = next(iter(splits.values()))
    columns, rows = table(splits)
    if not rows:
        raise manifest.ManifestError(
            f"{matched.layout}: no video of this split in {options.root}; {matched.left_out} files "
            "are of videos that are not in this split; choose another --split or folder"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_table(options.out, columns, rows)
    missing = options.out.with_name(f"{options.out.stem}.missing.tsv")
    missing.unlink(missing_ok=True)
    if matched.missing:
        manifest.write_table(missing, ("video_id", "class", "split"), matched.missing)
    files = {path for x in splits.values() for path in x.videos}
    print(summary(matched, layouts.duplicates(sorted(files))))
    for name, other in list(splits.items())[1:]:
        print(f"{name}: {counted(other)}")
    print(f"manifest: {options.out}" + (f"; missing: {missing}" if matched.missing else ""))


def table(splits: Mapping[str, MatchedVideos]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the manifest: all videos and their side in each split.

    The column `split` has the sides of the first split. It is omitted if a video is in other splits
    only.
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


def counted(matched: MatchedVideos) -> str:
    """Return a line with the numbers of training, test and missing videos."""
    sides = Counter(video.split for video in matched.videos.values())
    return f"{sides['train']} train, {sides['test']} test, {len(matched.missing)} missing"


def summary(matched: MatchedVideos, duplicates: Sequence[Sequence[Path]]) -> str:
    """Return a table of counts by class and split, and lists of files that need attention."""
    videos = matched.videos.values()
    sides = sorted({v.split for v in videos} | {v.split for v in matched.missing}, reverse=True)
    here = Counter((v.label, v.split) for v in videos)
    absent = Counter((v.label, v.split) for v in matched.missing)
    classes = sorted({label for label, _ in here})
    width = max(len("class"), *map(len, classes))
    lines = [f"{matched.layout}: {len(videos)} videos of {len(classes)} classes"]
    head = "".join(f"{side or 'videos':>9}{'missing':>9}" for side in sides)
    lines.append(f"{'class':{width}}{head}")
    for label in classes:
        counts = "".join(f"{here[label, s]:9d}{absent[label, s]:9d}" for s in sides)
        lines.append(f"{label or '-':{width}}{counts}")
    totals = [(_count(here, side), _count(absent, side)) for side in sides]
    lines.append(f"{'all':{width}}" + "".join(f"{n:9d}{m:9d}" for n, m in totals))
    if untouched := len({label for label, _ in absent} - set(classes)):
        lines.append(f"{untouched} classes without any file are not shown")
    undivided = sum(not video.split for video in videos)
    if 0 < undivided < len(videos):
        lines.append(
            f"{undivided} files are in no folder of a split; move them to one, or fill the column "
            "`split` of the table"
        )
    if matched.skipped:
        lines.append(matched.skipped)
    if matched.left_out:
        lines.append(f"{matched.left_out} files are of videos that are not in this split")
    empty = [path for path in matched.videos if not path.stat().st_size]
    lines += _list(empty, "files are empty")
    lines += _list(matched.unlisted, "files are not in any list")
    lines += _list(matched.extra, "files are ignored because their video has another file")
    lines += _list(
        [_equal_files(group, matched) for group in duplicates], "groups of files are equal"
    )
    return "\n".join(lines)


def _count(counts: Counter[tuple[str, str]], side: str) -> int:
    return sum(n for (_, split), n in counts.items() if split == side)


def _equal_files(group: Sequence[Path], matched: MatchedVideos) -> str:
    sides = {matched.videos[path].split for path in group if path in matched.videos}
    across = ", in train and test" if len(sides) > 1 else ""
    more = f", and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
    return " = ".join(str(path) for path in group[:_SHOWN]) + more + across


def _list(items: Sequence[object], description: str) -> list[str]:
    shown = [f"  {item}" for item in items[:_SHOWN]]
    more = [f"  and {len(items) - _SHOWN} more"] * (len(items) > _SHOWN)
    return [f"{len(items)} {description}:", *shown, *more] if items else []
