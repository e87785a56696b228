"""Finds a Python that can run the appliance and starts `environment.py` with it.

`make` runs this with any Python of the machine, so it uses only syntax of Python 2.7 and 3.6.
"""
# ruff: noqa: UP031, RUF005
# mypy: allow-untyped-defs, allow-untyped-calls

import json
import os
import subprocess
import sys

WANTED = ((3, 11), (3, 12))
NAMES = ("python3.12", "python3.11", "python3", "python")
# One line for Debian 12 and Ubuntu 24.04; the README has it, too.
PACKAGES = (
    "sudo apt-get install --no-install-recommends"
    " git make curl python3-venv libpython3-dev libatomic1"
)
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is not in 2.7
ROOT = os.path.dirname(os.path.dirname(HERE))  # noqa: PTH120

# The facts that a candidate reports. Triton's stub runs in the interpreter's shared library, which
# must be of exactly the same build.
QUESTION = """
import json, os, sys, sysconfig
get = sysconfig.get_config_var
version = "%d.%d" % sys.version_info[:2]
name = get("INSTSONAME") or ""
if ".so" not in name:
    name = "libpython" + version + ".so.1.0"
lib = get("LIBDIR") or ""
folders = [lib, get("LIBPL") or "", os.path.join(lib, get("MULTIARCH") or ""),
           os.path.join(getattr(sys, "base_prefix", sys.prefix), "lib")]
shared = any(os.path.exists(os.path.join(folder, name)) for folder in folders)
try:
    import ensurepip
except ImportError:
    ensurepip = None
print(json.dumps([list(sys.version_info[:3]), shared, ensurepip is not None, name]))
"""


def main():
    """Runs `environment.py` with a suitable Python; else reports what was found, exit code 1."""
    asked = os.environ.get("PYTHON", "")
    venv = os.environ.get("VENV") or os.path.join(ROOT, ".venv")  # noqa: PTH118
    if sys.executable.startswith(os.path.join(venv, "bin", "")):  # noqa: PTH118
        # This is the Python of our own environment, on every start but the first.
        hand_over(sys.executable)
    found, described = [], set()
    for path in [asked] if asked else candidates():
        version, fault = examine(path)
        if version and not fault:
            hand_over(path)
        # The same interpreter may be on the path under several names.
        if version and (os.path.realpath(path), fault) not in described:
            described.add((os.path.realpath(path), fault))
            found.append("%s (%s%s)" % (version, path, ": " + fault if fault else ""))
    what = ", ".join(found) if found else "none"
    sys.stderr.write(
        "make: the appliance needs Python 3.11 or 3.12 with its shared library, found %s;"
        " install one, or name it: make run PYTHON=/path/to/python3.12;"
        " in Debian 12 and Ubuntu 24.04: %s\n" % (what, PACKAGES)
    )
    return 1


def candidates():
    """Yields paths of interpreters, the best first. Some of them may not work."""
    seen = set()
    for name in NAMES:
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            path = os.path.join(folder, name)  # noqa: PTH118
            if folder and path not in seen and os.access(path, os.X_OK):
                seen.add(path)
                yield path
    if sys.executable not in seen:
        yield sys.executable


def examine(path):
    """Returns version and fault of the interpreter at `path`; both empty if it does not run.

    A version manager may put a shim on the path for a Python that is not installed.
    """
    try:
        process = subprocess.Popen(
            [path, "-c", QUESTION], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output = process.communicate()[0]
        version, shared, has_pip, name = json.loads(output.decode("ascii"))
    except (OSError, ValueError):
        return "", ""
    text = ".".join(str(part) for part in version)
    if tuple(version[:2]) not in WANTED:
        return text, "not 3.11 or 3.12"
    lacks = []
    if not shared:
        lacks.append(name)
    if not has_pip:
        lacks.append("ensurepip (python%d.%d-venv)" % tuple(version[:2]))
    return text, "without " + " and ".join(lacks) if lacks else ""


def hand_over(path):
    """Replaces this process by `environment.py`, run by the Python at `path`."""
    script = os.path.join(HERE, "environment.py")  # noqa: PTH118
    os.execv(path, [path, "-I", "-S", script] + sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
