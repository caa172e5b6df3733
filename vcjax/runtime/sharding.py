"""The devices of a run as a mesh, and the two ways that arrays lie on them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make(num_devices: int | None = None) -> Mesh:
    """All devices of all hosts (or the first `num_devices`) along one axis."""
    devices = jax.devices()[:num_devices]
    # Auto axes: under the explicit ones that are the default, bank[index] is an error.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def local(num_devices: int | None = None) -> Mesh:
    """The devices of this process alone, or the first `num_devices` of them."""
    devices = jax.local_devices()[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def gather(array: jax.Array) -> jax.Array:
    """All of an array in this process, which others may hold parts of. Every process calls it."""
    if jax.process_count() == 1:
        return array
    return jnp.asarray(multihost_utils.process_allgather(array, tiled=True))


def here(tree: Any) -> Any:
    """This process's copy of arrays that are whole on every device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def columns(mesh: Mesh) -> NamedSharding:
    """The second axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def put_rows(array: jax.Array | np.ndarray, mesh: Mesh) -> jax.Array:
    """`array` by rows over the devices, padded with zeros to a multiple of them.

    One that lies there is left as it is. Another is the same in all processes, of which each sends
    its devices their part.
    """
    sharding = rows(mesh)
    if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    host = np.asarray(array)
    num_rows = -(-len(host) // mesh.size) * mesh.size

    def part(index: Any) -> np.ndarray:
        begin, end, _ = index[0].indices(num_rows)
        found = host[begin:end]
        return np.pad(found, [(0, end - begin - len(found)), *[(0, 0)] * (host.ndim - 1)])

    return jax.make_array_from_callback((num_rows, *host.shape[1:]), sharding, part)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())
