"""Triton's own words, as its 2.51 and the loader write them, and the sentence made of them."""

from __future__ import annotations

import pytest

from orchestrator.supervisor.diagnosis import cause, exit_reason

SERVER = "/opt/venv/pytriton/tritonserver/bin/tritonserver"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            (
                f"{SERVER}: error while loading shared libraries: libstdc++.so.6: cannot open"
                " shared object file: No such file or directory"
            ),
            "the library libstdc++.so.6, which this machine lacks",
        ),
        (
            (
                f"{SERVER}: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.35' not found"
                f" (required by {SERVER})"
            ),
            "glibc 2.35 or newer is needed",
        ),
        (
            f"{SERVER}: /lib/libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by x)",
            "GLIBCXX_3.4.30 of libstdc++",
        ),
        (
            (
                'E1121 06:52:04.907214 13600 main.cc:293] "failed to start Metrics service:'
                " Unavailable - Socket '127.0.0.1:41823' already in use \""
            ),
            (
                "Triton cannot listen: failed to start Metrics service: Unavailable - Socket"
                " '127.0.0.1:41823' already in use"
            ),
        ),
        (
            (
                "Failed to initialize Python stub: Unable to initialize shared memory key 'x' to"
                " requested size (1048576 bytes). Error: No space left on device"
            ),
            "/dev/shm is full or too small",
        ),
        ("write error: No space left on device", "the disk is full"),
        (f"cannot execute {SERVER}: Exec format error", "cannot be executed: Exec format error"),
        ("what():  std::bad_alloc", "not enough memory"),
    ],
)
def test_known_cause_becomes_one_sentence(line: str, words: str) -> None:
    sentence = cause(["something else", line])
    assert sentence is not None
    assert words in sentence
    assert "\n" not in sentence


def test_unknown_words_have_no_cause() -> None:
    assert cause(['W1121 06:52:04.906989 13600 metrics.cc:798] "nothing of note"']) is None


def test_exit_reason_quotes_the_last_line_without_its_head() -> None:
    lines = ['E1121 06:52:04.907214 13600 main.cc:42] "the repository is gone"']
    assert exit_reason(1, lines) == "Triton ended with code 1: the repository is gone"


def test_exit_reason_names_the_signal_of_a_silent_end() -> None:
    assert exit_reason(-9, []) == "Triton was killed by signal 9"


def test_exit_reason_is_cut_to_a_readable_length() -> None:
    assert len(exit_reason(1, ["x" * 5000])) < 400
