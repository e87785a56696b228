"""`python -m build_engines`: builds what the catalogue lists and is not up to date."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

from build_engines.builder import Builder, BuildError, Result
from build_engines.repository import Repository
from build_engines.target import TARGETS, load_target
from orchestrator.catalogue import Catalogue, CatalogueError, Model, load_catalogue

_ROOT = Path(__file__).resolve().parent.parent
_REPOSITORY = _ROOT / "model_repository"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0 done, 1 a model failed, 2 wrong usage."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        models = _chosen(load_catalogue(options.catalogue), options.models)
    except (CatalogueError, LookupError) as error:
        _say(str(error))
        return 2
    command = shlex.join(["python", "-m", "build_engines", *given])
    repository = Repository(options.repository, _REPOSITORY / "templates")
    try:
        builder = Builder(repository, load_target(options.target), _ROOT, command)
        with nullcontext() if options.dry_run else repository.locked(_say):
            results = [_build(builder, model, options) for model in models]
    except KeyboardInterrupt:
        _say("interrupted; nothing half-built was left behind")
        return 130
    except OSError as error:
        _say(f"cannot write to {options.repository}: {error.strerror}")
        return 1
    if options.json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 1 if any(result.status == "failed" for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build_engines", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="id or directory name; all")
    parser.add_argument("--target", choices=sorted(TARGETS), default="cpu")
    parser.add_argument("--catalogue", type=Path, default=_REPOSITORY / "catalogue.toml")
    parser.add_argument("--repository", type=Path, default=_REPOSITORY)
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be built")
    return parser


def _chosen(catalogue: Catalogue, names: list[str]) -> list[Model]:
    if not names:
        return list(catalogue.models)
    by_name = {model.name: model for model in catalogue.models}
    chosen = []
    for name in names:
        model = catalogue.find(name) or by_name.get(name)
        if model is None:
            known = ", ".join(model.id for model in catalogue.models)
            raise LookupError(f"model `{name}` is not in the catalogue; it lists: {known}")
        chosen.append(model)
    return chosen


def _build(builder: Builder, model: Model, options: argparse.Namespace) -> Result:
    started = time.monotonic()

    def progress(stage: str) -> None:
        _say(f"{model.id}: {stage} ({time.monotonic() - started:.1f} s)")

    try:
        result = builder.build(model, progress, force=options.force, dry_run=options.dry_run)
    except BuildError as error:
        _say(f"cannot build {error}")
        elapsed = round(time.monotonic() - started, 3)
        return Result(model.id, model.name, "failed", elapsed, str(error))
    _say(f"{model.id}: {result.status.replace('_', ' ')} ({result.duration_s:.1f} s)")
    return result


def _say(text: str) -> None:
    sys.stderr.write(f"engines: {text}\n")
    sys.stderr.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds like Ctrl-C, so that clean-up runs."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
