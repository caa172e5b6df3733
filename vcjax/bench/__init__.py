"""Benchmarks against other implementations: `python -m vcjax.bench NAME`."""

import importlib.util
import sys

if not importlib.util.find_spec(
    "jaxtyping"
):  # benchmarks also run on machines with JAX but without jaxtyping
    from vcjax.bench import _annotations

    sys.modules["jaxtyping"] = _annotations
