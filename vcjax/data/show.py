"""Draw a sheet of training clips as the network sees them, one row per clip.

A row begins with the first frame of the clip before augmentation, followed by evenly spaced frames
of the augmented clip.
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
_TEXT = 16  # height of a caption in pixels

Pictures = UInt8[np.ndarray, "n t h w 3"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `show`."""
    parser.add_argument("manifest", type=Path, help="folder, or table with a path column")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--num_clips", type=int, default=12, help="rows, each of a different video")
    parser.add_argument(
        "--columns", type=int, default=6, help="frames shown of each augmented clip"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the videos, clips and augmentations"
    )
    parser.add_argument("--num_frames", type=int, help="frames per clip (default: as in the paper)")
    parser.add_argument(
        "--stride", type=int, help="step between frames of a clip (default: as in the paper)"
    )
    parser.add_argument(
        "--side", type=int, help="size of a clip in pixels (default: as in the paper)"
    )


def run(options: argparse.Namespace) -> None:
    """Write the sheet and print the number of clips and the videos that cannot be read."""
    for name in ("num_clips", "columns", "num_frames", "stride", "side"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    clip = settings.paper().clip
    for name in ("num_frames", "stride", "side"):
        clip[name] = getattr(options, name) or clip[name]
    listed = manifest.read(options.manifest)
    drawn = np.random.default_rng(options.seed).permutation(len(listed))[: options.num_clips]
    videos, problems = verify.verify(
        listed.take(sorted(drawn.tolist())), on_error="skip", decode=False, num_workers=1
    )
    cut, augmented, rows = draw_clips(videos, clip, seed=options.seed)
    shown = np.linspace(0, clip.num_frames - 1, options.columns).round().astype(int)
    pictures = np.concatenate([cut[:, :1], augmented[:, shown]], axis=1)
    save(pictures, [videos.video_ids[row] for row in rows], options.out)
    print(f"{len(rows)} clips in {options.out}")
    for problem in problems:
        print(f"left out {problem.path}: {problem.reason}")


def draw_clips(
    videos: Manifest, clip: ConfigDict, *, seed: int
) -> tuple[Pictures, Pictures, list[int]]:
    """Return a random training clip of each video, before and after augmentation, and its row.

    Both are RGB in [0, 255].
    """
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
        grayscale=clip.grayscale,
        jitter=clip.jitter,
    )
    visible = 255 * np.clip(np.asarray(inputs) + np.array(augment.MEAN), 0, 1)
    return batch["clip"], visible.round().astype(np.uint8), batch["index"].tolist()


def save(pictures: Pictures, captions: Sequence[str], path: Path) -> None:
    """Write a PNG with one row of pictures per clip, each below its caption."""
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
