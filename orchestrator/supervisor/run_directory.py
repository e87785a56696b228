"""The private folder of one supervised Triton: backends, socket, and what must be cleaned up."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.supervisor.installation import Installation, ServerRoot, StartError
from orchestrator.supervisor.state import run_folder

logger = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory
_RECORD = "record.json"
_MAX_SOCKET_PATH = 100
"""The kernel allows 107 bytes; Triton appends `:1` to the name."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Made by `assemble`, removed by `remove`. `run_id` marks all its processes and memory."""

    run_id: str
    entry: Path
    """In the data folder; holds the record by which the next start finds what remains."""
    path: Path
    """Usually the same as `entry`; elsewhere when that name is too long or not plain."""

    @property
    def backends(self) -> Path:
        """The value for `--backend-directory`."""
        return self.path / "backends"

    @property
    def repository(self) -> Path:
        """A link to the model repository, under a name that the Python backend can use."""
        return self.path / "repository"

    @property
    def libraries(self) -> Path:
        """A folder that holds this interpreter's libpython and nothing else."""
        return self.path / "lib"

    @property
    def grpc_address(self) -> str:
        """The value for `--grpc-address`, beside `--grpc-port 1`."""
        return f"unix:{self.path / 'grpc'}"

    @property
    def socket(self) -> Path:
        """The socket that Triton makes of that address and port."""
        return self.path / "grpc:1"

    @property
    def shared_memory_prefix(self) -> str:
        """The start of the names of all shared memory of this run's stubs."""
        return f"{self.run_id}_"

    def remove_leavings(self) -> None:
        """Removes what remains of a killed Triton: shared memory and its socket."""
        for path in _SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.socket.unlink()

    def remove(self) -> None:
        """Removes the folder and everything that belongs to it."""
        self.remove_leavings()
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.entry, ignore_errors=True)


def assemble(
    data_dir: Path, run_id: str, installation: Installation | ServerRoot, repository: Path
) -> RunDirectory:
    """Makes a run directory, mode 0700, with the repository's backends. Raises: StartError."""
    entry = run_folder(data_dir) / run_id[:12]
    run = RunDirectory(run_id, entry, entry)
    try:
        entry.mkdir(mode=0o700, parents=True)
        run = RunDirectory(run_id, entry, _plain_folder(entry))
        _write_record(run)
        run.repository.symlink_to(repository.absolute())
        run.libraries.mkdir()
        if isinstance(installation, ServerRoot):
            return run
        if installation.libpython is not None:
            (run.libraries / installation.libpython.name).symlink_to(installation.libpython)
        _link_python_backend(run.backends / "python", installation)
        _link_own_backends(run.backends, repository / "backends")
    except OSError as error:
        run.remove()
        raise StartError(f"`{entry}` cannot be set up: {error.strerror or error}") from error
    return run


def remove_stale_runs(data_dir: Path) -> None:
    """Ends and removes what remains of supervisors on `data_dir` that were killed.

    Only the one supervisor on `data_dir` may call it.
    """
    for record in run_folder(data_dir).glob(f"*/{_RECORD}"):
        try:
            document = json.loads(record.read_text(encoding="utf-8"))
            run = RunDirectory(document["run_id"], record.parent, Path(document["path"]))
        except (OSError, ValueError, KeyError):
            continue
        if not re.fullmatch(r"[0-9a-f]{32}", run.run_id):
            continue
        for pid in _processes_of(run.run_id):
            logger.warning("ending process %d of an earlier run", pid)
            _kill(pid)
        run.remove()


def _processes_of(run_id: str) -> Iterator[int]:
    """Yields processes with `run_id` in their arguments: Triton's id, its stubs' prefix."""
    needle = run_id.encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if needle in arguments:
                yield int(entry.name)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _plain_folder(entry: Path) -> Path:
    """Returns `entry`, or a temporary folder if that name cannot be used.

    A socket's name is limited, gRPC reads it as part of a URL, and the Python backend puts the
    names of stub and model into a line for `bash`, unquoted.
    """
    name = str(entry)
    is_plain = re.fullmatch(r"[\w./-]+", name, re.ASCII)
    if is_plain and len(name) < _MAX_SOCKET_PATH - len("/grpc:1"):
        return entry
    return Path(tempfile.mkdtemp(prefix="triton-"))


def _write_record(run: RunDirectory) -> None:
    document = {"run_id": run.run_id, "path": str(run.path)}
    (run.entry / _RECORD).write_text(json.dumps(document) + "\n", encoding="utf-8")


def _link_python_backend(folder: Path, installation: Installation) -> None:
    folder.mkdir(parents=True)
    # Copied, because Triton refuses a library whose real path is outside the backend's folder.
    shutil.copyfile(installation.backend_library, folder / installation.backend_library.name)
    # Linked, because the stub finds its libraries relative to its real path.
    (folder / installation.stub.name).symlink_to(installation.stub)
    (folder / installation.backend_utils.name).symlink_to(installation.backend_utils)


def _link_own_backends(folder: Path, sources: Path) -> None:
    """Links backends in Python: Triton runs a folder with `model.py` by its backend `python`."""
    if not sources.is_dir():
        return
    for source in sources.iterdir():
        if not (source / "model.py").is_file():
            continue
        (folder / source.name).mkdir()
        for entry in source.resolve().iterdir():
            if entry.name != "__pycache__":
                (folder / source.name / entry.name).symlink_to(entry)
