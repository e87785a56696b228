"""Where this environment's tritonserver is, and which of its files fit this interpreter."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


class StartError(Exception):
    """Triton cannot be started; the message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The files of the nvidia-pytriton wheel that are needed to run its tritonserver."""

    server: Path
    backend_library: Path
    backend_utils: Path
    stub: Path
    libraries: Path
    """The folder of the libraries that the wheel contains."""
    libpython: Path | None
    """This interpreter's shared library; `None` when the loader finds the right one by itself."""


@dataclass(frozen=True, slots=True)
class ServerRoot:
    """A whole Triton that is not ours, as in NVIDIA's images under `/opt/tritonserver`.

    It has its own Python and its own backends; ours were added when the image was made.
    """

    server: Path
    backends: Path


def find_server(root: Path | None) -> Installation | ServerRoot:
    """Finds the Triton under `root`, or this environment's without one. Raises: StartError."""
    if root is None:
        return find_installation()
    found = ServerRoot(root / "bin" / "tritonserver", root / "backends")
    for path in (found.server, found.backends):
        if not path.exists():
            raise StartError(
                f"`triton.server_root` is `{root}`, which holds no Triton: `{path}` is missing"
            )
    return found


def find_installation() -> Installation:
    """Finds what is installed in this environment. Raises: StartError."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise StartError(
            "there is no tritonserver in this environment: install the package nvidia-pytriton,"
            " or set `triton.mode` to `remote` and `triton.url` to a running Triton"
        )
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    installation = Installation(
        server=root / "bin" / "tritonserver",
        backend_library=root / "backends" / "python" / "libtriton_python.so",
        backend_utils=root / "backends" / "python" / "triton_python_backend_utils.py",
        stub=root / "python_backend_stubs" / version / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
        libpython=_find_libpython(),
    )
    if not installation.stub.exists():
        raise StartError(f"this nvidia-pytriton has no Python backend for Python {version}")
    for path in (installation.server, installation.backend_library, installation.backend_utils):
        if not path.exists():
            raise StartError(f"the installed nvidia-pytriton is incomplete: `{path}` is missing")
    return installation


def _find_libpython() -> Path | None:
    """Finds the shared library of exactly this interpreter; Triton's stub needs the same build.

    Raises: StartError.
    """
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    if ".so" not in name:
        # A statically linked interpreter names its archive here.
        name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")]
    if folders[0] and (multiarch := sysconfig.get_config_var("MULTIARCH")):
        folders.append(os.path.join(folders[0], multiarch))  # noqa: PTH118  # may be None
    folders.append(os.path.join(sys.base_prefix, "lib"))  # noqa: PTH118
    for folder in folders:
        if folder and (path := Path(folder) / name).exists():
            return path
    raise StartError(
        f"Triton's Python backend needs {name}, and this Python ({sys.executable}) was built"
        " without it: use a Python with a shared library (on Debian and Ubuntu the package"
        f" libpython{sys.version_info.major}.{sys.version_info.minor})"
    )
