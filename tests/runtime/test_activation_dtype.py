from types import SimpleNamespace

import jax
import pytest

from vcjax.runtime import activation_dtype


@pytest.mark.parametrize(
    "device,expected",
    [
        ({"platform": "cpu"}, "float32"),
        ({"platform": "tpu"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "float32"),  # T4
        ({"platform": "gpu", "compute_capability": "8.0"}, "bfloat16"),  # A100
        ({"platform": "gpu", "compute_capability": "9.0"}, "bfloat16"),  # H100
        ({"platform": "gpu", "compute_capability": "10.0"}, "bfloat16"),
    ],
)
def test_auto_follows_the_device(monkeypatch, device, expected):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**device)])
    assert activation_dtype.resolve("auto") == expected


def test_a_name_is_taken_as_it_is():
    assert activation_dtype.resolve("bfloat16") == "bfloat16"
