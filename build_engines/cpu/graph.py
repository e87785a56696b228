"""The few operations that both network builders share, over OpenVINO's opset."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openvino.opset15 as ops

WeightFormat = Literal["f32", "f16", "i8"]
Array = npt.NDArray[Any]


def constant(value: Any, dtype: Any = np.float32) -> Any:
    """A constant node that owns its values."""
    return ops.constant(np.asarray(value, dtype=dtype))


def reshape(x: Any, *shape: int) -> Any:
    """`x` in `shape`; 0 keeps a dimension, -1 takes the rest."""
    return ops.reshape(x, constant(shape, np.int64), special_zero=True)


def transpose(x: Any, *order: int) -> Any:
    """`x` with its dimensions in `order`."""
    return ops.transpose(x, constant(order, np.int64))


class Linear:
    """A weight matrix [out, in] in its storage format; as a product and as a table of rows.

    int8 is symmetric with one scale per row. A table gathers before it converts, so that an
    embedding never exists a second time in float32.
    """

    def __init__(self, weight: npt.NDArray[np.float32], fmt: WeightFormat) -> None:
        self._scale: Any = None
        if fmt == "i8":
            scale = np.abs(weight).max(axis=1, keepdims=True) / 127.0
            scale[scale == 0] = 1.0
            self._stored = constant(np.rint(weight / scale), np.int8)
            self._scale = constant(scale)
        elif fmt == "f16" and np.abs(weight).max(initial=0) < np.finfo(np.float16).max:
            self._stored = constant(weight, np.float16)
        else:
            self._stored = constant(weight)
        self._weight: Any = None

    def matmul(self, x: Any, bias: npt.NDArray[np.float32] | None = None) -> Any:
        """X · weightᵀ + bias."""
        if self._weight is None:
            self._weight = self._widened(self._stored, self._scale)
        product = ops.matmul(x, self._weight, transpose_a=False, transpose_b=True)
        return product if bias is None else ops.add(product, constant(bias))

    def rows(self, ids: Any) -> Any:
        """The rows that `ids` name, float32."""
        axis = constant(0, np.int64)
        scale = None if self._scale is None else ops.gather(self._scale, ids, axis)
        return self._widened(ops.gather(self._stored, ids, axis), scale)

    @staticmethod
    def _widened(values: Any, scale: Any) -> Any:
        if values.get_element_type().to_dtype() == np.float32:
            return values
        wide = ops.convert(values, np.float32)
        return wide if scale is None else ops.multiply(wide, scale)


def rms_norm(x: Any, weight: npt.NDArray[np.float32], eps: float) -> Any:
    """Root-mean-square normalisation over the last axis, in the form that OpenVINO fuses."""
    square = ops.power(x, constant(2.0))
    mean = ops.reduce_mean(square, constant([-1], np.int64), keep_dims=True)
    root = ops.sqrt(ops.add(mean, constant(eps)))
    return ops.multiply(constant(weight), ops.multiply(x, ops.divide(constant(1.0), root)))


def layer_norm(x: Any, weight: Array, bias: Array, eps: float) -> Any:
    """Layer normalisation over the last axis."""
    normal = ops.mvn(x, constant([-1], np.int64), True, eps, "inside_sqrt")
    return ops.add(ops.multiply(normal, constant(weight)), constant(bias))
