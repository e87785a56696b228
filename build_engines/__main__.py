"""`python -m build_engines`: builds what the catalogue lists and is not up to date."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from build_engines.builder import Builder, BuildError, Result
from build_engines.host.machine import this_machine
from build_engines.progress import Display
from build_engines.repository.versions import Repository
from build_engines.targets.table import TARGETS, default_target, load_target
from orchestrator.contract.catalogue import Catalogue, CatalogueError, Model, load_catalogue

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
    repository = Repository(options.repository, _REPOSITORY / "templates")
    command = shlex.join(["python", "-m", "build_engines", *given])
    run = _Run(options, repository, command)
    try:
        with nullcontext() if options.dry_run else repository.locked(_say):
            results = [run.one(model) for model in models]
    except KeyboardInterrupt:
        _say("interrupted; nothing half-built was left behind")
        if run.log is not None:
            _say(f"what it did is in {run.log}")
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
    parser.add_argument("--target", choices=sorted(TARGETS), help="default: what this machine has")
    parser.add_argument("--catalogue", type=Path, default=_REPOSITORY / "catalogue.toml")
    parser.add_argument("--repository", type=Path, default=_REPOSITORY)
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--dry-run", action="store_true", help="only say what would be built")
    doing.add_argument(
        "--rollback", action="store_true", help="serve the version before; once more comes back"
    )
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


@dataclass(slots=True)
class _Run:
    """One command for several models. `log` belongs to the model that is being built."""

    options: argparse.Namespace
    repository: Repository
    command: str
    log: Path | None = None

    def one(self, model: Model) -> Result:
        """Builds or rolls back one model and reports the result."""
        display = Display(model.id, sys.stderr)
        self.log = None

        def stage(name: str) -> None:
            self.log = self.repository.log_file(model.name)
            display.stage(name)

        target = self.options.target or default_target(model, _ROOT, this_machine())
        builder = Builder(self.repository, load_target(target), _ROOT, self.command)
        try:
            if self.options.rollback:
                result = builder.roll_back(model)
            else:
                result = builder.build(
                    model,
                    stage,
                    display.plan,
                    force=self.options.force,
                    dry_run=self.options.dry_run,
                )
        except BuildError as error:
            display.close()
            _say(f"cannot build {error}" + (f"; log: {error.log}" if error.log else ""))
            log = str(error.log) if error.log else None
            return Result(
                model.id,
                model.name,
                "failed",
                round(display.elapsed_s, 3),
                error=str(error),
                log=log,
            )
        finally:
            display.close()
        self._tell(display, result)
        return result

    def _tell(self, display: Display, result: Result) -> None:
        served = f", version {result.version} is served" if result.version is not None else ""
        display.say(f"{result.status.replace('_', ' ')}{served} ({result.duration_s:.1f} s)")
        if result.note:
            display.say(result.note)


def _say(text: str) -> None:
    sys.stderr.write(f"engines: {text}\n")
    sys.stderr.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Makes SIGTERM unwind the stack like Ctrl-C, so that clean-up runs."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
