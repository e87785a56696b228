from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.build_engines.conftest import ROOT

_WATCHED = """
import sys
seen = []
def hook(event, arguments):
    if event in ("os.fork", "os.posix_spawn", "subprocess.Popen") or event.startswith("socket."):
        seen.append(event)
sys.addaudithook(hook)
{loaded}
import time
time.sleep(0.5)
assert "openvino" in sys.modules
print(seen)
"""
_ENGINE = "import build_engines.cpu.serving"
_DOCTOR = """
from pathlib import Path
from orchestrator.doctor.engines import replaced_type
seen.clear()
replaced_type(Path({folder!r}))
"""


def seen_while(loaded: str) -> str:
    """Forks and sockets of a process that has run `loaded`."""
    line = [sys.executable, "-c", _WATCHED.format(loaded=loaded)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_openvino_neither_forks_nor_opens_a_socket_when_it_is_imported() -> None:
    assert seen_while(_ENGINE) == "[]\n"


def test_openvino_neither_forks_nor_opens_a_socket_in_the_doctor(tmp_path: Path) -> None:
    manifest = {"target": "cpu", "runtime": {"dtype": "bfloat16"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert seen_while(_DOCTOR.format(folder=str(tmp_path))) == "[]\n"
