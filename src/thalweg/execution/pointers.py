"""Memory by its address, inside a kernel: what lets one kernel run over tensors that lie anywhere."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def _pointer(element: Any) -> Any:
    pointer = types.CPointer(element)  # type: ignore[no-untyped-call]

    def at(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(types.int64), generate

    return intrinsic(at)


float32_at = _pointer(types.float32)
float64_at = _pointer(types.float64)
int64_at = _pointer(types.int64)
