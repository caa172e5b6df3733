"""Checks of arguments of public functions; each raises ValueError with the argument's name.

Shapes and types are checked always. Values are checked outside of jitted code only: there, a traced
array has none.
"""

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SCALARS = {
    int: "an integer of at least 0",
    float: "a finite number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
}
_ITEMS = {int: "integers of at least 0", float: "finite numbers", str: "texts"}
_KINDS = {  # kinds of numbers in an array, and their types
    "real numbers": (jnp.floating, jnp.integer),
    "integers": (jnp.integer,),
    "booleans": (jnp.bool_,),
    "uint8": (jnp.uint8,),
    "values": (jnp.generic,),
}
_SHOWN = 60  # characters of a value in a message
_Sizes = dict[str, tuple[int, str]]  # axis -> its size, and the argument that has it


def arguments(function: Callable[_P, _R], *, finite_rows: bool = True) -> Callable[_P, _R]:
    """Decorate a public function to check its arguments against their annotations.

    Arrays need the annotated axes and kind of numbers, and equal sizes where axes have the same
    name; with `finite_rows` their values are finite. Integers are 0 or more, and floats finite.
    """
    parameters = inspect.signature(function)
    annotations = functools.cache(lambda: get_type_hints(function))

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        sizes: _Sizes = {}
        given = parameters.bind(*args, **kwargs).arguments
        # in reverse order, since an array usually precedes the array that it has to match
        for name in reversed(given):
            if parameters.parameters[name].kind.name[:4] != "VAR_" and name in annotations():
                annotation = annotations()[name]
                _check(name, given[name], annotation, sizes)
                if finite_rows and "Float" in str(annotation):
                    finite(name, given[name])
        return function(*args, **kwargs)

    return checked


def argument(name: str, value: Any, annotation: Any) -> None:
    """Check one argument against `annotation`, as `arguments` does."""
    _check(name, value, annotation, {})


def _check(name: str, value: Any, annotation: Any, sizes: _Sizes) -> None:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    options = get_args(annotation) if is_union else (annotation,)
    arrays = [option for option in options if hasattr(option, "dim_str")]
    others = [option for option in options if option not in arrays]
    if any(_matches(value, option) for option in others):
        return
    if arrays and (isinstance(value, jax.Array | np.ndarray) or not others):
        _check_array(name, value, arrays[0], sizes)
        return
    expected = [f"an array {_brackets(option.dim_str.split())}" for option in arrays]
    expected = list(dict.fromkeys([*expected, *map(_description, others)]))
    raise ValueError(f"{name} is {_shown(value)}; use {' or '.join(expected)}")


