"""Images of clusters: frames of their most central videos side by side (Fig. 2 and 3)."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vcjax.data import video

log = logging.getLogger(__name__)

WIDTH, HEIGHT = 112, 84  # pixels of a tile
NUM_FRAMES = 5  # of each video in a sheet
_PAPER, _INK, _GREY = (255, 255, 255), (34, 34, 34), 168
_GAP = 2  # pixels between frames
_SPACE = 10  # pixels between videos and between rows of the overview
_CAPTION = 210  # pixels of text before a row of the overview
_MOMENTS = (1, 2)  # indices of the NUM_FRAMES frames that the overview shows

Tile = UInt8[np.ndarray, "h w 3"]
Tiles = UInt8[np.ndarray, "t h w 3"]


def tile(frame: Tile) -> Tile:
    """Return a frame resized and padded to HEIGHT x WIDTH pixels."""
    padded = ImageOps.pad(Image.fromarray(frame), (WIDTH, HEIGHT), color=_PAPER)
    return np.asarray(padded)


def read(
    path: str | Path,
    num_frames: int,
    count: int = NUM_FRAMES,
    resize: Callable[[Tile], Tile] = tile,
) -> Tiles:
    """Return `count` thumbnails, RGB in [0, 255], evenly spaced over a video of `num_frames`.

    Frames that cannot be decoded are gray. `resize` makes a thumbnail of a frame.
    """
    positions = ((np.arange(count) + 0.5) * max(num_frames, 1) / count).astype(int)
    tiles: dict[int, Tile] = {}
    try:
        for index, frame in video.frames_at(path, sorted(set(positions.tolist()))):
            tiles[index] = resize(frame)
    except (video.DecodeError, OSError) as error:
        log.warning(
            "evaluate: frames that cannot be decoded are gray in the images of clusters: %s", error
        )
    gray = np.full(next((t.shape for t in tiles.values()), (HEIGHT, WIDTH, 3)), _GREY, np.uint8)
    shown = [tiles.get(position, gray) for position in positions.tolist()]
    # the size of frames can change within a file
    return np.stack([tile if tile.shape == gray.shape else gray for tile in shown])


def contact_sheet(videos: Sequence[Tiles]) -> Image.Image:
    """Return an image with one row per video, its frames from left to right."""
    width = NUM_FRAMES * (WIDTH + _GAP) - _GAP
    sheet = Image.new("RGB", (width, len(videos) * (HEIGHT + _GAP) - _GAP), _PAPER)
    for row, tiles in enumerate(videos):
        _paste(sheet, tiles, 0, row * (HEIGHT + _GAP))
    return sheet


def overview(
    clusters: Sequence[tuple[Sequence[str], Sequence[Tiles]]], *, num_videos: int
) -> Image.Image:
    """Return an image with one row per cluster: a caption and two frames of each of its videos.

    `clusters` are pairs of caption lines (at most 5 are drawn) and videos (at most `num_videos`).
    """
    place = len(_MOMENTS) * (WIDTH + _GAP) - _GAP + _SPACE
    width = _CAPTION + num_videos * place
    sheet = Image.new("RGB", (width, len(clusters) * (HEIGHT + _SPACE) + _SPACE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for row, (lines, videos) in enumerate(clusters):
        top = _SPACE + row * (HEIGHT + _SPACE)
        for i, line in enumerate(lines[:5]):
            draw.text((_SPACE, top + 17 * i), _shorten(line, font), fill=_INK, font=font)
        for column, tiles in enumerate(videos[:num_videos]):
            _paste(sheet, tiles[list(_MOMENTS)], _CAPTION + column * place, top)
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write a PNG with a palette of 256 colors, about a third of the size of full color."""
    sheet.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def _paste(sheet: Image.Image, tiles: Tiles, left: int, top: int) -> None:
    for column, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (left + column * (WIDTH + _GAP), top))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    room = _CAPTION - 2 * _SPACE
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."
