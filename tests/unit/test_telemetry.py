"""Logging: one line a request, stages on demand."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from orchestrator.settings import LoggingSettings
from orchestrator.telemetry import RequestRecord, configure_logging, log_request, stage


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_logs_go_to_standard_error_at_the_level_asked_for(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LoggingSettings(level="warning"))
    logging.getLogger("x").info("not this")
    logging.getLogger("x").warning("but %s", "this")
    assert capsys.readouterr().out == ""
    configure_logging(LoggingSettings(level="info"))
    log_request(RequestRecord("req_1", "GET", "/a b\n", 200, 0.0123, model="m"))
    line = capsys.readouterr().err
    assert " INFO orchestrator.requests req_1 GET /a\\x20b\\n 200 12.3ms key=- model=m " in line
    assert line.count("\n") == 1


def test_a_stage_tells_its_duration_only_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with stage("render"):
        pass
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG)
    with pytest.raises(KeyError), stage("render"):
        raise KeyError
    assert caplog.messages[0].startswith("render ")
    assert caplog.messages[0].endswith("ms")
