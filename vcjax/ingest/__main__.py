r"""Decode every video once, into a collection that any number of runs use.

    vcjax ingest VIDEOS COLLECTION --config=la_idt.py:folder
    vcjax main --config=la_idt.py:folder --config.data.collection=COLLECTION --workdir=runs/mine

The pass over a video checks it, stores its frames at reduced size for training, detects people if
`--config.idt.detector` names a detector, and computes its Fisher vectors; trajectories are not
kept. Run the command again after videos were added, changed or removed, or with other settings of
`idt` and `fisher` to add their vectors. Several machines share the work by --share=I/N.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from vcjax.data import manifest as manifests
from vcjax.data import shards
from vcjax.ingest.collection import Pictures
from vcjax.ingest.ingest import Options, Share, ingest
from vcjax.ingest.variant import Variant, variant_of
from vcjax.runtime import config_flags as configs
from vcjax.runtime import filesystem


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with a one-line message if it fails."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("vcjax").setLevel(logging.INFO)
    config = _config(options.config, [a for a in rest if a.startswith("--config.")])
    if unknown := [a for a in rest if not a.startswith("--config.")]:
        parser.error(f"unknown argument {unknown[0]}")
    variants = [_variant(config)]
    for changes in options.also:
        overrides = [f"--config.{change}" for change in changes.split(";")]
        variants.append(_variant(_config(options.config, [*rest, *overrides])))
    try:
        videos = manifests.read(options.videos)
        collection = ingest(
            videos,
            filesystem.path_of(options.collection),
            Pictures(options.side or 2 * config.clip.side, options.codec),
            () if options.no_vectors else variants,
            Options(
                options.num_workers,
                options.on_error,
                _share(options.share),
                options.keep_trajectories,
                options.staging,
            ),
            fit_ids=videos.subset("train").video_ids if any(videos.split) else None,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax ingest: {error}")
    print(collection.summary())


def _parser() -> argparse.ArgumentParser:
    summary, _, details = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="vcjax ingest",
        description=f"{summary}\n\n{details}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.SETTING=VALUE overrides a setting of the config.",
    )
    parser.add_argument("videos", help="folder, or table with a path column; also gs:// or s3://")
    parser.add_argument("collection", help="folder to make or extend; also gs:// or s3://")
    parser.add_argument(
        "--config", default="la_idt.py", help="config whose idt and fisher sections are used"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="SETTING=VALUE[;...]",
        help="compute another variant of the vectors in the same pass, for example "
        "\"fisher.descriptors=('hof','mbh')\" or idt.detector=none; repeatable",
    )
    parser.add_argument("--no_vectors", action="store_true", help="store frames only")
    parser.add_argument(
        "--side", type=int, default=0, help="short side of the frames; default: twice clip.side"
    )
    parser.add_argument("--codec", choices=shards.CODECS, default="jpeg")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="this machine's share")
    parser.add_argument(
        "--keep_trajectories", type=Path, metavar="FOLDER", help="keep trajectory files"
    )
    parser.add_argument(
        "--staging", type=Path, help="local folder for unfinished work; default: in COLLECTION"
    )
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--on_error", choices=("error", "skip"), default="error")
    return parser


def _variant(config: ConfigDict) -> Variant:
    return variant_of(config, seed=config.seed if config.data.seed < 0 else config.data.seed)


def _share(text: str) -> Share:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--share is {text!r}; use I/N with I from 0 to N - 1, for example 0/8")
    return Share(int(index), int(count))


def _config(config: str, overrides: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    configs.parse(["vcjax ingest", f"--config={config}", *overrides], values)
    return flag.value


if __name__ == "__main__":
    main()
