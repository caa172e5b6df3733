"""Benchmarks against named peers: `python -m vcjax.bench NAME`."""

import importlib.util
import sys

if not importlib.util.find_spec("jaxtyping"):  # a machine with JAX and little else
    from vcjax.bench import _annotations

    sys.modules["jaxtyping"] = _annotations
