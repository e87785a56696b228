"""A whole `orchestrator serve` as a child of the tests, and what it must not leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

from orchestrator.settings import ENV_PREFIX
from orchestrator.supervisor.state import State, read_state

PATIENCE: dict[str, object] = {
    "REDIS__TIMEOUT_S": 3,
    "STORE__KEY_LOOKUP_TIMEOUT_S": 10,
    "STORE__BUSY_TIMEOUT_S": 30,
    "STORE__CONNECT_TIMEOUT_S": 30,
}
"""What is enough on a busy machine, where the product's own limits would refuse requests."""
ADMIN_KEY = "op_live_0a1b_00112233445566778899aabbccddeeff"
START_TIMEOUT_S = 200.0
STOP_TIMEOUT_S = 60.0


def free_port() -> int:
    """A port of the loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_env(values: Mapping[str, object]) -> dict[str, str]:
    """Our environment without settings, plus `values` that are not `None`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return kept | {
        ENV_PREFIX + name: str(value) for name, value in values.items() if value is not None
    }


def wait_until(done: Callable[[], bool], timeout_s: float, what: str) -> float:
    """How long it took until `done`. Fails the test after `timeout_s`."""
    began_at = looking_at = time.monotonic()
    while not done():
        looked_at = time.monotonic()
        if looked_at - began_at > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        # A look that walks over all processes must not take the processor from what it waits for.
        time.sleep(max(0.02, 2 * (looked_at - looking_at)))
        looking_at = time.monotonic()
    return time.monotonic() - began_at


def command_line(process: psutil.Process) -> str:
    """What `process` was started with; nothing when it has ended, reaped or not."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Serving:
    """A running `orchestrator serve`. `values` are settings, keyed as in `SERVER__PORT`.

    `open_files` limits its descriptors, for good.
    """

    def __init__(
        self,
        folder: Path,
        values: Mapping[str, object] | None = None,
        open_files: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = folder / "data"
        self.port = free_port()
        self.key = ADMIN_KEY
        self.url = f"http://127.0.0.1:{self.port}"
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        defaults = {
            **PATIENCE,
            "DATA_DIR": self.data_dir,
            "SERVER__PORT": self.port,
            "BOOTSTRAP__ADMIN_KEY": ADMIN_KEY,
            # Where no worker is killed it would cost each server some seconds of a processor.
            "SERVER__STANDBY": False,
            # The whole suite can be run on either transport.
            "TRITON__TRANSPORT": os.environ.get("TEST_TRANSPORT"),
        }
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*_limited(open_files), sys.executable, "-m", "orchestrator", "serve"],
                env=settings_env(defaults | dict(values or {})),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._seen: dict[int, psutil.Process] = {}
        self._run_ids: set[str] = set()

    @property
    def pid(self) -> int:
        """Of the parent process."""
        return self._process.pid

    @property
    def base_url(self) -> str:
        """For an OpenAI client."""
        return f"{self.url}/v1"

    @property
    def printed(self) -> str:
        """Its standard output so far."""
        return self._stdout.read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self._stderr.read_text(encoding="utf-8")

    @property
    def state(self) -> State:
        """Of its Triton."""
        state = read_state(self.data_dir)
        assert state is not None
        return state

    def wait_ready(self) -> Serving:
        """Returns when it has said that it is ready."""
        wait_until(self._is_greeted, START_TIMEOUT_S, "ready")
        self.processes()
        return self

    def _is_greeted(self) -> bool:
        assert self._process.poll() is None, self.log
        return re.search(r"ready in [\d.]+ s", self.log) is not None and "Base URL" in self.printed

    def processes(self) -> list[psutil.Process]:
        """Its processes: parent, worker, Triton and stubs."""
        found = [psutil.Process(self.pid)]
        found += found[0].children(recursive=True)
        self._seen.update({process.pid: process for process in found})
        for record in self.data_dir.glob("run/*/record.json"):
            self._run_ids.add(json.loads(record.read_text(encoding="utf-8"))["run_id"])
        return found

    def server(self) -> psutil.Process:
        """Its tritonserver."""
        return self._find("bin/tritonserver")

    def stub(self) -> psutil.Process:
        """One of its Triton's stubs."""
        return self._find("triton_python_backend_stub")

    def worker(self) -> psutil.Process:
        """Its HTTP worker."""
        workers = self.workers()
        assert workers, "there is no worker"
        return workers[0]

    def workers(self) -> list[psutil.Process]:
        """Its HTTP workers that live and are at work."""
        return self._named("op-worker")

    def standby(self) -> list[psutil.Process]:
        """The process that is to take the place of a worker, if it is there."""
        return self._named("op-standby")

    def _named(self, name: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == name:
                    found.append(process)
        return found

    def _find(self, text: str) -> psutil.Process:
        for process in self.processes():
            if text in command_line(process):
                return process
        raise AssertionError(f"there is no process with `{text}`")

    def signal(self, number: signal.Signals) -> None:
        """Sends `number` to the parent alone."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The parent's exit code."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """Stops it as an operator would. Returns the exit code."""
        self.processes()
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """For the end of a test that failed: ends whatever is left, and cleans up after it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.processes()
        for process in list(self._seen.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        for path in self._shared_memory():
            path.unlink(missing_ok=True)

    def _shared_memory(self) -> list[Path]:
        folder = Path("/dev/shm")
        return [path for run_id in self._run_ids for path in folder.glob(f"{run_id}*")]

    def leavings(self) -> list[str]:
        """What is left of it that should not be: processes, shared memory, run directories."""
        alive = [
            f"process {process.pid}"
            for process in self._seen.values()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]
        shared = [str(path) for path in self._shared_memory()]
        folders = [str(path.parent) for path in self.data_dir.glob("run/*/record.json")]
        return alive + shared + folders


def call(
    serving: Serving, method: str, path: str, body: Any = None, key: str | None = None
) -> requests.Response:
    """The reply to one call below `/v1`, with the admin's key or another."""
    headers = {"authorization": f"Bearer {key or serving.key}"}
    return requests.request(
        method, f"{serving.base_url}{path}", json=body, headers=headers, timeout=120
    )


def run_command(serving: Serving, *arguments: str) -> Any:
    """What a command prints that works on the same data; it must succeed and know `--json`."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments, "--json"],
        env=settings_env({"DATA_DIR": serving.data_dir}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _limited(open_files: int | None) -> list[str]:
    """What starts a program with at most so many descriptors."""
    if open_files is None:
        return []
    return ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh"]


def running(serving: Serving) -> Iterator[Serving]:
    """For fixtures: `serving` once it is ready; afterwards a clean stop that leaves nothing."""
    try:
        yield serving.wait_ready()
        assert serving.stop() == 0, serving.log
        assert serving.leavings() == []
    finally:
        serving.kill()
