"""Collection of small rendered videos in which motion and scene are independent.

Every actor has the same degrees of freedom: position, angle, size and limb angles. A motion varies
some of them over time. In the videos of all other motions, these are constant at their values at a
random moment of that motion. A single frame therefore contains no information about the motion.
Motions have no direction, so a horizontal flip preserves the label. There are six actors; scenes
have texture, light and a moving camera. The labels `motion` and `scene` serve evaluation only.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vcjax.data import video
from vcjax.data.manifest import Manifest
from vcjax.runtime import checks, progress, worker_pool

MOTIONS = (
    "approaching",
    "bouncing",
    "circling",
    "flapping",
    "shaking",
    "sweeping",
    "swinging",
    "walking",
)
NUM_SCENES = 16
NUM_ACTORS = 6
HEIGHT, WIDTH, NUM_FRAMES, FPS = 120, 160, 40, 25
_VERSION = 5  # version of the pictures; a change renders all videos again
_MARGIN = 24  # pixels of the scene on each side of the picture, for camera motion


class Look(NamedTuple):
    """Contrast and brightness of the scenes."""

    contrast: float = 0.35  # factor of the scene's deviation from its mean color; 1: no haze
    # Mean in [0, 255]. Actors are darker, so their outlines look alike in all scenes.
    brightness: float = 185.0


class Pose(NamedTuple):
    """Degrees of freedom of an actor, one value per frame.

    Lengths are in picture heights, angles in radians.
    """

    x: Float[np.ndarray, " t"]
    y: Float[np.ndarray, " t"]
    angle: Float[np.ndarray, " t"]
    size: Float[np.ndarray, " t"]  # side of the square that contains the actor
    left: Float[np.ndarray, " t"]  # angle of the left limbs
    right: Float[np.ndarray, " t"]


@checks.arguments
def render(
    directory: Path,
    *,
    num_videos: int,
    seed: int,
    num_workers: int,
    look: Look = Look(),  # noqa: B008 - immutable
) -> Path:
    """Render mp4 files into a folder and return the path of its `manifest.tsv`.

    Complete files of an interrupted run with the same seed and look are kept. With another seed or
    look, all mp4 files in the folder are removed first.

    Args:
      directory: folder of the videos; created if necessary.
      num_videos: number of videos.
      seed: seed of all random choices; videos are the same for any number of workers.
      num_workers: rendering processes.
      look: contrast and brightness of the scenes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    settings_file = directory / "rendered.json"
    settings = json.dumps({"seed": seed, "version": _VERSION} | look._asdict())
    if not settings_file.exists() or settings_file.read_text("utf-8") != settings:
        for old in directory.glob("*.mp4"):
            old.unlink()
        settings_file.write_text(settings, "utf-8")
    plan = _plan(num_videos, seed)
    job = partial(_write_video, directory, seed, look)
    bar = progress.bar(desc="render", unit="video", total=num_videos)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(num_workers, context, worker_pool.end_with_parent) as pool:
        for _ in pool.map(job, range(num_videos), *zip(*plan, strict=True), chunksize=4):
            bar.update()
    bar.close()
    lines = ["path\tvideo_id\tmotion\tscene"]
    for row, (motion, scene) in enumerate(plan):
        lines.append(f"{_name(row)}.mp4\t{_name(row)}\t{motion}\t{_scene_name(scene)}")
    path = directory / "manifest.tsv"
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n", "utf-8")
    os.replace(temporary, path)
    return path


def listed(num_videos: int, seed: int) -> Manifest:
    """Return the ids and labels of the videos that `render` writes, without rendering them."""
    plan = _plan(num_videos, seed)
    ids = tuple(_name(row) for row in range(num_videos))
    labels = {
        "motion": tuple(motion for motion, _ in plan),
        "scene": tuple(_scene_name(scene) for _, scene in plan),
    }
    paths = tuple(f"{name}.mp4" for name in ids)
    return Manifest(ids, paths, labels, ("",) * num_videos, (NUM_FRAMES,) * num_videos)