def _matches(value: Any, annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    if kind in (int, float, bool) and isinstance(value, jax.Array | np.ndarray) and not value.ndim:
        if not has_values(value):
            return True
        value = value.item()
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if kind is int:
        return is_integer and value >= 0
    if kind is float:
        is_number = isinstance(value, float | np.floating) or (is_integer and abs(value) < 1 << 31)
        return is_number and bool(np.isfinite(value))
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is np.dtype:
        return value is not None and _is_type(value)
    if kind is Path:  # also of other libraries, for remote files
        return hasattr(value, "joinpath")
    if kind in (Sequence, tuple) and isinstance(value, list | tuple):
        items = get_args(annotation)[:1]
        return not items or items[0] not in _ITEMS or all(_matches(x, items[0]) for x in value)
    if kind is Sequence and isinstance(value, str | bytes):
        return False
    if kind is jax.Array:
        return isinstance(value, jax.Array | np.ndarray)
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_type(value: Any) -> bool:
    try:
        return bool(jnp.issubdtype(np.dtype(value), jnp.number))
    except TypeError:
        return False


def _check_array(name: str, value: Any, annotation: Any, sizes: _Sizes) -> None:
    axes = annotation.dim_str.split()
    if any(axis.startswith((".", "*")) for axis in axes):  # any number of axes
        axes = ["_"] * getattr(value, "ndim", 1)
    kind = _kind(annotation.dtypes)
    common = {axis: sizes[axis] for axis in axes if axis in sizes}
    required = {axis: size for axis, (size, _) in common.items()}
    try:
        array(name, value, " ".join(axes), kind=kind, **required)
    except ValueError as error:
        if not common or getattr(value, "ndim", 0) != len(axes):
            raise
        others = dict.fromkeys(other for _, other in common.values())
        raise ValueError(f"{error}; it has to match {' and '.join(others)}") from None
    if len(axes) > 1 and not value.shape[-1]:
        raise ValueError(f"{name} has no values: its shape is {_brackets(value.shape)}")
    sizes |= {a: (size, name) for a, size in zip(axes, value.shape, strict=True) if a != "_"}


def _kind(types: Any) -> str:
    """Return the kind of numbers of an annotation with these types."""
    if not isinstance(types, tuple):
        return "values"
    if types[0] in ("bool", "uint8"):
        return "booleans" if types[0] == "bool" else "uint8"
    return "real numbers" if "float32" in types else "integers"


def _description(annotation: Any) -> str:
    kind = get_origin(annotation) or annotation
    items = get_args(annotation)[:1]
    if kind in (Sequence, tuple) and items and items[0] in _ITEMS:
        return f"a sequence of {_ITEMS[items[0]]}"
    return _SCALARS.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _shown(value: Any) -> str:
    text = repr(value) if value is None or isinstance(value, str | int | float) else ""
    return text if 0 < len(text) <= _SHOWN else f"a {type(value).__name__}"


def _brackets(axes: Sequence[object]) -> str:
    return f"[{', '.join(map(str, axes))}]"


def count(name: str, value: Any, *, minimum: int = 1) -> None:
    """Require an integer of at least `minimum`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name} is {_shown(value)}; use an integer of at least {minimum}")


def positive(name: str, value: Any) -> None:
    """Require a finite number above 0."""
    if has_values(value) and not (_matches(value, float) and value > 0):
        raise ValueError(f"{name} is {_shown(value)}; use a number above 0")


def share(name: str, value: Any) -> None:
    """Require a number from 0 to 1."""
    if has_values(value) and not (_matches(value, float) and 0 <= value <= 1):
        raise ValueError(f"{name} is {_shown(value)}; use a number from 0 to 1")


def array(
    name: str, value: Any, axes: str, *, kind: str = "real numbers", **sizes: int | None
) -> None:
    """Require an array with the given axes.

    Args:
        name: Name of the argument.
        value: The argument.
        axes: Names or sizes of the axes, separated by spaces, such as "n d" or "h w 3".
        kind: Kind of its numbers, a key of _KINDS.
        sizes: Required size of an axis, by its name.
    """
    names = axes.split()
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{name} must be an array {_brackets(names)}, not {_shown(value)}")
    if not any(jnp.issubdtype(value.dtype, number) for number in _KINDS[kind]):
        raise ValueError(f"{name} must hold {kind}, not {value.dtype}")
    required = [int(axis) if axis.isdecimal() else sizes.get(axis) for axis in names]
    if value.ndim != len(required) or any(
        size not in (None, actual) for size, actual in zip(required, value.shape, strict=True)
    ):
        exact = [axis if size is None else size for axis, size in zip(names, required, strict=True)]
        raise ValueError(
            f"{name} must be an array {_brackets(exact)}, not of shape {_brackets(value.shape)}"
        )


def index(name: str, value: Any, axes: str, *, end: int) -> None:
    """Require an integer array with values from 0 to `end` - 1."""
    array(name, value, axes, kind="integers")
    if not has_values(value) or not value.size:
        return
    low, high = np.min(np.asarray(value)), np.max(np.asarray(value))
    if low < 0 or high >= end:
        raise ValueError(f"{name} has values from {low} to {high}; use rows from 0 to {end - 1}")


def finite(name: str, value: Any) -> None:
    """Require that every element of an array [n, ...] is finite; the message names the row."""
    if not has_values(value) or not np.size(value):
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
