"""Extraction of improved dense trajectories from a video, one pair of frames at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vcjax.data import video as videos
from vcjax.idt import camera, descriptors, flow, people, pyramid, tracks
from vcjax.idt.trajectories import IdtSettings, Trajectories, with_time
from vcjax.runtime import checks

Video = str | Path | Iterable[np.ndarray]
People = str | Path | Sequence[people.Boxes]
# A function of index, previous frame, frame, flow, and pixels of a frame per pixel of the video,
# which returns the camera motion from frame `index - 1` to frame `index`.
Motion = Callable[
    [int, camera.Grey, camera.Grey, Float[np.ndarray, "2 h w"], float], camera.Homography
]


class Step(NamedTuple):
    """A frame of the video, and the tracks that end on it or continue, one item per scale.

    The buffers of the tracks are reused, so a step is valid until the next one is requested.
    """

    frame: int  # from 0
    picture: np.ndarray  # RGB or grayscale, as in the input, at most `max_side` pixels large
    live: list[tracks.Tracks]
    finished: list[tracks.Tracks]  # of full length, before validation


class _Frame(NamedTuple):
    """Data of a frame that the next frame needs, one item per scale."""

    levels: list[UInt8[np.ndarray, "h w"]]
    expansions: list[flow.Expansion]


def extract(
    video: Video,
    *,
    people: People | None = None,
    homographies: Float[np.ndarray, "pairs 3 3"] | None = None,
    matcher: str = "flow",
    settings: IdtSettings | None = None,
) -> Trajectories:
    """Return the trajectories of a video, in order of the frame on which they end.

    Memory contains two frames and the trajectories.

    Args:
        video: Video file, or its frames, RGB or grayscale.
        people: Box file, or boxes of each frame; their motion is excluded from the estimate of
            camera motion.
        homographies: Camera motion from each frame to the next, in place of the estimate.
        matcher: Point matches for the estimate, a key of `camera.MATCHERS`.
        settings: Constants of the method.

    Raises:
        ValueError: If frames differ in size or are smaller than a patch, or if there are fewer
            boxes or homographies than the video requires.
    """
    frames = [
        Trajectories.empty(),
        *extract_frames(
            video, people=people, homographies=homographies, matcher=matcher, settings=settings
        ),
    ]
    merged = Trajectories(*(np.concatenate(part) for part in zip(*frames, strict=True)))
    return merged._replace(header=with_time(merged.header, len(frames) - 1))


def extract_frames(
    video: Video,
    *,
    people: People | None = None,
    homographies: Float[np.ndarray, "pairs 3 3"] | None = None,
    matcher: str = "flow",
    settings: IdtSettings | None = None,
) -> Iterator[Trajectories]:
    """Yield the trajectories that end on each frame; memory is independent of the video's length.

    The last header column is the middle frame, because the number of frames is not available yet;
    `vcjax.idt.trajectories.with_time` converts it to a fraction of the video.

    Args:
        video: Video file, or its frames, RGB or grayscale.
        people: Box file, or boxes of each frame, as for `extract`.
        homographies: Camera motion from each frame to the next, in place of the estimate.
        matcher: Point matches for the estimate, a key of `camera.MATCHERS`.
        settings: Constants of the method.

    Raises:
        ValueError: In the same cases as `extract`.
    """
    settings = settings or IdtSettings()
    camera.check_matcher(matcher)
    motion = estimated(people, matcher, settings) if homographies is None else _given(homographies)
    for step in follow(video, motion, settings):
        rows = [Trajectories.empty(), *_rows(step, settings)]
        yield Trajectories(*(np.concatenate(part) for part in zip(*rows, strict=True)))


def follow(video: Video, motion: Motion, settings: IdtSettings) -> Iterator[Step]:
    """Yield every frame of the video with its tracks."""
    previous: _Frame | None = None
    for frame, (picture, image, scale) in enumerate(_with_grey(video, settings.max_side)):
        if previous is None:
            sizes = pyramid.sizes(image.shape[0], image.shape[1], settings)
            scratch = descriptors.scratch(image.shape[1])
            live = [tracks.empty() for _ in sizes]
        current = _Frame(pyramid.gray(image, sizes), _expansions(image, sizes, settings))
        finished: list[tracks.Tracks] = []
        if previous is not None:
            flows = flow.pyramid_flow(previous.expansions, current.expansions, settings.stride)
            view = motion(frame, previous.levels[0], image, flows[0], scale)
            stable = camera.stabilize(previous.levels[0], image, view, settings)
            stable_flows = flow.pyramid_flow(
                previous.expansions, _expansions(stable, sizes, settings), settings.stride
            )
            live, finished = _advance(live, previous.levels, flows, stable_flows, scratch, settings)
        yield Step(frame, picture, live, finished)
        live = [tracks.sample(*level, settings) for level in zip(live, current.levels, strict=True)]
        previous = current


def _with_grey(
    video: Video, max_side: int
) -> Iterator[tuple[np.ndarray, UInt8[np.ndarray, "h w"], float]]:
    """Yield each frame of at most `max_side` pixels, the same in grayscale, and its scale."""
    cv2.setNumThreads(1)  # videos are processed in parallel, with one thread each
    shape: tuple[int, ...] = ()
    for index, frame in enumerate(videos.frames(video) if isinstance(video, str | Path) else video):
        _check_frame(frame, index)
        scale = min(1.0, max_side / max(frame.shape[:2])) if max_side else 1.0
        if scale < 1:
            height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        gray = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        shape = shape or gray.shape
        if gray.shape != shape:
            name = f"{video}: " if isinstance(video, str | Path) else ""
            raise ValueError(
                f"{name}frame {index} has {gray.shape[1]} x {gray.shape[0]} pixels, "
                f"the frames before it {shape[1]} x {shape[0]}"
            )
        yield frame, np.ascontiguousarray(gray), scale


def _check_frame(frame: Any, index: int) -> None:
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"frame {index} must be an array, not a {type(frame).__name__}")
    if frame.dtype != np.uint8:
        raise ValueError(f"frame {index} must be uint8 in [0, 255], not {frame.dtype}")
    if frame.ndim != 2 and not (frame.ndim == 3 and frame.shape[2] == 3):
        raise ValueError(
            f"frame {index} must be RGB [height, width, 3] or grayscale [height, width], not of "
            f"shape {frame.shape}"
        )


def estimated(boxes: People | None, matcher: str, settings: IdtSettings) -> Motion:
    """Return a function that estimates camera motion from matches outside the boxes."""
    find_matches = camera.matcher(matcher, settings)
    name = str(boxes) if isinstance(boxes, str | Path) else "people"
    given = people.read(boxes) if isinstance(boxes, str | Path) else boxes

    def of_frame(index: int, shape: tuple[int, ...], scale: float) -> people.Boxes:
        if given is None:
            return people.NO_BOXES
        return people.clip(people.of_frame(given, index, name) * scale, shape[0], shape[1])

    def motion(
        index: int,
        previous: camera.Grey,
        current: camera.Grey,
        flow: Float[np.ndarray, "2 h w"],
        scale: float,
    ) -> camera.Homography:
        boxes_of_both = (of_frame(i, current.shape, scale) for i in (index - 1, index))
        pair = camera.Pair(previous, current, flow, *boxes_of_both)
        return camera.homography(find_matches(pair), settings)

    return motion


def _given(homographies: Float[np.ndarray, "pairs 3 3"]) -> Motion:
    checks.array("homographies", homographies, "pairs rows columns", rows=3, columns=3)
    checks.finite("homographies", homographies)
    homographies = homographies.astype(np.float64)

    def motion(
        index: int,
        previous: camera.Grey,
        current: camera.Grey,
        flow: Float[np.ndarray, "2 h w"],
        scale: float,
    ) -> camera.Homography:
        if index > len(homographies):
            raise ValueError(
                f"{len(homographies)} homographies are too few; pass one for each pair of frames"
            )
        if scale == 1:
            return homographies[index - 1]
        pixels = np.diag([scale, scale, 1])
        return pixels @ homographies[index - 1] @ np.linalg.inv(pixels)

    return motion


def _expansions(
    image: UInt8[np.ndarray, "h w"], sizes: pyramid.Sizes, settings: IdtSettings
) -> list[flow.Expansion]:
    return flow.expand(pyramid.smoothed(image, sizes, settings))


def _advance(
    live: Sequence[tracks.Tracks],
    levels: Sequence[UInt8[np.ndarray, "h w"]],
    flows: Sequence[Float[np.ndarray, "2 h w"]],
    stable_flows: Sequence[Float[np.ndarray, "2 h w"]],
    scratch: Float[np.ndarray, " size"],
    settings: IdtSettings,
) -> tuple[list[tracks.Tracks], list[tracks.Tracks]]:
    """Advance the tracks of all scales by one frame; return the live and the finished tracks."""
    still_live, finished = [], []
    for level, gray in enumerate(levels):
        tracks.describe(live[level], gray, stable_flows[level], scratch, settings)
        pair = tracks.advance(live[level], flows[level], stable_flows[level])
        still_live.append(pair[0])
        finished.append(pair[1])
    return still_live, finished


def _rows(step: Step, settings: IdtSettings) -> Iterator[Trajectories]:
    height, width = step.picture.shape[:2]
    for scale, level in zip(pyramid.scales(settings), step.finished, strict=False):
        if len(level.age):
            yield tracks.finish(
                level, frame=step.frame, scale=scale, height=height, width=width, settings=settings
            )
