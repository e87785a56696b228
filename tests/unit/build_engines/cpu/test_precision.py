"""Models of every type on CPUs that lack it, by masking what the CPU has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_engines.checkpoint.files import open_checkpoint
from build_engines.cpu.precision import Precision, cpu_capabilities, fitted, precision_for
from build_engines.host.machine import this_machine
from build_engines.targets.table import load_target
from tests.reference.checkpoints import write_decoder
from tests.unit.build_engines.conftest import model_of

PLAIN = ["FP32", "INT8", "BIN"]
#: OpenVINO's own code looks at the first, its oneDNN at the second.
WITHOUT_BFLOAT16 = {"OV_CPU_MAX_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

#: Builds, opens and asks a bfloat16 model in a process whose CPU is masked; prints what came.
BUILDS = """
import json, sys
from pathlib import Path
import numpy as np
from build_engines.cpu.precision import precision_for
from build_engines.serving.request import Request, Sampling
from tests.unit.build_engines.conftest import builder_for, built, model_of, open_llama

folder = Path(sys.argv[1])
model = model_of(Path(sys.argv[2]), "generate", dtype="bfloat16")
plans = []
builder_for(folder).build(model, lambda stage: None, plans.append)
engine = open_llama(built(folder, model))
generation = engine.submit(Request(np.array([5, 6, 7], np.int32), 2, Sampling(top_k=1)))
assert generation.wait(60)
engine.close()
precision = precision_for("bfloat16")
print(json.dumps({
    "arithmetic": precision.arithmetic,
    "cache": plans[0].cache_dtype,
    "notes": list(plans[0].notes),
    "finish": generation.finish,
    "log": (folder / ".logs" / "llama.log").read_text(),
}))
"""


@pytest.mark.parametrize(
    ("dtype", "capabilities", "arithmetic", "cache"),
    [
        ("bfloat16", PLAIN, "f32", "f32"),
        ("bfloat16", [*PLAIN, "BF16"], "bf16", "bf16"),
        ("float16", PLAIN, "f32", "f16"),
        ("float16", [*PLAIN, "BF16"], "f32", "f16"),
        ("float32", PLAIN, "f32", "f32"),
        ("int8", PLAIN, "f32", "f16"),
        ("int4", [*PLAIN, "BF16"], "f32", "f16"),
    ],
)
def test_a_model_takes_the_types_that_the_cpu_has(
    dtype: str, capabilities: list[str], arithmetic: str, cache: str
) -> None:
    precision = fitted(dtype, capabilities)
    assert (precision.arithmetic, precision.kv_cache) == (arithmetic, cache)
    lacks = dtype == "bfloat16" and "BF16" not in capabilities
    assert bool(precision.note) == lacks


def test_the_plan_says_what_this_cpu_computes_in(tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "llama", "llama")
    plans = {
        dtype: load_target("cpu").plan(
            model_of(checkpoint, "generate", dtype=dtype),
            open_checkpoint(checkpoint),
            this_machine(),
        )
        for dtype in ("bfloat16", "float16", "float32")
    }
    wanted = precision_for("bfloat16")
    assert plans["bfloat16"].cache_dtype == wanted.kv_cache
    assert (wanted.note in plans["bfloat16"].notes) == bool(wanted.note)
    like = "float16" if wanted.kv_cache == "bf16" else "float32"
    cache = {dtype: plan.host_bytes - plan.disk_bytes * 2 for dtype, plan in plans.items()}
    assert cache["bfloat16"] == cache[like]


@pytest.mark.slow
@pytest.mark.parametrize("mask", [WITHOUT_BFLOAT16, {}], ids=["masked", "as it is"])
def test_a_bfloat16_model_is_built_and_served_on_either_kind_of_cpu(
    mask: dict[str, str], tmp_path: Path
) -> None:
    checkpoint = write_decoder(tmp_path / "llama", "llama")
    done = subprocess.run(
        [sys.executable, "-c", BUILDS, str(tmp_path / "repository"), str(checkpoint)],
        env={**os.environ, **mask},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    has_it = not mask and "BF16" in cpu_capabilities()
    expected = fitted("bfloat16", ["BF16"] if has_it else [])
    assert told["finish"] == "length"
    assert Precision(told["arithmetic"], told["cache"], expected.note) == expected
    assert (expected.note in told["notes"]) == bool(expected.note)
    if expected.note:
        assert f"note: {expected.note}" in told["log"]
        assert f"test/llama: {expected.note}" in done.stderr
