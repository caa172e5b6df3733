"""Mask R-CNN (He et al. 2017) of torchvision, trained on COCO.

The backbone is ResNet-50 FPN. The paper uses ResNet-101 (Sec. 4.2), for which torchvision has no
weights.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vcjax.idt.detectors.interface import Detections, Frame

MIN_SCORE = 0.5  # probability
_PERSON = 1  # label in COCO's 91 categories, where 0 is the background


def load(weights: str | Path | None, **options: Any) -> Any:
    """Return the network with the weights of a file, or with weights that torchvision downloads.

    The file is a state dict, as published by torchvision. `options` are passed to the constructor.

    Raises:
        ValueError: If the file does not match the network, or torchvision is not installed.
    """
    torch, detection = _torch()
    if weights is None:
        return detection.maskrcnn_resnet50_fpn(weights="COCO_V1", **options)
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        missing, unknown = model.load_state_dict(state, strict=False)
    except Exception as error:  # torch.load raises many classes for other files
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights}: not weights of Mask R-CNN ResNet-50 FPN: {reason}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        name = (missing or unknown)[0]
        raise ValueError(f"{weights}: not weights of Mask R-CNN ResNet-50 FPN: mismatch at {name}")
    for module in model.modules():  # the published weights assume it
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0
    return model


class MaskRcnnDetector:
    """Detector of people by a torchvision detection model, on a GPU if available."""

    def __init__(self, model: Any, min_score: float) -> None:
        self._torch, _ = _torch()
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            self._torch.set_num_threads(1)  # videos are processed in parallel
        self._model = model.eval().to(self._device)
        self._min_score = min_score

    def __call__(self, frame: Frame) -> Detections:
        """Return the people on the frame; scores are probabilities."""
        picture = self._torch.from_numpy(np.ascontiguousarray(frame)).to(self._device)
        with self._torch.inference_mode():
            output = self._model([picture.permute(2, 0, 1) / 255])[0]
        people = (output["labels"] == _PERSON) & (output["scores"] >= self._min_score)
        rows = self._torch.column_stack([output["boxes"], output["scores"]])[people]
        return rows.cpu().numpy().astype(np.float32)


def _torch() -> tuple[Any, Any]:
    try:
        import torch
        from torchvision.models import detection
    except ImportError as error:
        raise ValueError(
            "the detector maskrcnn needs torchvision: pip install 'vcjax[maskrcnn]'"
        ) from error
    return torch, detection
