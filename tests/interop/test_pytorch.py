"""The same features here and in PyTorch, from the same weights; the network is written anew."""

import numpy as np
import pytest
from flax import nnx

from vcjax.data import augment
from vcjax.interop import torch_files
from vcjax.models import state_dict as weights
from vcjax.models.resnet3d import ResNet3D

torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install '.[torch]'")


class _Block(torch.nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv3d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm3d(channels)
        self.conv2 = torch.nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm3d(channels)
        self.downsample = None
        if stride > 1 or channels_in != channels:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv3d(channels_in, channels, 1, stride, bias=False),
                torch.nn.BatchNorm3d(channels),
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class _ResNet(torch.nn.Module):
    """Hara et al.: stem of 7x7x7, stride 1 in time; four stages, the last three halve all axes."""

    def __init__(self, blocks, width, dim):
        super().__init__()
        self.conv1 = torch.nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = torch.nn.BatchNorm3d(width)
        channels_in = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            made = [
                _Block(channels_in if i == 0 else channels, channels, 2 if stage and not i else 1)
                for i in range(count)
            ]
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*made))
            channels_in = channels
        self.fc = torch.nn.Linear(channels_in, dim)

    def forward(self, clips):
        x = torch.relu(self.bn1(self.conv1(clips)))
        x = torch.nn.functional.max_pool3d(x, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        pooled = x.mean(dim=(2, 3, 4))
        return torch.nn.functional.normalize(self.fc(pooled)), pooled


_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def _clips():
    return np.random.default_rng(0).integers(256, size=(4, 8, 40, 32, 3), dtype=np.uint8)


def _torch_features(model, clips):
    inputs = torch.from_numpy(clips.astype(np.float32) / 255)
    inputs -= torch.tensor([114.7748, 107.7354, 99.4750]) / 255
    with torch.no_grad():
        return [x.numpy() for x in model(inputs.permute(0, 4, 1, 2, 3))]


@nnx.jit
def _our_features(model, clips):
    inputs = augment.normalize(clips)
    return model(inputs), model.pooled(inputs)


def _settled(model):
    """With running statistics of several batches."""
    model.train()
    for _ in range(3):
        _torch_features(model, _clips())
    return model


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34])
def test_weights_of_pytorch_give_the_same_features_here(depth, tmp_path):
    torch.manual_seed(0)
    theirs = _settled(_ResNet(_BLOCKS[depth], 8, 16))
    torch.save({"state_dict": torch.nn.DataParallel(theirs).state_dict()}, tmp_path / "a.pth")
    values = weights.from_torch(torch_files.read(tmp_path / "a.pth")["state_dict"])
    ours = ResNet3D(depth=depth, width=8, embedding_dim=16, rngs=nnx.Rngs(0))
    weights.load(ours, values)
    for training in (False, True):
        ours.train() if training else ours.eval()
        theirs.train(training)
        pairs = zip(_our_features(ours, _clips()), _torch_features(theirs, _clips()), strict=True)
        for actual, expected in pairs:
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_pytorch_loads_our_weights_and_gives_the_same_features(network, tmp_path, training):
    with (tmp_path / "b.pth").open("wb") as file:
        torch_files.write(weights.to_torch(weights.arrays(network)), file)
    theirs = _ResNet(_BLOCKS[18], 4, 8)
    theirs.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True))
    theirs.train(training)
    values = weights.arrays(network)  # training moves the statistics; keep the fixture's
    ours = ResNet3D(width=4, embedding_dim=8, rngs=nnx.Rngs(0))
    weights.load(ours, values)
    ours.train() if training else ours.eval()
    pairs = zip(_our_features(ours, _clips()), _torch_features(theirs, _clips()), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_both_formats_of_torch_save_are_read(tmp_path):
    content = {"a": torch.arange(6.0).reshape(2, 3).T, "b": [torch.tensor([True, False]).half()]}
    content["c"] = torch.arange(10, dtype=torch.int64)[3:6]
    for zipped in (True, False):
        torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        content_read = torch_files.read(tmp_path / "x")
        np.testing.assert_array_equal(content_read["a"], content["a"].numpy())
        np.testing.assert_array_equal(content_read["b"][0], [1, 0])
        np.testing.assert_array_equal(content_read["c"], [3, 4, 5])
