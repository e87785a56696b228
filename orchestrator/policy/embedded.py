"""Rego in this process, by rego-cpp.

An interpreter that two threads share answers one with the other's decision, so every thread has its
own. Whatever the library does that is not a plain answer (an error, a result that is not ok, an
exception of any kind) is no answer, and no answer refuses.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regopy import Bundle, Interpreter, LogLevel

from orchestrator.core.errors import InvalidRequest
from orchestrator.core.remembered import Remembered
from orchestrator.policy import Decision, PolicyInput
from orchestrator.policy.inputs import Key, PolicyVersion, Question, question
from orchestrator.policy.modules import check_module
from orchestrator.policy.verdict import BadVerdictError, read_verdict, unavailable
from orchestrator.telemetry.instruments import Tally

logger = logging.getLogger(__name__)

REGO_FOLDER = Path(__file__).parent / "rego"
_ENTRY = "gateway/authz/decision"
_OWN = "own"
_MOST_COMPILED = 64
"""Operators' modules that one thread keeps compiled."""
_MOST_REMEMBERED = 20_000
_THREADS = 2
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]')
_PLACE = re.compile(rf"\(error \d+:{_OWN}\|(?P<offset>\d+)\|\d+\s+\(errormsg \d+:(?P<text>[^)]*)\)")


class EmbeddedRego:
    """Evaluates versions of policies, the product's rules and an operator's own together.

    The product's rules alone are quick and run on the event loop; with a module of somebody else,
    who knows how long it takes, a thread does it and is waited for `timeout_s` at most.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        tally: Tally | None = None,
        most_remembered: int = _MOST_REMEMBERED,
    ) -> None:
        """`tally` counts the decisions that were remembered, and the others."""
        self._tally = tally or Tally()
        self._timeout_s = timeout_s
        self._gateway = (REGO_FOLDER / "gateway.rego").read_text(encoding="utf-8")
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(_THREADS, "policy")
        self._remembered: Remembered[tuple[int, Key], tuple[PolicyVersion, Decision]]
        self._remembered = Remembered(most_remembered)

    async def decide(self, version: PolicyVersion, asked: PolicyInput) -> Decision:
        """The decision of `version`. Raises: PolicyUnavailable."""
        asking = question(version, asked, clock=version.module is not None)
        # The version is kept beside the decision, so that its id is nobody else's meanwhile.
        key = (id(version), asking.key)
        if (known := self._remembered.get(key)) is not None:
            self._tally.hits += 1
            return known[1]
        self._tally.misses += 1
        decision = await self._evaluated(asking)
        self._remembered.put(key, (version, decision))
        return decision

    def is_constant(self, version: PolicyVersion) -> bool:
        """Whether neither its window nor a module, which is told the minute, looks at the clock."""
        return version.module is None and version.document.window is None

    async def close(self) -> None:
        """Waits for no thread that is still busy."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def evaluate(self, asking: Question) -> Decision:
        """The decision, made here and now in this thread. Raises: BadVerdictError."""
        try:
            answer = self._compiled(asking.version.module).ask(asking.document())
        except BadVerdictError:
            raise
        # The library raises whatever it likes, JSON errors for recursion among them.
        except Exception as error:
            raise BadVerdictError(f"{type(error).__name__} in the engine") from error
        return read_verdict(answer, asking.version)

    async def _evaluated(self, asking: Question) -> Decision:
        try:
            if asking.version.module is None:
                return self.evaluate(asking)
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._threads, self.evaluate, asking)
            return await asyncio.wait_for(work, self._timeout_s)
        except (BadVerdictError, TimeoutError) as error:
            version = asking.version
            logger.error(
                "policy %s version %d cannot be evaluated: %s",
                version.policy_id,
                version.version,
                str(error) or f"no answer within {self._timeout_s:g} s",
            )
            raise unavailable() from error

    def _compiled(self, module: str | None) -> _Compiled:
        """The rules with `module`, compiled once by each thread that needs them."""
        kept: OrderedDict[str | None, _Compiled] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = OrderedDict()
        compiled = kept.get(module)
        if compiled is None:
            compiled = kept[module] = compile_rules(self._gateway, module)
            if len(kept) > _MOST_COMPILED:
                kept.popitem(last=False)
        else:
            kept.move_to_end(module)
        return compiled


@dataclass(frozen=True, slots=True)
class _Compiled:
    """Rules in an interpreter, for the thread that compiled them."""

    interpreter: Interpreter = field(repr=False)
    bundle: Bundle = field(repr=False)

    def ask(self, document: Mapping[str, Any]) -> Any:
        """Rego's `decision`. Raises: BadVerdictError, and what the library raises."""
        self.interpreter.set_input(_as_source(document))
        output = self.interpreter.query_bundle_entrypoint(self.bundle, _ENTRY)
        if not output.ok():
            raise BadVerdictError("the engine reports an error")
        match json.loads(str(output), object_pairs_hook=_without_doubles):
            case {"expressions": [answer]}:
                return answer
        raise BadVerdictError("the decision is undefined")


def _as_source(value: Any) -> Any:
    """`value` with its texts as they would stand between quotes in a module.

    rego-cpp keeps texts in that form, and writes them into its answer as they are: a quote in the
    label of a key would end the text there, and begin a member of the caller's choice.
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
    """Raises: BadVerdictError when two members have the same name."""
    made = dict(members)
    if len(made) != len(members):
        raise BadVerdictError("the answer has a member twice")
    return made


def compile_rules(gateway: str, module: str | None) -> _Compiled:
    """Raises: BadVerdictError, and what the library raises."""
    interpreter = Interpreter()
    # It would otherwise answer `undefined` where a built-in fails, and write to standard output.
    interpreter.strict_built_in_errors = True
    interpreter.log_level = LogLevel.NONE
    interpreter.add_module("gateway", gateway)
    if module is not None:
        interpreter.add_module(_OWN, module)
    bundle = interpreter.build(None, [_ENTRY])
    if not bundle.ok():
        raise BadVerdictError("the rules cannot be compiled")
    return _Compiled(interpreter, bundle)


def check_version(version: PolicyVersion, param: str = "module") -> None:
    """Raises: InvalidRequest, with line and column, when the module is not one that can run."""
    if version.module is None:
        return
    check_module(version.module, param)
    gateway = (REGO_FOLDER / "gateway.rego").read_text(encoding="utf-8")
    try:
        compiled = compile_rules(gateway, version.module)
        asked = PolicyInput("key_1", "ten_1", "a/b", "generate", "cloud-ok", "127.0.0.1", at=0.0)
        compiled.ask(question(version, asked, clock=True).document())
    except Exception as error:
        line, column, fault = _place(str(error), version.module)
        raise InvalidRequest(
            f"`{param}`, line {line}, column {column}: {fault}", param=param
        ) from error


def _place(said: str, source: str) -> tuple[int, int, str]:
    """Line, column and fault in what the compiler said; without a place, the first line."""
    found = _PLACE.search(said)
    if found is None:
        return 1, 1, "the module cannot be evaluated: a built-in fails, or a rule has two values."
    before = source.encode()[: int(found["offset"])].decode(errors="ignore")
    return before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1, f"{found['text']}."