def pose(motion: str, generator: np.random.Generator, num_frames: int = NUM_FRAMES) -> Pose:
    """Return the actor's pose in every frame of a video of `motion`.

    The pose is the sum of all motions: `motion` varies over time; every other motion is constant at
    its value in one random frame.
    """
    motions = {name: _motion(name, generator, num_frames) for name in MOTIONS}
    moment = generator.integers(num_frames)
    merged = {k: np.full(num_frames, v) for k, v in _REST.items()}
    for name, tracks in motions.items():
        for freedom, track in tracks.items():
            merged[freedom] = merged[freedom] + (track if name == motion else track[moment])
    return Pose(**merged)


_REST = {"x": 0.0, "y": 0.0, "angle": 0.0, "size": 1.4, "left": 0.0, "right": 0.0}


def _motion(
    name: str, generator: np.random.Generator, num_frames: int
) -> dict[str, Float[np.ndarray, " t"]]:
    """Return the displacements of a motion, with random period, phase, amplitude and direction."""
    period = generator.uniform(16, 20)
    phase = generator.uniform(0, 4 * np.pi)  # a common period of all waves below
    strength = generator.uniform(0.85, 1.15)
    sign = generator.choice([-1.0, 1.0])
    turn = sign * 2 * np.pi * np.arange(num_frames) / period + phase
    wave = strength * np.sin(turn)
    if name == "approaching":
        return {"size": 0.3 * wave}
    if name == "bouncing":
        return {"y": 0.22 * wave}
    if name == "circling":
        return {"x": 0.18 * strength * np.cos(turn), "y": 0.18 * wave}
    if name == "flapping":
        return {"left": 0.7 * wave, "right": 0.7 * wave}
    if name == "shaking":
        return {"x": 0.06 * strength * np.sin(2.5 * turn)}
    if name == "sweeping":
        return {"x": 0.28 * wave}
    if name == "swinging":
        return {"angle": 0.6 * wave}
    if name == "walking":
        return {"left": 0.7 * wave, "right": -0.7 * wave}
    raise ValueError(f"motion {name!r} is unknown; use one of {MOTIONS}")


