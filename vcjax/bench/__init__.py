"""Benchmarks against other implementations: `python -m vcjax.bench NAME`."""

import importlib.util
import sys

# Benchmarks also run on machines that have JAX but not jaxtyping.
if not importlib.util.find_spec("jaxtyping"):
    from vcjax.bench import _annotations

    sys.modules["jaxtyping"] = _annotations
