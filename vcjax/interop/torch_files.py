"""Reader and writer of the files of torch.save that need no torch and execute no code.

A pickle is a program that can call any function. Here it can only build tensors and dictionaries.
Objects of the classes in `_INERT` become `Inert`, which stores their state without running their
code; every other name is rejected before it is called.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from vcjax.runtime import checks

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_INERT = {
    ("dotmap", "DotMap"),
    ("torch", "device"),
    ("torch", "Size"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),
    *((core, name) for core in ("numpy.core.multiarray", "numpy._core.multiarray")
      for name in ("_reconstruct", "scalar")),
}  # fmt: skip
_MAGIC = 0x1950A86A20F9469CFC6C  # first object of the format before PyTorch 1.6


class TorchFileError(ValueError):
    """The file was not written by torch.save, or contains an unsupported object."""


class Inert(dict):
    """A placeholder for an object of a class that is not imported, with its pickled `state`."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass
class _Storage:
    dtype: np.dtype
    array: np.ndarray | None = None  # the format before 1.6 stores it after the objects


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Return the values. Raise TorchFileError if the tensor extends beyond its storage."""
        stored = self.storage.array
        numbers = (self.offset, *self.size, *self.stride)
        if stored is None or len(self.size) != len(self.stride) or min(numbers) < 0:
            raise TorchFileError("invalid offset, size or stride of a tensor")
        reach = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and self.offset + reach >= stored.size:
            raise TorchFileError("a tensor is larger than its storage")
        strides = [s * stored.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided(stored[self.offset :], self.size, strides)
        return view.copy()


def _rebuild_tensor(
    storage: _Storage, offset: int, size: Any, stride: Any, *others: Any
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(size), tuple(stride))


def _rebuild_parameter(tensor: _Tensor, *others: Any) -> _Tensor:
    return tensor


_CALLED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CALLED:
            return _CALLED[module, name]
        if module in ("torch", "torch.cuda") and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        memory_bank = name == "MemoryBank" and module.startswith("src.")
        if memory_bank or (module, name) in _INERT:
            return Inert
        raise TorchFileError(f"refused: the file uses {module}.{name}, which is not supported")

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, _ = identity[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise TorchFileError(f"refused: an external object of kind {kind!r}")
        if len(identity) > 5 and identity[5] is not None:
            raise TorchFileError(
                "storage views are not supported; clone the tensors before torch.save"
            )
        return self._storages.setdefault(str(key), _Storage(dtype))


@checks.arguments
def read(path: str | Path) -> Any:
    """Return the object that torch.save wrote to `path`, with tensors as NumPy arrays.

    Raises:
      TorchFileError: if the file has another format, or contains an unsupported object.
    """
    try:
        with open(path, "rb") as file:
            content = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        return _arrays(content)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except OSError:
        raise
    # Unpickling arbitrary bytes can raise almost any exception.
    except Exception as error:
        raise TorchFileError(f"{path}: not a file of torch.save: {error}") from error


def _read_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as members:
        names = members.namelist()
        root = next((n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")), None)
        if root is None:
            raise TorchFileError("not a file of torch.save: the zip archive has no data.pkl")
        if f"{root}byteorder" in names and members.read(f"{root}byteorder") != b"little":
            raise TorchFileError("files of big-endian machines are not supported")
        storages: dict[str, _Storage] = {}
        with members.open(f"{root}data.pkl") as pickled:
            content = _Unpickler(pickled, storages).load()
        for key, storage in storages.items():
            storage.array = np.frombuffer(members.read(f"{root}data/{key}"), storage.dtype)
        return content


def _read_legacy(file: IO[bytes]) -> Any:
    file.seek(0)
    storages: dict[str, _Storage] = {}

    def load() -> Any:
        return _Unpickler(file, storages).load()

    if load() != _MAGIC:
        raise TorchFileError("not a file of torch.save")
    _, system = load(), load()
    if not system.get("little_endian", True):
        raise TorchFileError("files of big-endian machines are not supported")
    content = load()
    for key in load():
        storage = storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(count * storage.dtype.itemsize)
        storage.array = np.frombuffer(data, storage.dtype, count)
    return content


def _arrays(content: Any) -> Any:
    """Return `content` with tensors replaced by arrays, in place in dicts; tuples become lists."""
    if isinstance(content, _Tensor):
        return content.array()
    if isinstance(content, Inert):
        content.state = _arrays(content.state)
    if isinstance(content, dict):
        for key, value in content.items():
            content[key] = _arrays(value)
        return content
    if isinstance(content, list | tuple):
        return [_arrays(value) for value in content]
    return content


def write(arrays: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    """Write `arrays` as a state dict for torch.load, with or without `weights_only`.

    The order of the names is kept.

    Raises:
      ValueError: if an array is neither float32 nor int64.
    """
    checks.argument("arrays", arrays, Mapping)
    if not hasattr(file, "write"):
        raise ValueError(f"file must be an open file, not a {type(file).__name__}")
    kinds = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}
    if wrong := [name for name, array in arrays.items() if array.dtype not in kinds]:
        raise ValueError(f"{wrong[0]} is {arrays[wrong[0]].dtype}; write float32 or int64")
    body = bytearray(b"\x80\x02ccollections\nOrderedDict\n)R(")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as members:
        for key, (name, array) in enumerate(arrays.items()):
            body += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
            body += b"(" + _text("storage") + f"ctorch\n{kinds[array.dtype]}\n".encode()
            body += _text(str(key)) + _text("cpu") + _integer(array.size) + b"tQ"  # the storage
            strides = [
                stride // array.itemsize for stride in np.empty_like(array, order="C").strides
            ]
            body += _integer(0) + _integers(array.shape) + _integers(strides)
            body += b"\x89ccollections\nOrderedDict\n)RtR"  # requires_grad=False, no hooks
            members.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        members.writestr("archive/data.pkl", bytes(body + b"u."))
        members.writestr("archive/byteorder", "little")
        members.writestr("archive/version", "3\n")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _integers(numbers: Any) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
