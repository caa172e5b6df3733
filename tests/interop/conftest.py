"""Checkpoints as the released code writes them, in both formats of torch.save, without torch."""

import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from flax import nnx

from vcjax.models import state_dict as weights
from vcjax.models.resnet3d import ResNet3D

_MODULES = {
    "torch": ("FloatStorage", "LongStorage"),
    "torch._utils": ("_rebuild_tensor_v2",),
    "src.objectives.localagg": ("MemoryBank",),
    "dotmap": ("DotMap",),
}


@pytest.fixture
def pickled_names(monkeypatch):
    """The modules that the released code's objects are of, so that these can be pickled."""
    for module, names in _MODULES.items():
        made = types.ModuleType(module)
        for name in names:
            setattr(made, name, type(name, (), {"__module__": module, "__qualname__": name}))
        monkeypatch.setitem(sys.modules, module, made)
    for package in ("src", "src.objectives"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    return sys.modules


class _Tensor:
    """Pickled as a torch tensor of these values."""

    def __init__(self, values):
        self.values = values

    def __reduce__(self):
        values = self.values
        strides = tuple(s // values.itemsize for s in values.strides)
        arguments = (_Storage(values), 0, values.shape, strides, False, {})
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


class _Storage:
    def __init__(self, values):
        self.values = values


class _Pickler(pickle.Pickler):
    def __init__(self, file, storages, legacy):
        super().__init__(file, protocol=2)
        self._storages, self._legacy = storages, legacy

    def persistent_id(self, item):
        if not isinstance(item, _Storage):
            return None
        name = "FloatStorage" if item.values.dtype == np.float32 else "LongStorage"
        key = str(len(self._storages))
        self._storages[key] = item.values.ravel(order="K")
        identity = ("storage", getattr(sys.modules["torch"], name), key, "cpu", item.values.size)
        return (*identity, None) if self._legacy else identity


@pytest.fixture
def torch_save(pickled_names):
    """(content, path, legacy) -> a file as torch.save writes it, arrays as tensors."""

    def save(content, path, *, legacy):
        storages = {}
        body = io.BytesIO()
        _Pickler(body, storages, legacy).dump(_tensors(content))
        if legacy:
            parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001)]
            parts += [pickle.dumps({"little_endian": True}, 2), body.getvalue()]
            parts.append(pickle.dumps(list(storages), 2))
            parts += [struct.pack("<q", v.size) + v.tobytes() for v in storages.values()]
            path.write_bytes(b"".join(parts))
            return
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("checkpoint/data.pkl", body.getvalue())
            for key, values in storages.items():
                file.writestr(f"checkpoint/data/{key}", values.tobytes())

    return save


def _tensors(content):
    if isinstance(content, np.ndarray) and content.dtype in (np.float32, np.int64):
        return _Tensor(content)
    if isinstance(content, dict):
        return {k: _tensors(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_tensors(v) for v in content)
    if hasattr(content, "__dict__") and not isinstance(content, type):
        content.__dict__.update({k: _tensors(v) for k, v in vars(content).items()})
    return content


@pytest.fixture(scope="session")
def network():
    """Small, and with statistics that are not those of the start."""
    model = ResNet3D(width=4, embedding_dim=8, rngs=nnx.Rngs(0))
    generator = np.random.default_rng(1)
    values = {
        name: value + generator.uniform(0.1, 0.5, value.shape).astype(np.float32) * ("norm" in name)
        for name, value in weights.arrays(model).items()
    }
    weights.load(model, values)
    return model


@pytest.fixture
def released(network, pickled_names):
    """What the authors' program hands to torch.save after local aggregation."""
    generator = np.random.default_rng(2)
    bank = pickled_names["src.objectives.localagg"].MemoryBank()
    bank.size, bank.dim, bank.num_device = 6, 8, 1
    bank.bank_broadcast = [generator.normal(size=(6, 8)).astype(np.float32)]
    config = pickled_names["dotmap"].DotMap()
    config.exp_name = "kinetics_la"
    state_dict = weights.to_torch(weights.arrays(network))
    return {
        "model_state_dict": {f"module.{name}": value for name, value in state_dict.items()},
        "memory_bank": bank,
        "cluster_labels": [generator.integers(3, size=(2, 6))],
        "epoch": 199,
        "config": config,
        "val_acc": np.array([0.5, 0.25]),
    }
