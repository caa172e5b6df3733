"""Command line for dense trajectories and boxes of people.

python -m vcjax.idt detect --manifest FOLDER_OR_TABLE --out BOXES [--detector onnx:FILE]
python -m vcjax.idt extract --manifest FOLDER_OR_TABLE --out FOLDER [--people BOXES]
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
    """Parse the command line and run its command; exit with a one-line message on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.idt", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_extract(commands.add_parser("extract", help="extract trajectories; resumable"))
    _add_detect(commands.add_parser("detect", help="detect people; resumable"))
    _add_draw(commands.add_parser("draw", help="draw the tracks on a video"))
    _add_beam(
        commands.add_parser(
            "beam", help="extract with Apache Beam; accepts its options", allow_abbrev=False
        )
    )
    options, others = parser.parse_known_args(arguments)
    if others and options.command != "beam":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.for_beam = others
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.idt: {error}")


def _add_extract(parser: argparse.ArgumentParser) -> None:
    _add_collection(parser, "output folder of trajectories")
    _add_how(parser)
    _add_camera(parser, "folder of box files VIDEO_ID.bb")
    _add_max_side(parser)
    parser.add_argument(
        "--fisher",
        type=Path,
        metavar="MODEL",
        help="model file; write Fisher vectors to vectors.npz instead of trajectories",
    )
    parser.add_argument("--variant", default="paper", help="Fisher vector variant: paper, released")
    parser.set_defaults(run=_extract)


def _add_detect(parser: argparse.ArgumentParser) -> None:
    _add_collection(parser, "output folder of box files")
    _add_how(parser)
    parser.add_argument(
        "--detector", default="hog", help="hog, onnx:FILE, maskrcnn, maskrcnn:WEIGHTS"
    )
    parser.add_argument("--min_score", type=float, help="lowest score (default: the detector's)")
    parser.add_argument("--max_people", type=int, default=8, help="per frame, largest first")
    parser.set_defaults(run=_detect)


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path, help="mp4 file to write")
    _add_camera(parser, "box file")
    parser.set_defaults(run=_draw)


def _add_beam(parser: argparse.ArgumentParser) -> None:
    _add_collection(parser, "output folder of trajectories, shared by all workers")
    _add_camera(parser, "folder of box files VIDEO_ID.bb")
    _add_max_side(parser)
    parser.add_argument("--num_retries", type=int, default=2, help="retries of a video that fails")
    parser.set_defaults(run=_beam)


def _add_collection(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument(
        "--manifest", required=True, help="folder of videos, or table with a path column"
    )
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="process only part I of N, from 1/N to N/N, for array jobs",
    )


def _add_camera(parser: argparse.ArgumentParser, people: str) -> None:
    parser.add_argument("--people", type=Path, help=people)
    parser.add_argument(
        "--matcher", default="flow", help="point matches for camera motion: flow, surf"
    )


def _add_max_side(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max_side",
        type=int,
        default=0,
        help="reduce larger frames to this larger side in pixels (default: frames as they are)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="number of processes"
    )
    parser.add_argument(
        "--on_error",
        choices=("error", "skip"),
        default="error",
        help="skip: continue without videos that fail",
    )


def shard(text: str) -> tuple[int, int]:
    """Return (I, N) from text of the form `I/N`.

    Raises:
        ArgumentTypeError: If the text has another form or I is not in 1 to N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I/N with I from 1 to N")
    return index, count


def _videos(options: argparse.Namespace) -> dict[str, str]:
    """Return the video files of this part by id: every N-th video in the order of the ids."""
    from vcjax.data import manifest, verify

    index, count = options.shard
    videos = manifest.read(options.manifest)
    if getattr(options, "on_error", "skip") == "error":
        verify.check_files(videos)
    return dict(list(zip(videos.video_ids, videos.paths, strict=True))[index - 1 :: count])


def _extract(options: argparse.Namespace) -> None:
    how: dict[str, Any] = {
        "matcher": options.matcher,
        "people": options.people,
        "max_side": options.max_side,
        "num_workers": options.num_workers,
        "on_error": options.on_error,
    }
    if options.fisher:
        from vcjax.idt import direct_encoding

        result = direct_encoding.extract_vectors(
            _videos(options), options.out, options.fisher, variant=options.variant, **how
        )
        index, count = options.shard
        part = "" if count == 1 else f"-{index:05d}-of-{count:05d}"
        target = options.out / f"vectors{part}.npz"
        result.save(target)
        print(
            f"{target}: {result.has_vector.sum()} of {len(result.video_ids)} videos have a vector"
        )
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
        on_error=options.on_error,
    )
    print(f"{options.out}: people on {sum(counts.values())} frames of {len(counts)} videos")


def _beam(options: argparse.Namespace) -> None:
    try:
        from vcjax.idt import beam
    except ImportError as error:
        raise ValueError("the command beam needs Apache Beam: pip install 'vcjax[beam]'") from error
    counts = beam.run(
        _videos(options),
        options.out,
        matcher=options.matcher,
        people=options.people,
        num_retries=options.num_retries,
        max_side=options.max_side,
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
