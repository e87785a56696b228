"""The types of the CPU engine's arithmetic and cache: the requested ones, if the CPU has them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import openvino as ov

_BFLOAT16 = "BF16"


@dataclass(frozen=True, slots=True)
class Precision:
    """The types of the arithmetic and of the key/value cache (OpenVINO's names).

    `note` says how they differ from the requested types; empty if they do not.
    """

    arithmetic: str
    kv_cache: str
    note: str = ""


#: Integer weights use float32 arithmetic: int8 with a bf16 hint measured slower than either.
_WANTED = {
    "float32": Precision("f32", "f32"),
    "float16": Precision("f32", "f16"),
    "bfloat16": Precision("bf16", "bf16"),
    "int8": Precision("f32", "f16"),
    "int4": Precision("f32", "f16"),
}
_WITHOUT_BFLOAT16 = Precision(
    "f32",
    "f32",
    "this CPU has no bfloat16: the weights stay as they are, arithmetic and key/value cache are "
    "float32",
)


def precision_for(dtype: str) -> Precision:
    """Returns the precision of `dtype` on this CPU. Raises: KeyError for an unknown `dtype`."""
    return fitted(dtype, cpu_capabilities())


def fitted(dtype: str, capabilities: Collection[str]) -> Precision:
    """Returns the precision of a model of `dtype` on a CPU with OpenVINO's `capabilities`.

    On a CPU without bfloat16, OpenVINO always computes in float32, and then opens no bfloat16
    cache. Raises: KeyError for an unknown `dtype`.
    """
    wanted = _WANTED[dtype]
    lacks = wanted.arithmetic == "bf16" and _BFLOAT16 not in capabilities
    return _WITHOUT_BFLOAT16 if lacks else wanted


@lru_cache(maxsize=1)
def cpu_capabilities() -> frozenset[str]:
    """Returns OpenVINO's `OPTIMIZATION_CAPABILITIES` of this CPU, for example `BF16`.

    `OV_CPU_MAX_ISA` and `ONEDNN_MAX_CPU_ISA` can hide capabilities of the CPU.
    """
    return frozenset(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
