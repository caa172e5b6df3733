"""Map a folder of videos by looks and by motion, without training: clusters, neighbors, tracks.

vcjax explore VIDEOS --out runs/mine [--open]
vcjax explore VIDEOS --out runs/mine --embeddings clip=clip.npz
"""

import argparse
import runpy
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the config explore.py; exit with its exit code."""
    parser = argparse.ArgumentParser(
        prog="vcjax explore",
        description=__doc__.partition("\n")[0],
        epilog="Run the same command again to resume, or with other options to change the page; "
        "trajectories are extracted once. --config.KEY=VALUE changes any setting of "
        "configs/explore.py.",
    )
    parser.add_argument("videos", help="folder, or table with a path column")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    parser.add_argument(
        "--num_clusters",
        type=int,
        default=0,
        help="number of clusters (default: the square root of the number of videos)",
    )
    parser.add_argument(
        "--embeddings",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="other embeddings to compare, .npz or .parquet with the column video_id; repeatable",
    )
    parser.add_argument(
        "--on_error", choices=("error", "skip"), default="error", help="skip: leave out bad videos"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options, settings = parser.parse_known_args(arguments)
    if unknown := [word for word in settings if not word.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    workdir = options.out or Path("runs") / Path(options.videos).absolute().stem
    if code := _run(options, workdir, settings):
        sys.exit(code)
    page = (workdir / "explore" / "index.html").absolute().as_uri()
    print(f"page: {page}")
    if options.open:
        webbrowser.open(page)


def _run(options: argparse.Namespace, workdir: Path, settings: Sequence[str]) -> int | str | None:
    """Run `vcjax main` in this process and return its exit code."""
    sys.argv = [
        "vcjax main",
        "--config=explore.py",
        f"--workdir={workdir}",
        f"--config.data.manifest={options.videos}",
        f"--config.data.on_error={options.on_error}",
        f"--config.explore.num_clusters={options.num_clusters}",
        f"--config.explore.embeddings={tuple(options.embeddings)}",
        *settings,
    ]
    try:
        runpy.run_module("vcjax.main", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    return 0


if __name__ == "__main__":
    main()
