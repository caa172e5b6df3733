"""The devices of a run as a mesh, and the two ways that arrays lie on them."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make(num_devices: int | None = None) -> Mesh:
    """All devices of all hosts (or the first `num_devices`) along one axis."""
    devices = jax.devices()[:num_devices]
    # Auto axes: under the explicit ones that are the default, bank[index] is an error.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())
