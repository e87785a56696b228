from __future__ import annotations

import subprocess
import sys

from tests.unit.build_engines.conftest import ROOT

_WATCHED = """
import sys
seen = []
def hook(event, arguments):
    if event in ("os.fork", "os.posix_spawn", "subprocess.Popen") or event.startswith("socket."):
        seen.append(event)
sys.addaudithook(hook)
import build_engines.cpu.serving
import time
time.sleep(0.5)
assert "openvino" in sys.modules
print(seen)
"""


def test_openvino_neither_forks_nor_opens_a_socket_when_it_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
