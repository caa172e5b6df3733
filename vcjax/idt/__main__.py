"""Trajectories from the command line.

python -m vcjax.idt detect --manifest FOLDER_OR_TABLE --out BOXES [--detector onnx:FILE]
python -m vcjax.idt extract --manifest FOLDER_OR_TABLE --out FOLDER [--people BOXES] [--skip]
python -m vcjax.idt extract --manifest FOLDER_OR_TABLE --out FOLDER --fisher MODEL.npz
python -m vcjax.idt beam --manifest FOLDER_OR_TABLE --out FOLDER [--runner=RUNNER ...]
python -m vcjax.idt draw VIDEO OUT.mp4 [--people BOXES.bb]
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.idt", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_extract(commands.add_parser("extract", help="trajectories of every video; resumable"))
    _add_detect(commands.add_parser("detect", help="boxes of people in every video; resumable"))
    _add_draw(commands.add_parser("draw", help="the tracks over the video"))
    _add_beam(
        commands.add_parser(
            "beam", help="extract, by Apache Beam; takes its options too", allow_abbrev=False
        )
    )
    options, others = parser.parse_known_args(arguments)
    if others and options.command != "beam":
        parser.error(f"not understood: {' '.join(others)}")
    options.for_beam = others
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.idt: {error}")


def _add_extract(parser: argparse.ArgumentParser) -> None:
    _add_collection(parser, "folder of the trajectories")
    _add_how(parser)
    _add_camera(parser, "folder of box files VIDEO_ID.bb")
    parser.add_argument(
        "--fisher",
        type=Path,
        metavar="MODEL",
        help="keep Fisher vectors by this model instead of trajectories, all in vectors.npz",
    )
    parser.add_argument("--reading", default="paper", help="of the Fisher vector: paper, released")
    parser.set_defaults(run=_extract)


def _add_detect(parser: argparse.ArgumentParser) -> None:
    _add_collection(parser, "folder of the box files")
    _add_how(parser)
    parser.add_argument(
        "--detector", default="hog", help="hog, onnx:FILE, maskrcnn or maskrcnn:WEIGHTS"
    )
    parser.add_argument("--min_score", type=float, help="of a person (default: the detector's)")
    parser.add_argument("--max_people", type=int, default=8, help="on a frame, the largest")
    parser.set_defaults(run=_detect)


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path, help="an mp4 file")
    _add_camera(parser, "box file")
    parser.set_defaults(run=_draw)


def _add_beam(parser: argparse.ArgumentParser) -> None:
    _add_collection(parser, "folder of the trajectories, the same for all workers")
    _add_camera(parser, "folder of box files VIDEO_ID.bb")
    parser.add_argument("--num_retries", type=int, default=2, help="of a video that fails")
    parser.set_defaults(run=_beam)


def _add_collection(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--manifest", required=True, help="folder, or table with a path column")
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="only the I-th of N parts, 1/N to N/N, for array jobs",
    )


def _add_camera(parser: argparse.ArgumentParser, people: str) -> None:
    parser.add_argument("--people", type=Path, help=people)
    parser.add_argument("--matcher", default="flow", help="matches for the camera's motion")


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--skip", action="store_true", help="go on without videos that fail")


def shard(text: str) -> tuple[int, int]:
    """Number and count of the parts that `I/N` says. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return index, count


def _videos(options: argparse.Namespace) -> dict[str, str]:
    """Files of this part by id: every N-th, in the order of the ids."""
    from vcjax.data import manifest

    index, count = options.shard
    videos = manifest.read(options.manifest)
    return dict(list(zip(videos.video_ids, videos.paths, strict=True))[index - 1 :: count])


def _extract(options: argparse.Namespace) -> None:
    how: dict[str, Any] = {
        "matcher": options.matcher,
        "people": options.people,
        "num_workers": options.num_workers,
        "on_error": "skip" if options.skip else "error",
    }
    if options.fisher:
        from vcjax.idt import direct_encoding

        found = direct_encoding.extract_vectors(
            _videos(options), options.out, options.fisher, reading=options.reading, **how
        )
        index, count = options.shard
        part = "" if count == 1 else f"-{index:05d}-of-{count:05d}"
        target = options.out / f"vectors{part}.npz"
        found.save(target)
        print(f"{found.has_vector.sum()} of {len(found.video_ids)} videos have one in {target}")
        return
    from vcjax.idt import collection

    counts = collection.extract_collection(_videos(options), options.out, **how)
    print(f"{sum(counts.values())} trajectories of {len(counts)} videos in {options.out}")


def _detect(options: argparse.Namespace) -> None:
    from vcjax.idt import detection

    counts = detection.detect_collection(
        _videos(options),
        options.out,
        detection.Settings(options.detector, options.min_score, options.max_people),
        num_workers=options.num_workers,
        on_error="skip" if options.skip else "error",
    )
    print(f"people on {sum(counts.values())} frames of {len(counts)} videos in {options.out}")


def _beam(options: argparse.Namespace) -> None:
    try:
        from vcjax.idt import beam
    except ImportError as error:
        raise ValueError("beam needs Apache Beam: pip install 'vcjax[beam]'") from error
    counts = beam.run(
        _videos(options),
        options.out,
        matcher=options.matcher,
        people=options.people,
        num_retries=options.num_retries,
        options=options.for_beam,
    )
    print(f"{counts['trajectories']} trajectories of {counts['videos']} videos in {options.out}")
    if counts["failed"]:
        raise ValueError(f"{counts['failed']} videos failed; see {options.out / 'failed.tsv'}")


def _draw(options: argparse.Namespace) -> None:
    from vcjax.idt import drawing

    drawing.draw(options.video, options.out, people=options.people, matcher=options.matcher)


if __name__ == "__main__":
    main()
