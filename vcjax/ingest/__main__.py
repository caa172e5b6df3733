r"""Decode every video once, into a collection that any number of runs use.

    vcjax ingest VIDEOS COLLECTION --config=la_idt.py:folder
    vcjax main --config=la_idt.py:folder --config.data.collection=COLLECTION --workdir=runs/mine

The pass over a video checks it, stores its frames at reduced size for training, detects people if
`--config.idt.detector` names a detector, and computes its Fisher vectors; trajectories are not
kept. Run the command again after videos were added, changed or removed, or with other settings of
`idt` and `fisher` to add their vectors. Several machines share the work by --shard=I/N; the last
one to finish completes the collection.
"""

import argparse
import functools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from vcjax import settings
from vcjax.data import manifest as manifests
from vcjax.data import shards, splits
from vcjax.data.manifest import Manifest
from vcjax.ingest.collection import Pictures
from vcjax.ingest.ingest import check_detectors, ingest
from vcjax.ingest.plan import Options, Shard
from vcjax.ingest.variant import Variant, variant_of
from vcjax.runtime import config_flags as configs
from vcjax.runtime import filesystem
from vcjax.settings import validation


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with a one-line message if it fails."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    overrides = [a for a in rest if a.startswith("--config.")]
    for_beam = [a for a in rest if not a.startswith("--config.")]
    if for_beam and not options.runner:
        parser.error(f"unknown argument {for_beam[0]}")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("vcjax").setLevel(logging.INFO)
    try:
        if not options.runner:
            _ingest(options, overrides, options.shard)
            return
        manifests.read(options.videos)  # an error ends the command before any worker starts
        try:
            from vcjax.ingest import beam
        except ImportError as error:
            raise ValueError("--runner needs Apache Beam: pip install 'vcjax[beam]'") from error
        names = [f"{i}/{options.num_shards}" for i in range(1, options.num_shards + 1)]
        work = functools.partial(_ingest, options, overrides)
        beam.run(names, work, [f"--runner={options.runner}", *for_beam])
    except (ValueError, OSError) as error:
        sys.exit(f"vcjax ingest: {error}")


def _ingest(options: argparse.Namespace, overrides: Sequence[str], shard: str) -> None:
    """Ingest one shard, and print a summary if the collection is complete then."""
    config, variants = _config(options.config, overrides), _variants(options, overrides)
    check_detectors(variants)
    videos = manifests.read(options.videos)
    collection = ingest(
        videos,
        filesystem.path_of(options.collection),
        Pictures(options.side or 2 * config.clip.side, options.codec),
        variants,
        Options(
            options.num_workers,
            options.on_error,
            _shard(shard),
            options.keep_trajectories,
            options.staging,
        ),
        training=_training(videos, config) if variants else (),
    )
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
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="part I of N of the videos, I from 1 to N"
    )
    parser.add_argument(
        "--runner", help="runner of Apache Beam for all shards; further options are passed to Beam"
    )
    parser.add_argument(
        "--num_shards", type=int, default=100, metavar="N", help="shards of --runner"
    )
    parser.add_argument(
        "--keep_trajectories", type=Path, metavar="FOLDER", help="keep trajectory files"
    )
    parser.add_argument(
        "--staging", type=Path, help="local folder for unfinished work; default: in COLLECTION"
    )
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--on_error", choices=("error", "skip"), default="error")
    return parser


def _variants(options: argparse.Namespace, overrides: Sequence[str]) -> list[Variant]:
    if options.no_vectors:
        return []
    changes = ["", *options.also]
    more = [[f"--config.{c}" for c in change.split(";") if c] for change in changes]
    configs = [_config(options.config, [*overrides, *changed]) for changed in more]
    return [variant_of(config, seed=_seed(config)) for config in configs]


def _seed(config: ConfigDict) -> int:
    return config.seed if config.data.seed < 0 else config.data.seed


def _training(videos: Manifest, config: ConfigDict) -> tuple[str, ...]:
    """Return the ids of the training videos of a run with this config."""
    if not config.data.holdout:
        return tuple(i for i, s in zip(videos.video_ids, videos.split, strict=True) if s != "test")
    split = splits.assign_split(
        videos,
        group=settings.group_column(config.data.group, videos.labels),
        holdout=config.data.holdout,
        seed=_seed(config),
    )
    return split.subset("train").video_ids


def _shard(text: str) -> Shard:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"--shard is {text!r}; use I/N with I from 1 to N, for example 3/8")
    return Shard(int(index) - 1, int(count))


def _config(config: str, overrides: Sequence[str]) -> ConfigDict:
    arguments = ["vcjax ingest", f"--config={config}", *overrides]
    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=True, sys_argv=arguments
    )
    configs.parse(arguments, values, describe_unknown=validation.unknown)
    validation.check(flag.value)
    return flag.value


if __name__ == "__main__":
    main()
