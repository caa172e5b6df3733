"""Eight host devices, strict broadcasting, and the real videos where they are at hand."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(os.environ.get("VCJAX_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real videos and reference data; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}; point VCJAX_SHARED to it")
    return SHARED
