"""Trajectories from the command line.

python -m vcjax.idt extract --manifest FOLDER_OR_TABLE --out FOLDER [--people FOLDER] [--skip]
python -m vcjax.idt draw VIDEO OUT.mp4 [--people BOXES.bb]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m vcjax.idt", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    extract = commands.add_parser("extract", help="one file of trajectories a video; resumable")
    extract.add_argument("--manifest", required=True, help="folder, or table with a path column")
    extract.add_argument("--out", type=Path, required=True, help="folder of the trajectories")
    extract.add_argument("--people", type=Path, help="folder of box files VIDEO_ID.bb")
    extract.add_argument("--matcher", default="flow", help="matches for the camera's motion")
    extract.add_argument("--num_workers", type=int, default=os.cpu_count() or 1, help="processes")
    extract.add_argument("--skip", action="store_true", help="go on without videos that fail")
    extract.set_defaults(run=_extract)
    draw = commands.add_parser("draw", help="the tracks over the video")
    draw.add_argument("video", type=Path)
    draw.add_argument("out", type=Path, help="an mp4 file")
    draw.add_argument("--people", type=Path, help="box file")
    draw.add_argument("--matcher", default="flow", help="matches for the camera's motion")
    draw.set_defaults(run=_draw)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax.idt: {error}")


def _extract(options: argparse.Namespace) -> None:
    from vcjax.data import manifest
    from vcjax.idt import collection

    videos = manifest.read(options.manifest)
    counts = collection.extract_collection(
        dict(zip(videos.video_ids, videos.paths, strict=True)),
        options.out,
        matcher=options.matcher,
        people=options.people,
        num_workers=options.num_workers,
        on_error="skip" if options.skip else "error",
    )
    print(f"{sum(counts.values())} trajectories of {len(counts)} videos in {options.out}")


def _draw(options: argparse.Namespace) -> None:
    from vcjax.idt import drawing

    drawing.draw(options.video, options.out, people=options.people, matcher=options.matcher)


if __name__ == "__main__":
    main()
