"""Improved dense trajectories of a video, one pair of frames at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vcjax.data import video as videos
from vcjax.idt import camera, descriptors, flow, people, pyramid, tracks
from vcjax.idt.trajectories import IdtSettings, Trajectories, with_time

Video = str | Path | Iterable[np.ndarray]
People = str | Path | Sequence[people.Boxes]
# The camera's motion from frame `index - 1` to frame `index`.
Motion = Callable[[int, camera.Grey, camera.Grey, Float[np.ndarray, "2 h w"]], camera.Homography]


class Step(NamedTuple):
    """A frame of the video, and the tracks that led to it, of each scale."""

    frame: int  # from 0
    picture: np.ndarray  # RGB or grey, as it came
    going_on: list[tracks.Tracks]
    finished: list[tracks.Tracks]  # full length, valid or not


class _Frame(NamedTuple):
    """What of a frame the next one needs."""

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
    """Trajectories of the video, in order of the frame on which they end.

    `video` is a file, or its frames, RGB or grey. `people` are boxes on each frame, whose motion is
    not taken for the camera's. `homographies`, from each frame to the next, replace those
    estimated. Memory holds two frames besides the rows. Raises ValueError for frames that change
    their size or are smaller than a patch, and for boxes or homographies that end before the video.
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
    """Those that end on each frame, as the video goes by; memory does not grow with its length.

    As `extract`, but the last column of a header is the middle frame, for the length of the video
    is not known yet: `vcjax.idt.trajectories.with_time` makes it a fraction.
    """
    settings = settings or IdtSettings()
    motion = estimated(people, matcher, settings) if homographies is None else _given(homographies)
    for step in follow(video, motion, settings):
        rows = [Trajectories.empty(), *_rows(step, settings)]
        yield Trajectories(*(np.concatenate(part) for part in zip(*rows, strict=True)))


def follow(video: Video, motion: Motion, settings: IdtSettings) -> Iterator[Step]:
    """Every frame of the video, with the tracks to it."""
    previous: _Frame | None = None
    for frame, (picture, image) in enumerate(_with_grey(video)):
        if previous is None:
            sizes = pyramid.sizes(image.shape[0], image.shape[1], settings)
            scratch = descriptors.scratch(*image.shape)
            live = [tracks.empty() for _ in sizes]
        current = _Frame(pyramid.grey(image, sizes), _expansions(image, sizes, settings))
        finished: list[tracks.Tracks] = []
        if previous is not None:
            flows = flow.pyramid_flow(previous.expansions, current.expansions, settings.stride)
            view = motion(frame, previous.levels[0], image, flows[0])
            stable = camera.stabilize(previous.levels[0], image, view, settings)
            stable_flows = flow.pyramid_flow(
                previous.expansions, _expansions(stable, sizes, settings), settings.stride
            )
            live, finished = _advance(live, previous.levels, flows, stable_flows, scratch, settings)
        yield Step(frame, picture, live, finished)
        live = [tracks.sample(*level, settings) for level in zip(live, current.levels, strict=True)]
        previous = current


def _with_grey(video: Video) -> Iterator[tuple[np.ndarray, UInt8[np.ndarray, "h w"]]]:
    cv2.setNumThreads(1)  # videos are extracted in parallel, one thread each
    shape: tuple[int, ...] = ()
    for index, frame in enumerate(videos.frames(video) if isinstance(video, str | Path) else video):
        grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        shape = shape or grey.shape
        if grey.shape != shape:
            name = f"{video}: " if isinstance(video, str | Path) else ""
            raise ValueError(
                f"{name}frame {index} has {grey.shape[1]} x {grey.shape[0]} pixels, "
                f"the frames before it {shape[1]} x {shape[0]}"
            )
        yield frame, np.ascontiguousarray(grey)


def estimated(boxes: People | None, matcher: str, settings: IdtSettings) -> Motion:
    """The camera's motion from matches that are not on people."""
    find_matches = camera.matcher(matcher, settings)
    name = str(boxes) if isinstance(boxes, str | Path) else "people"
    given = people.read(boxes) if isinstance(boxes, str | Path) else boxes

    def of_frame(index: int, shape: tuple[int, ...]) -> people.Boxes:
        if given is None:
            return people.NO_BOXES
        return people.clip(people.of_frame(given, index, name), shape[0], shape[1])

    def motion(
        index: int, previous: camera.Grey, current: camera.Grey, flow: Float[np.ndarray, "2 h w"]
    ) -> camera.Homography:
        boxes_of_both = (of_frame(i, current.shape) for i in (index - 1, index))
        pair = camera.Pair(previous, current, flow, *boxes_of_both)
        return camera.homography(find_matches(pair), settings)

    return motion


def _given(homographies: Float[np.ndarray, "pairs 3 3"]) -> Motion:
    def motion(
        index: int, previous: camera.Grey, current: camera.Grey, flow: Float[np.ndarray, "2 h w"]
    ) -> camera.Homography:
        if index > len(homographies):
            raise ValueError(f"{len(homographies)} homographies, and the video has more pairs")
        return homographies[index - 1]

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
    """All scales one frame on: the tracks that go on, and those finished."""
    going_on, finished = [], []
    for level, grey in enumerate(levels):
        integral = descriptors.integral(grey, stable_flows[level], settings.still_flow, scratch)
        pair = tracks.advance(live[level], flows[level], stable_flows[level], integral, settings)
        going_on.append(pair[0])
        finished.append(pair[1])
    return going_on, finished


def _rows(step: Step, settings: IdtSettings) -> Iterator[Trajectories]:
    height, width = step.picture.shape[:2]
    for scale, level in zip(pyramid.scales(settings), step.finished, strict=False):
        if len(level.age):
            yield tracks.finish(
                level, frame=step.frame, scale=scale, height=height, width=width, settings=settings
            )
