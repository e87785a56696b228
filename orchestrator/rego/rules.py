"""Rules in rego-cpp: compiled, and evaluated for their decision.

If two threads share an interpreter, one can get the other's decision, so each interpreter belongs
to the thread that made it. Any result that is not a plain answer (an error, a result that is not
ok, an exception of any kind) counts as no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.rego import NoAnswerError
from orchestrator.settings import SettingsError

try:
    from regopy import Bundle, Interpreter, LogLevel
except OSError as error:
    # It loads system libraries, which may have been removed since the environment was made.
    raise SettingsError(
        f"the policy engine cannot be loaded: {error}"
        " (in Debian and Ubuntu install the package libatomic1)"
    ) from error

_ENTRY = "gateway/authz/decision"
_OWN = "own"
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]')
_PLACE = re.compile(rf"\(error \d+:{_OWN}\|(?P<offset>\d+)\|\d+\s+\(errormsg \d+:(?P<text>[^)]*)\)")


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules in an interpreter, for the thread that compiled them."""

    interpreter: Interpreter = field(repr=False)
    bundle: Bundle = field(repr=False)

    def ask(self, document: Mapping[str, Any]) -> Any:
        """Evaluates Rego's `decision` with `document` as its `input`. Raises: NoAnswerError."""
        try:
            return self.asked(document)
        except NoAnswerError:
            raise
        # The library raises exceptions of any type, for recursion even JSON errors.
        except Exception as error:
            raise NoAnswerError(f"{type(error).__name__} in the engine") from error

    def asked(self, document: Mapping[str, Any]) -> Any:
        """Like `ask`. Raises: NoAnswerError, and what the library raises."""
        self.interpreter.set_input(_as_source(document))
        output = self.interpreter.query_bundle_entrypoint(self.bundle, _ENTRY)
        if not output.ok():
            raise NoAnswerError("the engine reports an error")
        match json.loads(str(output), object_pairs_hook=_without_doubles):
            case {"expressions": [answer]}:
                return answer
        raise NoAnswerError("the decision is undefined")


def compile_rules(gateway: str, module: str | None) -> Rules:
    """Compiles our rules and an operator's. Raises: NoAnswerError, what the library raises."""
    interpreter = Interpreter()
    # Otherwise it answers `undefined` if a built-in fails, and writes to standard output.
    interpreter.strict_built_in_errors = True
    interpreter.log_level = LogLevel.NONE
    interpreter.add_module("gateway", gateway)
    if module is not None:
        interpreter.add_module(_OWN, module)
    bundle = interpreter.build(None, [_ENTRY])
    if not bundle.ok():
        raise NoAnswerError("the rules cannot be compiled")
    return Rules(interpreter, bundle)


def place(said: str, source: str) -> tuple[int, int, str]:
    """Finds line, column and fault in the compiler's message; without a place, the first line."""
    found = _PLACE.search(said)
    if found is None:
        return 1, 1, "the module cannot be evaluated: a built-in fails, or a rule has two values."
    before = source.encode()[: int(found["offset"])].decode(errors="ignore")
    return before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1, f"{found['text']}."


def _as_source(value: Any) -> Any:
    """Returns `value` with its texts as they would stand between quotes in a module.

    rego-cpp keeps texts in that form, and writes them into its answer unchanged: a quote in the
    label of a key would end the text there, and start a member of the caller's choice.
    """
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)[1:-1] if _UNSAFE.search(value) else value
        case Mapping():
            return {_as_source(name): _as_source(one) for name, one in value.items()}
        case list():
            return [_as_source(one) for one in value]
        case _:
            return value


def _without_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: NoAnswerError when two members have the same name."""
    made = dict(members)
    if len(made) != len(members):
        raise NoAnswerError("the answer has a member twice")
    return made
