"""The command line: `python -m orchestrator <command>`.

Exit codes: 0 done, 1 it could not be done (one sentence on standard error), 2 wrong usage, 130
interrupted.
Every command imports what it needs only when it runs, so that `--help` and `--version` are quick.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator import __version__

if TYPE_CHECKING:
    from orchestrator.settings import Settings

_INTERRUPTED = 130
_CLOSED_OUTPUT = 141
"""As shells report a program that SIGPIPE ends."""

Command = Callable[["Settings", argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    from orchestrator.contract.catalogue import CatalogueError
    from orchestrator.settings import SettingsError, load_settings

    try:
        code = command(load_settings(), parsed)
        sys.stdout.flush()
    except (SettingsError, CatalogueError) as error:
        return max(_fail(str(error)), getattr(parsed, "failure", 1))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has enough, such as `head`. Python's own flush must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_OUTPUT
    except Exception as error:
        # Imported late: the store's libraries cost a quarter of a second.
        from orchestrator.store.database import StoreError

        if isinstance(error, StoreError):
            return _fail(str(error))
        raise
    return code


def _parser() -> argparse.ArgumentParser:
    from orchestrator.cli.keys import add_commands as add_key_commands
    from orchestrator.cli.policies import add_commands as add_policy_commands
    from orchestrator.cli.tenants import add_commands as add_tenant_commands

    parser = argparse.ArgumentParser(
        prog="orchestrator", description="OpenAI-compatible calls in front of Triton."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start Triton and the server")
    serve.set_defaults(command=_serve)

    # Started by `serve` only, so it has no help line.
    worker = commands.add_parser("worker")
    worker.add_argument("--fd", type=int, required=True)
    worker.add_argument("--board", type=int)
    worker.set_defaults(command=_worker)

    migrate = commands.add_parser("migrate", help="bring the store to the newest schema")
    migrate.set_defaults(command=_migrate)

    add_key_commands(commands.add_parser("keys", help="make, list, change and revoke keys"))
    add_tenant_commands(commands.add_parser("tenants", help="make tenants and limit them"))

    add_policy_commands(commands.add_parser("policies", help="write, try and replay policies"))

    models = commands.add_parser("models", help="list the models of the catalogue")
    models.add_argument("--json", action="store_true", help="for scripts")
    models.set_defaults(command=_models)

    _add_doctor(commands)
    _add_books(commands)
    return parser


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from orchestrator.cli.doctor import add_arguments

    parser = commands.add_parser("doctor", help="look at everything that is needed")
    add_arguments(parser)
    # 1 says that there are warnings, so what cannot be done has the code of what failed.
    parser.set_defaults(command=_doctor, failure=2)


def _add_books(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from orchestrator.cli import audit, usage

    sums = commands.add_parser("usage", help="what was used, by hour, day, key or model")
    usage.add_arguments(sums)
    sums.set_defaults(command=_usage)

    verify, accept, export = audit.add_arguments(
        commands.add_parser("audit", help="check or export what was done and refused")
    )
    verify.set_defaults(command=_audit_verify)
    accept.set_defaults(command=_audit_accept)
    export.set_defaults(command=_audit_export)


def _serve(settings: Settings, _parsed: argparse.Namespace) -> int:
    from orchestrator.serve import run

    return run(settings)


def _worker(settings: Settings, parsed: argparse.Namespace) -> int:
    from orchestrator.serve import run_worker

    return run_worker(settings, parsed.fd, parsed.board)


def _migrate(settings: Settings, _parsed: argparse.Namespace) -> int:
    from orchestrator.store.migrate import migrate

    changed = asyncio.run(migrate(settings))
    sys.stdout.write("The store is now up to date.\n" if changed else "Nothing to do.\n")
    return 0


def _doctor(settings: Settings, parsed: argparse.Namespace) -> int:
    from orchestrator.cli.doctor import run

    return asyncio.run(run(settings, parsed))


def _models(settings: Settings, parsed: argparse.Namespace) -> int:
    from orchestrator.cli.models import show_all

    return show_all(settings, as_json=parsed.json)


def _usage(settings: Settings, parsed: argparse.Namespace) -> int:
    from orchestrator.cli.usage import show

    return asyncio.run(show(settings, parsed))


def _audit_verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from orchestrator.cli.audit import verify

    return asyncio.run(verify(settings, parsed))


def _audit_accept(settings: Settings, parsed: argparse.Namespace) -> int:
    from orchestrator.cli.audit import accept

    return asyncio.run(accept(settings, parsed))


def _audit_export(settings: Settings, _parsed: argparse.Namespace) -> int:
    from orchestrator.cli.audit import export

    return asyncio.run(export(settings))


def _fail(sentence: str) -> int:
    sys.stderr.write(f"orchestrator: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
