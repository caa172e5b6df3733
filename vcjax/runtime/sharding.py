"""The device mesh of a run, and the shardings of its arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

AXIS = "data"
_ALIGNMENT = 64  # bytes, of arrays of XLA on CPUs


def make(num_devices: int | None = None) -> Mesh:
    """Return a mesh of all devices of all hosts, or the first `num_devices`, along one axis."""
    devices = jax.devices()[:num_devices]
    # Auto axes: with explicit axes, the default of jax.make_mesh, bank[index] is an error.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def local(num_devices: int | None = None) -> Mesh:
    """Return a mesh of the devices of this process, or of its first `num_devices`."""
    devices = jax.local_devices()[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def gather(array: jax.Array) -> jax.Array:
    """Return a whole array from its shards in all processes. Every process must call this."""
    if jax.process_count() == 1:
        return array
    return jnp.asarray(multihost_utils.process_allgather(array, tiled=True))


def local_copy(tree: Any) -> Any:
    """Return this process's local copy of each array in a pytree of replicated arrays."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def rows(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def columns(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the second axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def shard_rows(array: jax.Array | np.ndarray, mesh: Mesh) -> jax.Array:
    """Return `array` sharded by rows, padded with zero rows to a multiple of the mesh size.

    An array that already has this sharding is returned unchanged. Otherwise `array` must be equal
    in all processes, and each process copies the rows of its own devices. A CPU uses the memory of
    an array of `aligned_zeros` without a copy, so that array must not change afterwards.
    """
    sharding = rows(mesh)
    if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    host = np.asarray(array)
    num_rows = -(-len(host) // mesh.size) * mesh.size

    def part(index: Any) -> np.ndarray:
        begin, end, _ = index[0].indices(num_rows)
        shard = host[begin:end]
        missing = end - begin - len(shard)
        return np.pad(shard, [(0, missing), *[(0, 0)] * (host.ndim - 1)]) if missing else shard

    return jax.make_array_from_callback((num_rows, *host.shape[1:]), sharding, part)


def aligned_zeros(num_rows: int, dim: int) -> Float[np.ndarray, "n d"]:
    """Return float32 zeros [num_rows, dim] in memory that a CPU device can use without a copy."""
    num_bytes = 4 * num_rows * dim
    memory = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + num_bytes].view(np.float32).reshape(num_rows, dim)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())
