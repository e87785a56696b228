"""What the whole tree promises: floors, sizes, sources of packages, and a README that is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from orchestrator.core import errors
from orchestrator.http.errors import UnknownRoute
from orchestrator.settings import ENV_PREFIX, PROJECT_ROOT, Settings

_MAX_FILE_LINES = 500
_MAX_FUNCTION_LINES = 50
_SOURCES = ("orchestrator", "build_engines", "model_repository/backends", "tests")
_INSTALL_FILES = ("pyproject.toml", "Makefile", "requirements/*", ".ci/*", "docker/*", "*.cfg")
_PACKAGE_INDEX = re.compile(
    r"--(extra-)?index(-url)?\b|--find-links|index[-_]url|pypi\.org|pythonhosted|npmjs|UV_INDEX"
)


def _python_files() -> list[Path]:
    return [path for folder in _SOURCES for path in sorted((PROJECT_ROOT / folder).rglob("*.py"))]


def _install_files() -> Iterator[Path]:
    for pattern in _INSTALL_FILES:
        yield from (path for path in sorted(PROJECT_ROOT.glob(pattern)) if path.is_file())


def _name(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


def test_no_module_imports_upwards() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", _python_files(), ids=_name)
def test_files_and_functions_can_be_read_at_a_sitting(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= _MAX_FILE_LINES
    if "tests" in path.relative_to(PROJECT_ROOT).parts:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= _MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_no_file_says_where_packages_come_from() -> None:
    for path in _install_files():
        found = _PACKAGE_INDEX.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{_name(path)}: {found.group() if found else ''}"


def test_locks_hold_hashes_and_no_address() -> None:
    locks = sorted((PROJECT_ROOT / "requirements").glob("*.txt"))
    assert locks
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text, _name(lock)
        for requirement in re.split(r"\n(?=[a-z0-9])", text, flags=re.IGNORECASE):
            if "==" in requirement.partition("\n")[0]:
                assert "--hash=sha256:" in requirement, requirement[:60]


def _defaults(group: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Environment variable and default of every setting, in the order of the classes."""
    for name, field in group.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from _defaults(type(default), f"{prefix}{name}__")
        else:
            yield f"{ENV_PREFIX}{prefix}{name}".upper(), _as_text(default)


def _as_text(default: object) -> str:
    match default:
        case None | "" | ():
            return "–"
        case dict() if not default:
            return "–"
        case Path() if default.is_relative_to(PROJECT_ROOT):
            return f"`{default.relative_to(PROJECT_ROOT)}`"
        case float():
            return f"`{default:g}`"
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"


def test_the_reference_lists_every_setting_with_its_default() -> None:
    readme = (PROJECT_ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(ORCHESTRATOR_\w+)` \| (.+?) \| (.+?) \|$", readme, re.MULTILINE)
    assert [(name, default) for name, default, _ in rows] == list(_defaults(Settings))
    assert all(meaning.strip() for _, _, meaning in rows)


def test_the_document_of_the_wire_lists_every_error() -> None:
    text = (PROJECT_ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \| `\w+` \| `(\w+)` \|", text, re.MULTILINE)
    kinds = [*vars(errors).values(), UnknownRoute]
    assert rows == [
        (kind.__name__, str(kind.status), kind.code, kind.reason)
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, errors.GatewayError)
    ]


_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize(
    "path",
    [*sorted(PROJECT_ROOT.glob("*.md")), *sorted((PROJECT_ROOT / "docs").glob("*.md"))],
    ids=_name,
)
def test_links_of_documents_lead_somewhere(path: Path) -> None:
    for file, anchor in _LINK.findall(path.read_text(encoding="utf-8")):
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{_name(path)}: {file}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in anchors, f"{_name(path)}: #{anchor}"


def test_architecture_names_files_that_are_there() -> None:
    text = (PROJECT_ROOT / "orchestrator" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`([a-z_0-9/]+/[a-z_0-9]+\.(?:py|toml|md))`", text)):
        places = [PROJECT_ROOT / folder / name for folder in ("", "orchestrator", "build_engines")]
        assert any(place.exists() for place in places), name
