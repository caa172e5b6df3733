"""Peer: the 3D ResNet-18 of Hara et al. (2018) and its training step in PyTorch."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vcjax.bench import _timing


class _Block(nn.Module):
    def __init__(self, features_in: int, features: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(features_in, features, 3, stride, 1, bias=False)
        self.second = nn.Conv3d(features, features, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm3d(features) for _ in range(2))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or features_in != features:
            projection = nn.Conv3d(features_in, features, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm3d(features))

    def forward(self, clips: Any) -> Any:
        hidden = functional.relu(self.norms[0](self.first(clips)))
        return functional.relu(self.norms[1](self.second(hidden)) + self.shortcut(clips))


def _network(width: int) -> nn.Module:
    stem = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm3d(width), nn.ReLU(), nn.MaxPool3d(3, 2, 1)]
    features_in = width
    for stage in range(4):
        for block in range(2):
            features = width * 2**stage
            layers.append(_Block(features_in, features, 2 if stage and not block else 1))
            features_in = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(features, 128))


def seconds(batch_size: int, num_frames: int, side: int, width: int) -> float:
    """Return the median seconds of a training step on random clips.

    On a GPU, the network is compiled and runs in bfloat16 with channels last; on a CPU, in float32.
    """
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    network = _network(width).to(device)
    clips = torch.rand(batch_size, 3, num_frames, side, side, device=device)
    target = torch.rand(batch_size, 128, device=device)
    if on_gpu:
        network = network.to(memory_format=torch.channels_last_3d)
        clips = clips.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    forward = torch.compile(network) if on_gpu else network

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            embedding = forward(clips)
        loss = -(functional.normalize(embedding.float()) * target).sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()

    return _timing.median_seconds(step, warm_ups=3)
