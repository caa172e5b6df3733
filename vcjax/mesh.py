"""The devices of a run as a mesh, and the two ways that arrays lie on them."""

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make(num_devices: int | None = None) -> Mesh:
    """All devices of all hosts (or the first `num_devices`) along one axis."""
    devices = jax.devices()[:num_devices]
    # Auto axes: under the explicit ones that are the default, bank[index] is an error.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def local() -> Mesh:
    """The devices of this process alone."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def gather(array: jax.Array) -> jax.Array:
    """All of an array in this process, which others may hold parts of. Every process calls it."""
    if jax.process_count() == 1:
        return array
    return jnp.asarray(multihost_utils.process_allgather(array, tiled=True))


def rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())
