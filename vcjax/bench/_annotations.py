"""Stands in for jaxtyping where it is missing: the names of annotations, which check nothing."""

from typing import Any

import jax

Array = jax.Array


class _Annotation:
    def __class_getitem__(cls, item: Any) -> Any:
        return Any


Bool = Float = Int = Shaped = UInt8 = UInt32 = _Annotation
