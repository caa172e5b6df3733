"""Scenes made here: texture that moves as the test says."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest


@pytest.fixture
def texture():
    """A function of a seed and a shape: grey blotches a few pixels wide, in [0, 255]."""

    def make(seed, shape):
        noise = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
        return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)

    return make


@pytest.fixture
def moving_patch(texture):
    """30 frames: a camera that pans 2 pixels a frame over a wall, before which a square bounces."""
    wall, square = texture(0, (160, 240)), texture(1, (40, 40))
    frames = []
    for t in range(30):
        frame = wall[16:144, 2 * t : 2 * t + 160].copy()
        top = round(44 + 25 * np.sin(t / 3))
        frame[top : top + 40, 60:100] = square
        frames.append(frame)
    return np.stack(frames)


@pytest.fixture
def write_gray(tmp_path):
    """A function of a name and frames: the file of them, without loss."""

    def write(name, frames):
        path = tmp_path / f"{name}.avi"
        with av.open(path, "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(25))
            stream.height, stream.width = frames.shape[1:]
            stream.pix_fmt = "gray"
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def videos(write_gray, moving_patch):
    """Ids and files of two small videos in which something moves."""
    return {
        "a/one": str(write_gray("a_one", moving_patch[:18])),
        "two": str(write_gray("two", moving_patch[6:24, ::-1])),
    }
