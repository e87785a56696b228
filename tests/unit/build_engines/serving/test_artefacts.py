from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from build_engines.serving.artefacts import Artefacts, check_runtime, open_artefacts

VERSIONS = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"}
MANIFEST: dict[str, Any] = {
    "target": "trtllm",
    "versions": {"numpy": "1.26.4", **VERSIONS},
    "runtime": {"compute_capability": "9.0"},
}


def test_an_engine_runs_where_it_was_built() -> None:
    check_runtime(Artefacts(Path("/models/a/1"), MANIFEST), VERSIONS, (9, 0))


@pytest.mark.parametrize(
    ("versions", "capability", "message"),
    [
        (
            {**VERSIONS, "tensorrt": "10.15"},
            (9, 0),
            r"built with tensorrt 10\.14\.1\.48, here is 10\.15",
        ),
        (VERSIONS, (8, 9), r"built with compute capability 9\.0, here is 8\.9"),
    ],
)
def test_an_engine_of_another_place_is_refused(
    versions: dict[str, str], capability: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_runtime(Artefacts(Path("/models/a/1"), MANIFEST), versions, capability)


def test_a_model_of_another_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    assert open_artefacts(tmp_path, "trtllm").manifest == MANIFEST
    with pytest.raises(ValueError, match="built for target `trtllm`, not for `cpu`"):
        open_artefacts(tmp_path, "cpu")
