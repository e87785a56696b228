"""`orchestrator serve`: its life from the first line to the last process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import openai
import psutil
import pytest

from tests.integration.conftest import SupervisedTriton
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, settings_env, wait_until

MODEL = "scripted/scripted"
Start = Callable[..., Serving]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRepository:
    return write_repository(tmp_path_factory.mktemp("serve") / "repository")


@pytest.fixture
def start(repository: ScriptedRepository, tmp_path: Path) -> Iterator[Start]:
    """Starts servers with a scripted model and ends what a failed test leaves of them."""
    started: list[Serving] = []

    def one(**values: object) -> Serving:
        serving = Serving(tmp_path, repository.settings | values)
        started.append(serving)
        return serving

    yield one
    for serving in started:
        serving.kill()


def client_of(serving: Serving) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=serving.base_url, api_key=serving.key, max_retries=0)


async def ask(client: openai.AsyncOpenAI, prompt: str) -> str | None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}]
    )
    return answer.choices[0].message.content


async def test_stop_by_signal_lets_a_running_stream_end_and_leaves_nothing(start: Start) -> None:
    serving = start().wait_ready()
    async with client_of(serving) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            stream=True,
            messages=[{"role": "user", "content": script(emit="abc", repeat=20, delay_ms=40)}],
        )
        serving.processes()
        serving.signal(signal.SIGTERM)
        text, reasons = "", []
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            reasons.append(chunk.choices[0].finish_reason)
    assert text == "abc" * 20
    assert reasons[-1] == "stop"
    assert await asyncio.to_thread(serving.wait) == 0
    assert serving.leavings() == []
    assert "stopped" in serving.log


async def test_second_signal_stops_at_once(start: Start) -> None:
    serving = start().wait_ready()
    async with client_of(serving) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            stream=True,
            messages=[{"role": "user", "content": script(emit="abc", hang_at=2)}],
        )
        await anext(aiter(stream))
        serving.processes()
        serving.signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        assert serving.log.count("stopping") == 1
        serving.signal(signal.SIGINT)
        assert await asyncio.to_thread(serving.wait, 15.0) == 0
        with pytest.raises((openai.APIError, Exception)):
            async for _ in stream:
                pass
    assert serving.leavings() == []


async def test_killed_parent_takes_everything_with_it_and_the_next_start_cleans_up(
    start: Start,
) -> None:
    serving = start().wait_ready()
    others = [process for process in serving.processes() if process.pid != serving.pid]
    assert len(others) == 3
    serving.signal(signal.SIGKILL)
    await asyncio.to_thread(serving.wait)
    await asyncio.to_thread(
        wait_until, lambda: not any(one.is_running() for one in others), 30.0, "all processes gone"
    )
    again = await asyncio.to_thread(start().wait_ready)
    async with client_of(again) as client:
        assert await ask(client, "hello") == "hello"
    assert await asyncio.to_thread(again.stop) == 0
    assert serving.leavings() == []
    assert again.leavings() == []


async def test_stop_while_starting(start: Start) -> None:
    serving = start()
    await asyncio.to_thread(
        wait_until, lambda: "starting Triton" in serving.log, 60.0, "starting Triton"
    )
    serving.processes()
    serving.signal(signal.SIGTERM)
    assert await asyncio.to_thread(serving.wait) == 0
    assert serving.leavings() == []


async def test_worker_that_ends_while_it_starts_is_one_sentence(start: Start) -> None:
    serving = start()
    await asyncio.to_thread(wait_until, lambda: _kill_worker(serving), 60.0, "a worker")
    assert await asyncio.to_thread(serving.wait) == 1
    assert "orchestrator: the HTTP worker ended with code -9 while it started" in serving.log
    assert "Traceback" not in serving.log
    assert serving.leavings() == []


def _kill_worker(serving: Serving) -> bool:
    with contextlib.suppress(AssertionError, psutil.Error):
        serving.worker().kill()
        return True
    return False


def test_no_secret_is_in_the_arguments_of_a_worker(scripted_appliance: Serving) -> None:
    arguments = scripted_appliance.worker().cmdline()
    assert len(" ".join(arguments)) < 200
    environment = scripted_appliance.worker().environ()
    token = environment["ORCHESTRATOR_TRITON__TOKEN"]
    assert not any(token in argument for argument in arguments)
    assert "ORCHESTRATOR_BOOTSTRAP__ADMIN_KEY" not in environment
    names = {name.upper() for name in scripted_appliance.server().environ()}
    assert not any(name.startswith("ORCHESTRATOR_") for name in names)


def test_greeting_of_an_unattended_install_shows_no_key(scripted_appliance: Serving) -> None:
    assert scripted_appliance.key not in scripted_appliance.printed
    assert scripted_appliance.base_url in scripted_appliance.printed


def test_greeting_works_when_pasted_and_shows_the_key_once(
    repository: ScriptedRepository, tmp_path: Path
) -> None:
    pasted = _paste_greeting(Serving(tmp_path, _fresh(repository)))
    assert "shown only now" in pasted["printed"]
    key = (tmp_path / "data" / "first-key").read_text(encoding="utf-8").strip()
    assert key in pasted["printed"]
    pasted = _paste_greeting(Serving(tmp_path, _fresh(repository)))
    assert key not in pasted["printed"]


def _fresh(repository: ScriptedRepository) -> Mapping[str, object]:
    return repository.settings | {"BOOTSTRAP__ADMIN_KEY": None}


def _paste_greeting(serving: Serving) -> dict[str, str]:
    """Runs the printed curl line and the printed Python lines, and stops the server."""
    try:
        printed = serving.wait_ready().printed
        curl = next(line for line in printed.splitlines() if line.startswith("curl "))
        shell = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True)
        assert '"content":"What is the capital of France?"' in shell.stdout
        lines = printed[printed.index("from openai") :].strip()
        assert len(lines.splitlines()) == 5
        python = subprocess.run(
            [sys.executable, "-c", lines], capture_output=True, text=True, check=True
        )
        assert python.stdout == "What is the capital of France?\n"
        assert serving.stop() == 0
        return {"printed": printed}
    finally:
        serving.kill()


async def test_remote_triton_is_served_from_and_left_running(
    triton_scripted: tuple[SupervisedTriton, ScriptedRepository], tmp_path: Path
) -> None:
    triton, repository = triton_scripted
    remote = {
        "TRITON__MODE": "remote",
        "TRITON__URL": triton.endpoint.url,
        "TRITON__TOKEN": triton.endpoint.token,
    }
    serving = Serving(tmp_path, repository.settings | remote)
    try:
        await asyncio.to_thread(serving.wait_ready)
        assert len(serving.processes()) == 2
        async with client_of(serving) as client:
            assert await ask(client, "hello") == "hello"
        assert await asyncio.to_thread(serving.stop) == 0
        assert serving.leavings() == []
    finally:
        serving.kill()
    assert triton.supervisor.state.phase == "ready"


def serve_and_fail(**values: object) -> str:
    """The one sentence of a start that must fail."""
    result = subprocess.run(
        [sys.executable, "-m", "orchestrator", "serve"],
        env=settings_env(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0].removeprefix("orchestrator: ")


def test_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = serve_and_fail(SERVER__PORT=port, DATA_DIR=tmp_path)
    assert sentence.startswith(f"port {port} of 127.0.0.1 is taken")
    assert list(tmp_path.iterdir()) == []


def test_foreign_address_is_one_sentence(tmp_path: Path) -> None:
    sentence = serve_and_fail(SERVER__HOST="192.0.2.1", SERVER__PORT=0, DATA_DIR=tmp_path)
    assert "`server.host` is `192.0.2.1`" in sentence


def test_second_instance_on_the_same_data_folder_is_one_sentence(
    scripted_appliance: Serving,
) -> None:
    sentence = serve_and_fail(SERVER__PORT=0, DATA_DIR=scripted_appliance.data_dir)
    assert str(scripted_appliance.pid) in sentence
    assert str(scripted_appliance.data_dir) in sentence


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"SERVER__PROT": 1}, "ORCHESTRATOR_SERVER__PROT"),
        ({"SERVER__PORT": 70000}, "server.port"),
        ({"CATALOGUE": "/nowhere/catalogue.toml"}, "/nowhere/catalogue.toml"),
        ({"BOOTSTRAP__ADMIN_KEY": "op_live_no"}, "bootstrap.admin_key"),
        ({"BOOTSTRAP__ADMIN_KEY_FILE": "/nowhere/key"}, "/nowhere/key"),
        ({"DATA_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_wrong_settings_are_one_sentence(
    values: dict[str, object], words: str, tmp_path: Path
) -> None:
    sentence = serve_and_fail(**({"SERVER__PORT": 0, "DATA_DIR": tmp_path} | values))
    assert words in sentence
    assert "op_live_no" not in sentence


def test_data_folder_with_a_long_and_odd_name(
    repository: ScriptedRepository, tmp_path: Path
) -> None:
    folder = tmp_path / ("ein langer Name mit 100 % Umlauten äöü " * 3)
    serving = Serving(folder, repository.settings)
    try:
        serving.wait_ready()
        assert serving.stop() == 0
        assert serving.leavings() == []
    finally:
        serving.kill()


def test_model_that_does_not_load_is_named_and_the_others_are_served(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", ["scripted", "broken"])
    config = repository.path / "broken" / "config.pbtxt"
    config.write_text(config.read_text(encoding="utf-8") + "\nno_such_field: 1\n", encoding="utf-8")
    serving = Serving(tmp_path / "serving", repository.settings)
    try:
        serving.wait_ready()
        assert "scripted/broken did not load" in serving.log
        assert list(serving.state.failed_models) == ["broken"]
        assert serving.stop() == 0
    finally:
        serving.kill()
