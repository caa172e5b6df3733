"""Replacement for jaxtyping where it is not installed: annotations without checks."""

from typing import Any

import jax

Array = jax.Array


class _Annotation:
    def __class_getitem__(cls, item: Any) -> Any:
        return Any


Bool = Float = Int = Shaped = UInt8 = UInt32 = _Annotation
