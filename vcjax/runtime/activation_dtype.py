"""The data type of a network's activations, which "auto" leaves to the platform."""

import jax
import jax.numpy as jnp

_MIN_COMPUTE_CAPABILITY = (8, 0)  # NVIDIA GPUs before Ampere emulate bfloat16


def resolve(name: str) -> jnp.dtype:
    """Return the data type `name`; for "auto", bfloat16 where the devices compute it fast.

    TPUs and NVIDIA GPUs since Ampere do; CPUs and earlier GPUs take float32.
    """
    if name != "auto":
        return jnp.dtype(name)
    device = jax.devices()[0]
    if device.platform == "cpu":
        return jnp.dtype("float32")
    capability = getattr(device, "compute_capability", None)
    if capability and tuple(map(int, capability.split("."))) < _MIN_COMPUTE_CAPABILITY:
        return jnp.dtype("float32")
    return jnp.dtype("bfloat16")