def _plan(num_videos: int, seed: int) -> list[tuple[str, int]]:
    """Return the motion and scene of each video, balanced over motions, scenes and pairs of both.

    Videos are planned in rounds. A round contains every motion once, each in a different scene.
    """
    generator = np.random.default_rng([seed, 0])
    order, offset = generator.permutation(NUM_SCENES), generator.permutation(NUM_SCENES)
    num_rounds = -(-num_videos // len(MOTIONS))
    rounds = [
        [(motion, int(order[(r + offset[m]) % NUM_SCENES])) for m, motion in enumerate(MOTIONS)]
        for r in range(num_rounds)
    ]
    return [pair for row in rounds for pair in row][:num_videos]


def _scene_name(number: int) -> str:
    return f"scene{number:02d}"


def _name(row: int) -> str:
    return f"video{row:05d}"


def _write_video(directory: Path, seed: int, look: Look, row: int, motion: str, scene: int) -> None:
    path = directory / f"{_name(row)}.mp4"
    if path.exists():
        try:
            if video.probe(path, decode=False).num_frames == NUM_FRAMES:
                return
        except video.DecodeError:  # incomplete: written by a run that was killed
            path.unlink()
    temporary = path.with_suffix(".part")
    with av.open(temporary, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # A key frame every 8 frames keeps seeks short. One thread and no mbtree make the bytes
        # reproducible: mbtree reads memory that x264 has not initialized.
        stream.options = {
            "crf": "20", "preset": "veryfast", "tune": "fastdecode", "g": "8", "threads": "1",
            "x264-params": "mbtree=0",
        }  # fmt: skip
        for picture in pictures(motion, scene, seed=seed, row=row, look=look):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    os.replace(temporary, path)


def pictures(
    motion: str,
    scene: int,
    *,
    seed: int,
    row: int,
    look: Look = Look(),  # noqa: B008 - immutable
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield the frames of one video, RGB in [0, 255].

    Args:
      motion: one of `MOTIONS`.
      scene: index from 0 to `NUM_SCENES` - 1.
      seed: seed of the collection, shared by its scenes and actors.
      row: index of the video in the collection, which selects the remaining random choices.
      look: contrast and brightness of the scene.
    """
    cv2.setNumThreads(1)
    generator = np.random.default_rng([seed, 1, row])
    background = _scene(scene, seed, look)
    texture = _clothes(int(generator.integers(NUM_ACTORS)), seed)
    poses = pose(motion, generator)
    center = np.array([0.5 * WIDTH / HEIGHT, 0.5]) + generator.uniform(-0.08, 0.08, 2)
    height, width = background.shape[:2]
    camera = _camera(generator)
    light = generator.uniform(0.85, 1.15) * (1 + 0.04 * np.sin(np.arange(NUM_FRAMES) / 9))
    for t in range(NUM_FRAMES):
        dx, dy, zoom = camera[t]
        corner = np.array([(width - WIDTH) / 2 + dx, (height - HEIGHT) / 2 + dy])
        view = np.array([[1 / zoom, 0, corner[0]], [0, 1 / zoom, corner[1]]])
        picture = cv2.warpAffine(
            background, view, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        moment = Pose(*(track[t] for track in poses))
        place = (center + [moment.x, moment.y]) * HEIGHT - np.array([dx, dy]) * 0.5
        picture = _draw_actor(picture, texture, place, moment)
        noise = generator.normal(0, 1.5, picture.shape)
        yield np.clip(picture * light[t] + noise, 0, 255).astype(np.uint8)


def _camera(generator: np.random.Generator) -> Float[np.ndarray, "t 3"]:
    """Return the shift (x, y in pixels) and zoom factor of each frame: a pan, zoom and tremor."""
    time = np.arange(NUM_FRAMES)
    speed = generator.uniform(-0.08, 0.08, 2)
    pan = np.outer(time - NUM_FRAMES / 2, speed)
    tremor = cv2.GaussianBlur(generator.normal(0, 0.2, (NUM_FRAMES, 2)), (1, 7), 2)
    zoom = 1 + 0.006 * np.sin(time / generator.uniform(10, 20) + generator.uniform(0, 6))
    return np.column_stack([pan + tremor, zoom])


@lru_cache(maxsize=NUM_SCENES)
def _scene(scene: int, seed: int, look: Look) -> Float[np.ndarray, "h w 3"]:
    """Return a background larger than the picture, in [0, 255]: a photograph or a texture."""
    generator = np.random.default_rng([seed, 2, scene])
    shape = (HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN)
    picture = _photograph(generator, shape) if scene % 2 else _texture(generator, shape)
    haze = picture.mean(axis=(0, 1))
    picture = look.brightness + look.contrast * (picture - haze)
    tint = generator.uniform(0.85, 1.15, 3)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    slope = generator.uniform(-0.3, 0.3, 2)
    light = 1 + slope[0] * (rows / shape[0] - 0.5) + slope[1] * (columns / shape[1] - 0.5)
    return np.clip(picture * tint * light[..., None], 0, 255).astype(np.float32)


def _photograph(
    generator: np.random.Generator, shape: tuple[int, int]
) -> Float[np.ndarray, "h w 3"]:
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image(str(generator.choice(["china.jpg", "flower.jpg"])))
    scale = generator.uniform(0.45, 1.0)
    photograph = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top = generator.integers(photograph.shape[0] - shape[0])
    left = generator.integers(photograph.shape[1] - shape[1])
    return photograph[top : top + shape[0], left : left + shape[1]].astype(np.float32)


def _texture(generator: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    """Return noise of several scales between two colors, in some cases with stripes or tiles."""
    field = np.zeros(shape, np.float32)
    for sigma in (1.2, 3, 9, 20):
        grain = cv2.GaussianBlur(generator.normal(0, 1, shape).astype(np.float32), (0, 0), sigma)
        field += generator.uniform(0.3, 1.0) * grain / grain.std()
    kind, period = generator.integers(3), generator.uniform(14, 30)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    if kind == 0:
        field += 1.5 * np.sign(np.sin(2 * np.pi * rows / period))
    if kind == 1:
        field += 1.5 * np.sign(np.sin(2 * np.pi * rows / period) * np.sin(np.pi * columns / period))
    mix = 1 / (1 + np.exp(-field))[..., None]
    dark, bright = generator.uniform(20, 130, 3), generator.uniform(110, 235, 3)
    return (dark * (1 - mix) + bright * mix).astype(np.float32)


_CANVAS = 96  # side in pixels of the square texture and silhouette of an actor


@lru_cache(maxsize=NUM_ACTORS)
def _clothes(actor: int, seed: int) -> Float[np.ndarray, "h w 3"]:
    """Return the texture of an actor: blotches of two dark colors, whose corners can be tracked."""
    generator = np.random.default_rng([seed, 3, actor])
    shape = (_CANVAS, _CANVAS)
    field = cv2.GaussianBlur(generator.normal(0, 1, shape).astype(np.float32), (0, 0), 3.0)
    mix = (field > 0).astype(np.float32)[..., None]
    first, second = generator.uniform(0, 25, 3), generator.uniform(50, 100, 3)
    texture = first * mix + second * (1 - mix)
    return cv2.GaussianBlur(texture.astype(np.float32), (0, 0), 0.7)


def _draw_actor(
    picture: Float[np.ndarray, "h w 3"],
    texture: Float[np.ndarray, "s s 3"],
    place: Float[np.ndarray, " 2"],
    moment: Pose,
) -> Float[np.ndarray, "h w 3"]:
    """Return the picture with the actor drawn centered at `place` (x, y in pixels)."""
    mask = _silhouette(round(float(moment.left), 3), round(float(moment.right), 3))
    scale = moment.size * HEIGHT / _CANVAS
    cos, sin = scale * np.cos(moment.angle), scale * np.sin(moment.angle)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    turn[:, 2] = place - turn[:, :2] @ [_CANVAS / 2, _CANVAS / 2]
    size = (picture.shape[1], picture.shape[0])
    alpha = cv2.warpAffine(mask, turn, size, flags=cv2.INTER_LINEAR)[..., None]
    clothes = cv2.warpAffine(texture, turn, size, borderMode=cv2.BORDER_REFLECT_101)
    return picture * (1 - alpha) + clothes * alpha


def _silhouette(left: float, right: float) -> Float[np.ndarray, "s s"]:
    """Return the mask of the upright actor in [0, 1], with limbs at the given angles in radians."""
    mask = np.zeros((_CANVAS, _CANVAS), np.uint8)
    middle = _CANVAS / 2
    cv2.ellipse(mask, (int(middle), 44), (15, 22), 0, 0, 360, 255, -1, cv2.LINE_AA)
    cv2.circle(mask, (int(middle), 13), 11, 255, -1, cv2.LINE_AA)
    for shoulder, hip, angle in ((-12, -8, left), (12, 8, right)):
        for x, y, length, bend in ((shoulder, 30, 30, -angle), (hip, 60, 34, angle)):
            start = np.array([middle + x, y])
            end = start + length * np.array([np.sin(bend), np.cos(bend)])
            points = [tuple(int(round(16 * v)) for v in p) for p in (start, end)]
            cv2.line(mask, points[0], points[1], 255, 9, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255
