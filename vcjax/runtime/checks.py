"""Checks of arguments of public functions; each raises ValueError with the argument's name.

Shapes and types are checked always. Values are checked outside of jitted code only: there, a traced
array has none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def count(name: str, value: Any, *, minimum: int = 1) -> None:
    """Require an integer of at least `minimum`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name} is {value}; use an integer of at least {minimum}")


def positive(name: str, value: Any) -> None:
    """Require a finite number above 0."""
    if has_values(value) and not 0 < float(value) < np.inf:
        raise ValueError(f"{name} is {value}; use a number above 0")


def share(name: str, value: Any) -> None:
    """Require a number from 0 to 1."""
    if has_values(value) and not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value}; use a number from 0 to 1")


def array(name: str, value: Any, axes: str, *, integer: bool = False, **sizes: int | None) -> None:
    """Require an array of real numbers with the given axes.

    Args:
        name: Name of the argument.
        value: The argument.
        axes: Names of the axes, separated by spaces, such as "n d".
        integer: Require integers.
        sizes: Required size of an axis, by its name.
    """
    shape = f"[{', '.join(axes.split())}]"
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{name} must be an array {shape}, not a {type(value).__name__}")
    kind = jnp.integer if integer else jnp.number
    if not jnp.issubdtype(value.dtype, kind) or jnp.issubdtype(value.dtype, jnp.complexfloating):
        numbers = "integers" if integer else "real numbers"
        raise ValueError(f"{name} must hold {numbers}, not {value.dtype}")
    required = [sizes.get(axis) for axis in axes.split()]
    if value.ndim != len(required) or any(
        size not in (None, actual) for size, actual in zip(required, value.shape, strict=True)
    ):
        exact = ", ".join(str(sizes.get(axis) or axis) for axis in axes.split())
        actual = ", ".join(map(str, value.shape))
        raise ValueError(f"{name} must be an array [{exact}], not of shape [{actual}]")


def index(name: str, value: Any, axes: str, *, end: int) -> None:
    """Require an integer array with values from 0 to `end` - 1."""
    array(name, value, axes, integer=True)
    if not has_values(value) or not value.size:
        return
    low, high = np.min(np.asarray(value)), np.max(np.asarray(value))
    if low < 0 or high >= end:
        raise ValueError(f"{name} has values from {low} to {high}; use rows from 0 to {end - 1}")


def finite(name: str, value: Any) -> None:
    """Require that every element of an array [n, ...] is finite; the message names the row."""
    if not has_values(value) or not value.size:
        return
    # NumPy, since JAX would trace this even for an array that jitted code closes over
    is_finite = np.isfinite(np.asarray(value)).reshape(len(value), -1).all(axis=1)
    if not is_finite.all():
        raise ValueError(
            f"row {int(is_finite.argmin())} of {name} has a value that is not finite; "
            "remove such rows"
        )


def has_values(value: Any) -> bool:
    """Return True outside of jitted code, for an array that this process holds whole."""
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable
