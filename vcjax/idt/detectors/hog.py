"""HOG people detector of OpenCV (Dalal & Triggs 2005), which needs no download."""

import cv2
import numpy as np

from vcjax.idt.detectors import interface
from vcjax.idt.detectors.interface import Detections, Frame

MIN_SCORE = 0.3  # distance to the hyperplane of the linear SVM
_MIN_SHORT_SIDE = 480  # pixels; people in smaller frames are smaller than the window
_PADDING = 16, 32  # pixels around people in the 64 x 128 window: per side in x, both sides in y
_MAX_OVERLAP = 0.4  # intersection over union of two people


class HogDetector:
    """Detector of upright people of at least about a quarter of the frame's height."""

    def __init__(self, min_score: float) -> None:
        self._min_score = min_score
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector()))

    def __call__(self, frame: Frame) -> Detections:
        """Return the people on the frame; scores are distances to the SVM's hyperplane."""
        scale = max(1.0, _MIN_SHORT_SIDE / min(frame.shape[:2]))
        gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        windows, distances = self._hog.detectMultiScale(
            gray,
            hitThreshold=self._min_score,
            winStride=(8, 8),
            padding=(32, 32),  # for people cut by the frame's border
            scale=1.1,
            groupThreshold=0,
        )
        if not len(windows):
            return np.zeros((0, 5), np.float32)
        scores = np.asarray(distances, np.float32).ravel()
        kept = interface.distinct(windows, scores, _MAX_OVERLAP)
        left, top, width, height = np.asarray(windows, np.float32)[kept].T
        across, down = width * _PADDING[0] / 64, height * _PADDING[1] / 128 / 2
        corners = (left + across, top + down, left + width - across, top + height - down)
        people = np.stack(corners, axis=1) / np.float32(scale)
        return np.column_stack([people, scores[kept]])
