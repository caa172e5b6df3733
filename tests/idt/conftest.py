"""Scenes made here: texture that moves as the test says."""

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
