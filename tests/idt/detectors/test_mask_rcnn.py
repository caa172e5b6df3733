import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from vcjax.idt import detectors  # noqa: E402
from vcjax.idt.detectors import mask_rcnn  # noqa: E402

FRAME = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random ones, as torchvision publishes its own."""
    from torchvision.models import detection

    torch.manual_seed(0)
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    state = model.state_dict()
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    return path


def test_only_people_that_are_sure_enough_are_kept(weights):
    model = mask_rcnn.load(weights, min_size=96, box_score_thresh=0.0).eval()
    with torch.inference_mode():
        output = model([torch.from_numpy(FRAME).permute(2, 0, 1) / 255])[0]
    threshold = float(output["scores"].median())
    expected = (output["labels"] == 1) & (output["scores"] >= threshold)
    people = mask_rcnn.MaskRcnnDetector(model, threshold)(FRAME)
    assert len(people) == int(expected.sum())
    np.testing.assert_allclose(people[:, :4], output["boxes"][expected].numpy(), atol=1e-3)


def test_a_file_of_weights_makes_a_detector(weights):
    people = detectors.create(f"maskrcnn:{weights}", min_score=1.1)(FRAME)
    assert people.shape == (0, 5)


def test_other_weights_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: not weights of Mask R-CNN"):
        mask_rcnn.load(tmp_path / "other.pth")
