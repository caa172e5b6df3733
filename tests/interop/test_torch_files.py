import io
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest

from vcjax.interop import torch_files


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_back_however_they_lie_in_their_storage(tmp_path, torch_save, legacy):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    content = {"plain": values, "turned": values.T, "one": [np.array(7)], "text": "é"}
    torch_save(content, tmp_path / "file.pth", legacy=legacy)
    content_read = torch_files.read(tmp_path / "file.pth")
    np.testing.assert_array_equal(content_read["plain"], values)
    np.testing.assert_array_equal(content_read["turned"], values.T)
    assert content_read["one"] == [7] and content_read["one"][0].dtype == np.int64
    assert content_read["text"] == "é"


def test_what_is_written_is_read_and_is_no_more_than_a_state_dict(tmp_path):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(5)}
    with (tmp_path / "out.pth").open("wb") as file:
        torch_files.write(arrays | {"t": arrays["a.weight"].T}, file)
    content_read = torch_files.read(tmp_path / "out.pth")
    assert list(content_read) == ["a.weight", "n", "t"]
    np.testing.assert_array_equal(content_read["t"], arrays["a.weight"].T)
    np.testing.assert_array_equal(content_read["n"], 5)
    pickled = zipfile.ZipFile(tmp_path / "out.pth").read("archive/data.pkl")
    called = {a for op, a, _ in pickletools.genops(pickled) if op.name == "GLOBAL"}
    assert called == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
    }


class _Malicious:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [os.mkdir, eval, __import__, getattr, io.open, pickle.loads])
def test_a_malicious_file_is_refused_and_nothing_is_executed(tmp_path, torch_save, legacy, call):
    trace = tmp_path / "executed"
    arguments = {
        os.mkdir: [str(trace)],
        eval: [f"open({str(trace)!r}, 'w')"],
        __import__: ["os"],
        getattr: ["os", "system"],
        io.open: [str(trace), "w"],
        pickle.loads: [pickle.dumps(_Malicious(os.mkdir, str(trace)))],
    }[call]
    content = [np.zeros(2, np.float32), {"config": _Malicious(call, *arguments)}]
    torch_save(content, tmp_path / "evil.pth.tar", legacy=legacy)
    with pytest.raises(torch_files.TorchFileError, match=f"refused: .*{call.__name__}"):
        torch_files.read(tmp_path / "evil.pth.tar")
    assert not trace.exists()


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, torch_save):
    torch_save({"a": np.zeros((2, 3), np.float32)}, tmp_path / "a.pth", legacy=False)
    with zipfile.ZipFile(tmp_path / "a.pth") as file:
        pickled, data = file.read("checkpoint/data.pkl"), file.read("checkpoint/data/0")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as file:
        file.writestr("checkpoint/data.pkl", pickled)
        file.writestr("checkpoint/data/0", data[:-4])
    with pytest.raises(torch_files.TorchFileError, match="larger than its storage"):
        torch_files.read(tmp_path / "b.pth")


@pytest.mark.parametrize("content", [b"", b"PK", b"no pickle", pickle.dumps(3, 2)])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(torch_files.TorchFileError, match="other: not a file of torch.save"):
        torch_files.read(tmp_path / "other")
