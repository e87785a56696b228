"""One model on three real Tritons, one of them behind TLS: affinity, kills, hangs and returns."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event

import openai
import pytest
import requests

from tests.integration.remote_triton import RemoteTriton, remote_triton
from tests.integration.scripted.repository import ScriptedRepository, script, write_repository
from tests.integration.serving import Serving, settings_env, wait_until

MODEL = "scripted/scripted"
NAMES = ("a", "b", "c")
BEHIND_TLS = "b"
RETURN_S = 100.0


@dataclass
class Fleet:
    """The Tritons, what each was asked, and the orchestrator in front of them."""

    folder: Path
    stack: ExitStack
    repositories: dict[str, ScriptedRepository]
    tritons: dict[str, RemoteTriton] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    starts: Iterator[int] = field(default_factory=count)

    def start(self, name: str) -> None:
        """Starts the Triton `name`, at the port that it had before."""
        folder = self.folder / f"{name}{next(self.starts)}"
        made = remote_triton(
            folder, self.repositories[name], tls=name == BEHIND_TLS, port=self.ports.get(name)
        )
        self.tritons[name] = self.stack.enter_context(made)
        self.ports[name] = int(str(self.tritons[name].settings["TRITON__URL"]).rpartition(":")[2])

    @property
    def settings(self) -> dict[str, object]:
        """For the orchestrator: every Triton by its name, and a catalogue that places the model."""
        catalogue = self.folder / "catalogue.toml"
        text = self.repositories["a"].catalogue.read_text(encoding="utf-8")
        placed = text.replace("[model.engine]", f"tritons = {list(NAMES)}\n[model.engine]")
        catalogue.write_text(placed, encoding="utf-8")
        made: dict[str, object] = {
            "CATALOGUE": catalogue,
            "TRITON__REPOSITORY": self.repositories["a"].path,
            "TRITON__PROBE_INTERVAL_S": 0.5,
            "TRITON__EJECT_MOST_S": 2,
        }
        for name, triton in self.tritons.items():
            for key, value in triton.settings.items():
                own = key.removeprefix("TRITON__")
                if own in ("URL", "TLS", "TLS_CA_FILE", "METADATA"):
                    made[f"TRITON__ENDPOINTS__{name.upper()}__{own}"] = value
        return made

    def asked(self, request_id: str) -> list[str]:
        """The Tritons that began a request whose id begins so."""
        return [
            name
            for name, repository in self.repositories.items()
            if any(event["event"] == "start" for event in repository.events(request_id))
        ]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    repositories = {name: write_repository(folder / f"repository-{name}") for name in NAMES}
    with ExitStack() as stack:
        made = Fleet(folder, stack, repositories)
        for name in NAMES:
            made.start(name)
        yield made
        # In good order each of them would take seconds.
        for triton in made.tritons.values():
            triton.kill()


@pytest.fixture(scope="module")
def serving(fleet: Fleet) -> Iterator[Serving]:
    made = Serving(fleet.folder / "serving", fleet.settings)
    try:
        yield made.wait_ready()
        assert made.stop() == 0, made.log
    finally:
        made.kill()


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=serving.base_url, api_key=serving.key, max_retries=0, timeout=60
    ) as made:
        wait_until_all_serve(serving)
        yield made


def health(serving: Serving) -> dict[str, object]:
    told = requests.get(
        f"{serving.url}/health/ready",
        headers={"authorization": f"Bearer {serving.key}"},
        timeout=60,
    ).json()
    assert isinstance(told, dict)
    return told


def wait_until_all_serve(serving: Serving) -> None:
    wait_until(lambda: health(serving)["status"] == "ok", RETURN_S, "every Triton serves")


def wait_until_away(serving: Serving, name: str) -> None:
    away = re.compile(rf"not served by triton [a-c, ]*{name}")
    wait_until(lambda: bool(away.search(str(health(serving)))), RETURN_S, f"{name} is away")


def stream(client: openai.OpenAI, prompt: str, request_id: str) -> Iterator[str]:
    """The text of an answer as it comes."""
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        extra_headers={"x-request-id": request_id},
    )
    for chunk in chunks:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            yield text


def ask(client: openai.OpenAI, prompt: str, request_id: str) -> str:
    return "".join(stream(client, prompt, request_id))


def test_a_conversation_stays_on_its_server_and_conversations_are_on_all(
    client: openai.OpenAI, fleet: Fleet
) -> None:
    homes = set()
    for number in range(12):
        text = f"Conversation {number} about the river. " * 4
        for turn in range(3):
            text += f"And this is turn {turn}. "
            assert ask(client, text, f"talk-{number}-{turn}") == text
        (home,) = {tuple(fleet.asked(f"talk-{number}-{turn}")) for turn in range(3)}
        assert len(home) == 1
        homes |= set(home)
    # The one behind TLS and metadata is among them.
    assert homes == set(NAMES)


def test_a_conversation_moves_away_from_a_busy_server(client: openai.OpenAI, fleet: Fleet) -> None:
    text = "A conversation that everybody takes part in. " * 4
    ask(client, text, "crowd-before")
    (home,) = fleet.asked("crowd-before")
    slow = script(emit="x", repeat=100, delay_ms=20, error=text)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, client, slow, f"crowd-{n}") for n in range(12)]
        assert [one.result(100) for one in answers] == ["x" * 100] * 12
    # No server has more than the margin of four over the idlest.
    shares = [sum(name in fleet.asked(f"crowd-{n}-") for n in range(12)) for name in NAMES]
    assert max(shares) - min(shares) <= 5
    assert ask(client, text, "crowd-after") == text
    assert fleet.asked("crowd-after") == [home]


@dataclass
class Load:
    """Callers that ask one thing after the other, and look closely at each answer."""

    client: openai.OpenAI
    stop: Event = field(default_factory=Event)
    numbers: Iterator[int] = field(default_factory=count)
    complete: int = 0
    begun: int = 0
    """Failed after their first token."""
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def goes_on(self, answers: int) -> None:
        """Returns after so many more right answers."""
        until = self.complete + answers
        wait_until(lambda: self.complete >= until, 40, f"{answers} more answers")

    def run(self) -> None:
        while not self.stop.is_set():
            number = next(self.numbers)
            right = f"answer-{number} " * 20
            prompt = script(emit=right, delay_ms=5, first_delay_ms=100, tokens_per_response=4)
            got = ""
            try:
                for text in stream(self.client, prompt, f"load-{number}"):
                    got += text
            except openai.APIError as error:
                self.begun += bool(got)
                if not got:
                    self.refused.append(f"load-{number}: {error}")
                if not right.startswith(got):
                    self.wrong.append(got)
            else:
                self.complete += 1
                if got != right:
                    self.wrong.append(got)


def test_one_killed_and_one_hung_under_load_cost_only_what_had_begun_there(
    client: openai.OpenAI, fleet: Fleet, serving: Serving
) -> None:
    load = Load(client)
    callers = 12
    with ThreadPoolExecutor(callers) as pool:
        working = [pool.submit(load.run) for _ in range(callers)]
        try:
            load.goes_on(20)
            fleet.tritons["a"].kill()
            wait_until_away(serving, "a")
            fleet.tritons["c"].process.suspend()
            wait_until_away(serving, "c")
            assert health(serving)["status"] == "degraded"
            load.goes_on(20)
            fleet.tritons["c"].process.resume()
            fleet.start("a")
            wait_until_all_serve(serving)
            back_at = time.monotonic_ns()
            load.goes_on(60)
        finally:
            load.stop.set()
            fleet.tritons["c"].process.resume()
        for one in working:
            one.result(100)
    assert load.refused == []
    assert load.wrong == []
    # At most what was on the two when it happened.
    assert load.begun <= 2 * callers
    for name in NAMES:
        asked = [event["at"] for event in fleet.repositories[name].events("load-")]
        assert any(at > back_at for at in asked), name
    assert re.search(r"has no token yet and moves from triton `[ac]` to `[abc]`", serving.log)


def test_a_full_queue_is_tried_on_every_server_once(client: openai.OpenAI, fleet: Fleet) -> None:
    prompt = script(fail_at=0, error="exceeds maximum queue size")
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, prompt, "full")
    assert caught.value.status_code == 503
    assert caught.value.code == "overloaded"
    assert sorted(fleet.asked("full")) == list(NAMES)
    # Nobody was taken for dead.
    assert ask(client, "hello", "after-full") == "hello"


def test_a_request_that_the_engine_fails_on_is_not_tried_elsewhere(
    client: openai.OpenAI, fleet: Fleet
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, script(fail_at=0), "poison")
    assert caught.value.status_code == 502
    assert len(fleet.asked("poison")) == 1


def test_nothing_is_started_again_after_its_first_token(
    client: openai.OpenAI, fleet: Fleet, serving: Serving
) -> None:
    got: list[str] = []
    # Late enough for the first token to be read by itself.
    prompt = script(emit="abc", delay_ms=200, fail_at=2, error="model is not ready")
    with pytest.raises(openai.APIError):
        got.extend(stream(client, prompt, "begun"))
    assert got == ["a", "b"]
    assert len(fleet.asked("begun")) == 1
    wait_until_all_serve(serving)


def test_the_line_of_a_request_names_its_triton(
    client: openai.OpenAI, fleet: Fleet, serving: Serving
) -> None:
    assert ask(client, "hello", "named-1") == "hello"
    (home,) = fleet.asked("named-1")
    wait_until(lambda: '"call_id":"named-1' in serving.log, 60, "the line")
    (line,) = [line for line in serving.log.splitlines() if '"call_id":"named-1' in line]
    assert f'"triton":"{home}"' in line


def test_a_place_that_the_settings_lack_is_told_at_the_start(fleet: Fleet, tmp_path: Path) -> None:
    import subprocess
    import sys

    settings = {
        name: value
        for name, value in fleet.settings.items()
        if not name.startswith("TRITON__ENDPOINTS__C__")
    }
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", "serve"],
        env=settings_env(settings | {"DATA_DIR": tmp_path, "SERVER__PORT": 0}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "`tritons` names `c`; `triton.endpoints` has `a`, `b`" in ended.stderr
