"""Journals: nothing complete is lost, nothing comes twice, wherever a crash cuts them off."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.store.journal import (
    Cursor,
    Journal,
    adopt_dead,
    format_line,
    parse_lines,
)

Step = tuple[str, int, int]
"""Kind, number of the id, version of the payload."""

_STEPS = st.lists(
    st.tuples(st.sampled_from("RPC"), st.integers(0, 5), st.integers(0, 3)), max_size=25
)


def lines_of(steps: list[Step]) -> list[bytes]:
    return [
        format_line(kind, f"id{number}", b"" if kind == "C" else b'{"v":%d}' % version)  # type: ignore[arg-type]  # the letters above
        for kind, number, version in steps
    ]


def read_dead(folder: Path) -> list[bytes]:
    taken: list[bytes] = []
    for segments in adopt_dead(folder):
        cursor = Cursor(segments, dead=True)
        while batch := cursor.take():
            taken += batch
        cursor.drop_read(all_read=True)
    return taken


def sensible(steps: list[Step]) -> list[Step]:
    """As a spool writes: an id is settled once, by `R`, or by `C` after a `P`."""
    kept, promised, settled = [], set(), set()
    for kind, number, version in steps:
        if number in settled or (kind == "C" and number not in promised):
            continue
        if kind == "P":
            promised.add(number)
        else:
            settled.add(number)
        kept.append((kind, number, version))
    return kept


@settings(max_examples=30, deadline=None)
@given(steps=_STEPS)
def test_a_journal_cut_at_any_byte_gives_every_complete_line_and_none_twice(
    steps: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    lines = lines_of(sensible(steps))
    whole = b"".join(lines)
    for length in range(len(whole) + 1):
        (folder / "jrn_1-000000.journal").write_bytes(whole[:length])
        taken = read_dead(folder)
        ends = [sum(map(len, lines[: count + 1])) for count in range(len(lines))]
        complete = [line for line, end in zip(lines, ends, strict=True) if end <= length]
        words, _ = parse_lines(b"".join(complete))
        expected = {word.id: word.payload for word in words if word.kind != "C"}
        assert sorted(taken) == sorted(expected.values())
        assert list(folder.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS, sizes=st.integers(40, 200), batches=st.randoms(use_true_random=False))
def test_reading_while_it_is_written_gives_every_id_once_unless_it_is_written_again(
    steps: list[Step],
    sizes: int,
    batches: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Live, over many small segments; what is open at the end is found by the next start."""
    folder = tmp_path_factory.mktemp("live")
    journal = Journal(folder, segment_bytes=sizes)
    cursor = Cursor(journal.segments)
    seen: list[bytes] = []
    settled: set[str] = set()
    open_promises: dict[str, bytes] = {}
    for kind, number, version in sensible(steps):
        line_id = f"id{number}"
        payload = b'{"id":%d,"v":%d}' % (number, version)
        match kind:
            case "P":
                journal.append("P", line_id, payload)
                open_promises[line_id] = payload
            case "C":
                journal.hold("C", line_id)
                settled.add(line_id)
                open_promises.pop(line_id)
            case _:
                journal.append("R", line_id, payload)
                settled.add(line_id)
                open_promises.pop(line_id, None)
        if batches.random() < 0.4:
            journal.flush()
            while batch := cursor.take():
                seen += batch
                cursor.drop_read()
    journal.flush()
    while batch := cursor.take():
        seen += batch
        cursor.drop_read()
    assert len(seen) == len(settled)
    assert cursor.promises == len(open_promises)
    journal.release()
    # The next start may see again what is committed already; it must see every open promise.
    replayed = read_dead(folder)
    assert set(open_promises.values()) <= set(replayed)


def test_a_segment_goes_when_all_of_it_is_read_and_a_promise_keeps_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=64)
    cursor = Cursor(journal.segments)
    journal.append("P", "open", b"x" * 80)
    journal.append("R", "a", b"x" * 80)
    journal.append("R", "b", b"x" * 80)
    while cursor.take():
        cursor.drop_read()
    assert [path.name[-14:] for path in sorted(tmp_path.iterdir())] == [
        "000000.journal",
        "000002.journal",
    ]
    journal.hold("C", "open")
    journal.append("R", "c", b"y" * 80)
    assert cursor.take() == [b"x" * 80, b"y" * 80]
    cursor.drop_read()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_line_costs_itself_only(tmp_path: Path) -> None:
    lines = [format_line("R", f"id{number}", b'{"n":%d}' % number) for number in range(3)]
    content = bytearray(b"".join(lines))
    content[len(lines[0]) + 12] ^= 0x04
    (tmp_path / "jrn_1-000000.journal").write_bytes(bytes(content))
    assert read_dead(tmp_path) == [b'{"n":0}', b'{"n":2}']


def test_the_journal_of_the_living_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.store.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), segment_bytes=10)\n"
        "[journal.append('R', f'id{n}', b'{}') for n in range(3)]\n"
        "print('written', flush=True); sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline() == "written\n"
        assert adopt_dead(tmp_path) == []
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert read_dead(tmp_path) == [b"{}"] * 3
    finally:
        child.kill()
        child.communicate()


def test_two_who_look_for_the_dead_get_each_journal_once(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"jrn_{number}-000000.journal").write_bytes(format_line("R", "a", b"{}"))
    first = adopt_dead(tmp_path)
    assert (len(first), adopt_dead(tmp_path)) == (3, [])
    for segments in first:
        for segment in segments:
            segment.discard()


def test_a_full_disk_keeps_lines_in_memory_until_there_is_room(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writes are cut short, then refused."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        for number in range(6):
            journal.append("R", f"id{number}", b'{"n":%d}' % number)
        assert journal.fault is not None
        # No half line was left behind.
        (path,) = tmp_path.iterdir()
        assert path.read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)
    journal.flush()
    assert journal.fault is None
    assert Cursor(journal.segments).take() == [b'{"n":%d}' % number for number in range(6)]
