"""Logging: one line a request, to read or for programs, and every line names its request."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.settings import LoggingSettings
from orchestrator.telemetry.calls import Call, enter, leave
from orchestrator.telemetry.logs import RequestRecord, configure_logging, log_request, wants_json


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def call() -> Iterator[Call]:
    """A request at work, whose trace is known."""
    call = Call("req_1", "mine-req_1")
    call.trace_id = 0xABC
    token = enter(call)
    yield call
    leave(token)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_logs_go_to_standard_error_at_the_level_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LoggingSettings(level="warning", format="text"))
    logging.getLogger("x").info("not this")
    logging.getLogger("x").warning("but %s", "this")
    log_request(RequestRecord("req_1", "GET", "/", 200, 0.0123))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(" WARNING x but this\n")


def test_a_line_to_read_cannot_be_forged_by_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings(format="text"))
    log_request(RequestRecord("req_1", "GET", "/a b\n", 200, 0.0123, model="m"))
    line = capsys.readouterr().err
    assert " INFO orchestrator.requests req_1 GET /a\\x20b\\n 200 12.3ms key=- model=m " in line
    assert line.count("\n") == 1


def test_a_line_for_programs_says_all_that_is_known_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LoggingSettings(format="json"))
    log_request(RequestRecord("req_1", "GET", "/a\n", 404, 0.0123, error="not_found"))
    log_request(
        RequestRecord("req_2", "POST", "/b", 200, 1, "key_1", "m", 9, 16, "ten_1", "", 0.25)
    )
    refused, answered = lines(capsys)
    assert refused.pop("time").endswith("Z")
    assert refused == {
        "level": "info", "logger": "orchestrator.requests", "message": "request", "method": "GET",
        "path": "/a\n", "status": 404, "duration_ms": 12.3, "call_id": "req_1",
        "error": "not_found",
    }  # fmt: skip
    assert answered["key_id"] == "key_1"
    assert answered["tenant_id"] == "ten_1"
    assert answered["model"] == "m"
    assert (answered["prompt_tokens"], answered["completion_tokens"]) == (9, 16)
    assert answered["first_token_ms"] == 250


@pytest.mark.parametrize("format_", ["json", "text"])
def test_every_line_of_a_request_names_it_and_its_trace(
    call: Call, capsys: pytest.CaptureFixture[str], format_: Any
) -> None:
    configure_logging(LoggingSettings(format=format_))
    logging.getLogger("store").warning("slow")
    log_request(RequestRecord(call.call_id, "GET", "/", 200, 0.1))
    for line in capsys.readouterr().err.splitlines():
        assert "req_1" in line
        assert f"{0xABC:032x}" in line


async def test_lines_of_requests_are_written_together_and_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LoggingSettings(format="json"))
    for number in range(3):
        log_request(RequestRecord(f"req_{number}", "GET", "/", 200, 0.1))
    assert lines(capsys) == []
    await asyncio.sleep(0.05)
    assert [line["call_id"] for line in lines(capsys)] == ["req_0", "req_1", "req_2"]
    log_request(RequestRecord("req_3", "GET", "/", 200, 0.1))
    logging.getLogger("store").warning("slow")
    log_request(RequestRecord("req_4", "GET", "/", 200, 0.1))
    assert [line["message"] for line in lines(capsys)] == ["request", "slow"]
    # As the end of the process does.
    logging.getLogger().handlers[0].flush()
    assert [line["call_id"] for line in lines(capsys)] == ["req_4"]


def test_outside_of_requests_a_line_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings(format="json"))
    logging.getLogger("store").warning("slow")
    (line,) = lines(capsys)
    assert set(line) == {"time", "level", "logger", "message"}


def test_an_exception_stays_on_the_line_of_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings(format="json"))
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("x").exception("failed")
    (line,) = lines(capsys)
    assert line["message"] == "failed"
    assert line["exception"].endswith("\nKeyError")


def raise_of_many_kinds() -> None:
    """An error with a cause, in a group, whose texts all quote what was sent."""
    try:
        int("a secret prompt")
    except ValueError as error:
        group = ExceptionGroup("a secret group", [OSError(28, "No space left"), error])
        raise KeyError("a secret key") from group


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_error_is_told_with_its_text(capsys: pytest.CaptureFixture[str], format_: Any) -> None:
    configure_logging(LoggingSettings(format=format_))
    try:
        raise_of_many_kinds()
    except KeyError:
        logging.getLogger("x").exception("failed")
    logging.getLogger("asyncio").error("Task was lost\ntask: <Task exception=V('a secret')>")
    told = capsys.readouterr().err
    # The source of a test stands in its places; only there may the word be.
    shown = [line for line in told.replace("\\n", "\n").splitlines() if "secret" in line]
    assert all(line.strip().startswith(("int(", "raise ", "group =")) for line in shown)
    assert "raise_of_many_kinds" in told
    for kind in ("KeyError", "ExceptionGroup", "ValueError", "OSError: No space left"):
        assert kind in told
    assert "Task was lost" in told


def test_a_terminal_gets_text_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert wants_json(LoggingSettings())
    assert not wants_json(LoggingSettings(format="text"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert not wants_json(LoggingSettings())
    assert wants_json(LoggingSettings(format="json"))
