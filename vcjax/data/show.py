"""A sheet of clips as the network sees them in training: a row each, cut and augmented.

First stands a frame as it was cut from the video, then frames evenly over the augmented clip.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from vcjax import settings
from vcjax.data import manifest, verify
from vcjax.data.manifest import Manifest

_GAP = 4  # pixels between pictures
_TEXT = 16  # pixels of a row's caption

Pictures = UInt8[np.ndarray, "n t h w 3"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `show` takes."""
    parser.add_argument("manifest", type=Path, help="folder, or table with a path column")
    parser.add_argument("out", type=Path, help="a PNG file")
    parser.add_argument("--num_clips", type=int, default=12, help="rows, each of another video")
    parser.add_argument("--columns", type=int, default=6, help="frames of a clip that are shown")
    parser.add_argument("--seed", type=int, default=0, help="another draws other clips")
    parser.add_argument(
        "--num_frames", type=int, help="of a clip (default: the paper's, as of all of these)"
    )
    parser.add_argument("--stride", type=int, help="frames of the video from one to the next")
    parser.add_argument("--side", type=int, help="pixels")


def run(options: argparse.Namespace) -> None:
    """Writes the sheet."""
    for name in ("num_clips", "columns", "num_frames", "stride", "side"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    clip = settings.paper().clip
    for name in ("num_frames", "stride", "side"):
        clip[name] = getattr(options, name) or clip[name]
    listed = manifest.read(options.manifest)
    drawn = np.random.default_rng(options.seed).permutation(len(listed))[: options.num_clips]
    videos, problems = verify.verify(
        listed.take(sorted(drawn.tolist())), on_missing="skip", decode=False, num_workers=1
    )
    cut, augmented, rows = clips_of(videos, clip, seed=options.seed)
    wanted = np.linspace(0, clip.num_frames - 1, options.columns).round().astype(int)
    pictures = np.concatenate([cut[:, :1], augmented[:, wanted]], axis=1)
    save(pictures, [videos.video_ids[row] for row in rows], options.out)
    print(f"{len(rows)} clips in {options.out}")
    for problem in problems:
        print(f"left out {problem.video_id}: {problem.reason}")


def clips_of(
    videos: Manifest, clip: ConfigDict, *, seed: int
) -> tuple[Pictures, Pictures, list[int]]:
    """A training clip of each of `videos` as cut and as augmented, and which video it is of."""
    from vcjax.data import augment, clips

    dataset = clips.training_clips(
        videos,
        num_frames=clip.num_frames,
        stride=clip.stride,
        side=clip.side,
        scales=clip.scales,
        batch_size=len(videos),
        num_epochs=1,
        seed=seed,
    )
    batch = dataset[0]
    inputs = augment.augment(
        batch["clip"],
        batch["key"],
        flip=clip.flip,
        greyscale=clip.greyscale,
        jitter=clip.jitter,
    )
    visible = 255 * np.clip(np.asarray(inputs) + np.array(augment.MEAN), 0, 1)
    return batch["clip"], visible.round().astype(np.uint8), batch["index"].tolist()


def save(pictures: Pictures, captions: Sequence[str], path: Path) -> None:
    """Writes a PNG, a row each with its caption above it."""
    from PIL import Image, ImageDraw, ImageFont

    num_rows, num_columns, height, width, _ = pictures.shape
    step = (height + _TEXT + _GAP, width + _GAP)
    sheet = Image.new("RGB", (num_columns * step[1] + _GAP, num_rows * step[0] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (frames, caption) in enumerate(zip(pictures, captions, strict=True)):
        top = row * step[0] + _GAP
        draw.text((_GAP, top), caption, fill="black", font=ImageFont.load_default(12))
        for column, frame in enumerate(frames):
            left = column * step[1] + _GAP
            sheet.paste(Image.fromarray(frame), (left, top + _TEXT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
