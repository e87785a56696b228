"""Weights in every storage format against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset15 as ops
import pytest

from build_engines.targets.cpu_graphs.ops import Linear, WeightFormat

Weight = npt.NDArray[np.float32]


def weight_of(out: int, into: int) -> Weight:
    return np.random.default_rng(0).standard_normal((out, into)).astype(np.float32)


def run(output: Any, parameter: Any, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # By default OpenVINO rounds the inputs of products with narrow weights to eight bits.
    hint = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = ov.Core().compile_model(
        ov.Model([ops.result(output)], [parameter], "x"), "CPU", hint
    )
    result: npt.NDArray[Any] = compiled([value])[0]
    return result


def product(weight: Weight, fmt: WeightFormat, x: Weight) -> npt.NDArray[Any]:
    parameter = ops.parameter([-1, weight.shape[1]], np.float32)
    return run(Linear(weight, fmt).matmul(parameter), parameter, x)


def in_groups(weight: Weight, size: int) -> Weight:
    """What is left of `weight` after seven steps up and down in groups of `size` inputs."""
    blocks = weight.reshape(weight.shape[0], -1, size)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / 7
    return np.asarray((np.rint(blocks / scale) * scale).reshape(weight.shape), np.float32)


@pytest.mark.parametrize(("into", "group"), [(256, 128), (192, 64), (96, 32)])
def test_int4_has_a_scale_for_each_group_of_inputs(into: int, group: int) -> None:
    weight = weight_of(24, into)
    x = weight_of(5, into)
    wanted = x @ in_groups(weight, group).T
    assert product(weight, "i4", x) == pytest.approx(wanted, abs=1e-3)
    assert np.abs(wanted - x @ weight.T).max() > 0.1


def test_int4_falls_back_to_int8_where_no_group_fits() -> None:
    weight, x = weight_of(24, 50), weight_of(5, 50)
    assert product(weight, "i4", x) == pytest.approx(product(weight, "i8", x), abs=1e-5)


@pytest.mark.parametrize(("fmt", "tolerance"), [("f32", 1e-4), ("f16", 0.02), ("i8", 0.3)])
def test_other_formats_stay_close_to_the_weights(fmt: WeightFormat, tolerance: float) -> None:
    weight, x = weight_of(24, 64), weight_of(5, 64)
    assert product(weight, fmt, x) == pytest.approx(x @ weight.T, abs=tolerance)


@pytest.mark.parametrize(
    ("fmt", "tolerance"), [("f32", 0), ("f16", 1e-2), ("i8", 2e-2), ("i4", 2e-2)]
)
def test_a_table_gives_the_rows_that_are_named(fmt: WeightFormat, tolerance: float) -> None:
    table = weight_of(40, 64)
    parameter = ops.parameter([-1], np.int32)
    ids = np.array([3, 3, 39, 0], np.int32)
    rows = run(Linear(table, fmt).rows(parameter), parameter, ids)
    assert rows == pytest.approx(table[ids], abs=tolerance)


def test_a_tied_head_is_a_table_and_a_product_of_the_same_weights() -> None:
    table = weight_of(40, 64)
    linear = Linear(table, "i4")
    parameter = ops.parameter([-1], np.int32)
    logits = run(linear.matmul(linear.rows(parameter)), parameter, np.array([7], np.int32))
    assert logits == pytest.approx(table[[7]] @ table.T, abs=2.0)
    assert logits.argmax() == 7
