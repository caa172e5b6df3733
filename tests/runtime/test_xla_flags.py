import importlib.util
import os

import pytest

from vcjax.runtime import xla_flags


@pytest.mark.parametrize(
    "before,after",
    [
        ("", "--xla_gpu_force_conv_nhwc=true"),
        ("--a=1", "--a=1 --xla_gpu_force_conv_nhwc=true"),
        ("--xla_gpu_force_conv_nhwc=false", "--xla_gpu_force_conv_nhwc=false"),
    ],
)
def test_flags_of_the_user_win(monkeypatch, before, after):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "jax_cuda13_plugin")
    monkeypatch.setenv("XLA_FLAGS", before)
    xla_flags.set_defaults()
    assert os.environ["XLA_FLAGS"] == after


def test_without_a_plugin_for_gpus_nothing_is_set(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    xla_flags.set_defaults()
    assert os.environ["XLA_FLAGS"] == "--a=1"
