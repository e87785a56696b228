"""Operations that both network builders share, on OpenVINO's opset."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset15 as ops

WeightFormat = Literal["f32", "f16", "i8", "i4"]

#: Bits of one weight, scales included.
BITS = {"f32": 32.0, "f16": 16.0, "i8": 8.1, "i4": 5.0}

#: int4 weights share a scale in groups along the input; the first size that divides it is used.
_GROUPS = (128, 64, 32)
Array = npt.NDArray[Any]


def constant(value: Any, dtype: Any = np.float32) -> Any:
    """Returns a constant node that owns its values."""
    return ops.constant(np.asarray(value, dtype=dtype))


def reshape(x: Any, *shape: int) -> Any:
    """Reshapes `x` to `shape`; 0 keeps a dimension, -1 takes the rest."""
    return ops.reshape(x, constant(shape, np.int64), special_zero=True)


def transpose(x: Any, *order: int) -> Any:
    """Returns `x` with its dimensions in `order`."""
    return ops.transpose(x, constant(order, np.int64))


class Linear:
    """A weight matrix [out, in] in its storage format, used as a product and as a table of rows.

    int8 is symmetric with one scale per row. int4 is symmetric with one scale per group of
    inputs, and only in products: as a table, and where no group fits, it is int8. A table gathers
    before it converts, so that the embedding is never copied to float32 as a whole.
    """

    def __init__(self, weight: npt.NDArray[np.float32], fmt: WeightFormat) -> None:
        self._scale: Any = None
        self._grouped: Any = None
        self._table: Any = None
        self._weight: Any = None
        if fmt == "i4":
            # Both forms are made on demand: a tied head is a table and a product.
            self._given = weight
            return
        self._table, self._scale = _stored(weight, fmt)

    def matmul(self, x: Any, bias: npt.NDArray[np.float32] | None = None) -> Any:
        """Returns X · weightᵀ + bias."""
        if self._weight is None:
            self._weight = self._product_form()
        product = ops.matmul(x, self._weight, transpose_a=False, transpose_b=True)
        return product if bias is None else ops.add(product, constant(bias))

    def rows(self, ids: Any) -> Any:
        """Returns the rows of `ids`, float32."""
        self._as_table()
        axis = constant(0, np.int64)
        scale = None if self._scale is None else ops.gather(self._scale, ids, axis)
        return _widened(ops.gather(self._table, ids, axis), scale)

    def _as_table(self) -> None:
        if self._table is None:
            self._table, self._scale = _stored(self._given, "i8")

    def _product_form(self) -> Any:
        if self._table is None:
            group = next((size for size in _GROUPS if self._given.shape[1] % size == 0), 0)
            if group:
                return _grouped(self._given, group)
        self._as_table()
        return _widened(self._table, self._scale)


def _stored(weight: npt.NDArray[np.float32], fmt: WeightFormat) -> tuple[Any, Any]:
    """Returns the matrix as a constant, and its scale where it has one."""
    if fmt == "i8":
        scale = np.abs(weight).max(axis=1, keepdims=True) / 127.0
        scale[scale == 0] = 1.0
        return constant(np.rint(weight / scale), np.int8), constant(scale)
    if fmt == "f16" and np.abs(weight).max(initial=0) < np.finfo(np.float16).max:
        return constant(weight, np.float16), None
    return constant(weight), None


def _grouped(weight: npt.NDArray[np.float32], group: int) -> Any:
    """Builds float32 [out, in] from int4 [out, in / group, group] and a scale for each group."""
    out, into = weight.shape
    blocks = weight.reshape(out, into // group, group)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / 7.0
    scale[scale == 0] = 1.0
    values = np.rint(blocks / scale).astype(np.int8)
    # Two values in a byte, the first one in the lower half.
    pairs = values.reshape(-1, 2).astype(np.uint8) & 0x0F
    packed = (pairs[:, 0] | (pairs[:, 1] << 4)).astype(np.uint8)
    tensor = ov.Tensor(packed, ov.Shape(list(values.shape)), ov.Type.i4)
    stored = ops.constant(tensor, shared_memory=False)
    wide = ops.multiply(ops.convert(stored, np.float32), constant(scale))
    return ops.reshape(wide, constant([out, into], np.int64), special_zero=False)


def _widened(values: Any, scale: Any) -> Any:
    if values.get_element_type().to_dtype() == np.float32:
        return values
    wide = ops.convert(values, np.float32)
    return wide if scale is None else ops.multiply(wide, scale)


def rms_norm(x: Any, weight: npt.NDArray[np.float32], eps: float) -> Any:
    """Applies root-mean-square normalisation over the last axis, in a form that OpenVINO fuses."""
    square = ops.power(x, constant(2.0))
    mean = ops.reduce_mean(square, constant([-1], np.int64), keep_dims=True)
    root = ops.sqrt(ops.add(mean, constant(eps)))
    return ops.multiply(constant(weight), ops.multiply(x, ops.divide(constant(1.0), root)))


def layer_norm(x: Any, weight: Array, bias: Array, eps: float) -> Any:
    """Applies layer normalisation over the last axis."""
    normal = ops.mvn(x, constant([-1], np.int64), True, eps, "inside_sqrt")
    return ops.add(ops.multiply(normal, constant(weight)), constant(bias))
