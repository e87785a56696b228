"""What a tenant finds out about another tenant's prompts by the engine's prefix cache.

A victim sends a prompt with one of six names in it, then an attacker sends all six and takes the
one that looks cached. Without the cache between them its guesses are right one time in six.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.serving import Serving, settings_env

NAMES = ("Adler", "Berger", "Conrad", "Dietz", "Engel", "Fuchs")
# Hundreds of calls, on a machine that may be busy with other tests.
pytestmark = pytest.mark.timeout(900)

TRIALS = 30
#: By chance alone a test fails less often than this.
UNLIKELY = 1e-7
#: Behind the name, so that whole blocks of the cache depend on it.
FILE = "The file of this customer is long and was read twice by the clerk. " * 6


@dataclass
class Tenant:
    """Who calls with one key, and what each reply shows."""

    client: httpx2.Client
    key: str
    id: str

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """The reply to `body`, which must be good."""
        headers = {"authorization": f"Bearer {self.key}", "anthropic-version": "2023-06-01"}
        reply = self.client.post(path, json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        return reply

    def ask(self, text: str) -> Shown:
        """What a chat with `text` as its only message shows."""
        body = {"model": "demo/chat", "max_tokens": 1, "messages": [message(text)]}
        began = time.perf_counter()
        reply = self.post("/v1/chat/completions", body)
        wall_s = time.perf_counter() - began
        stages = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
        cached = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return Shown(cached, float(stages["prefill"]), wall_s)


@dataclass(frozen=True)
class Shown:
    """What one reply shows of the cache."""

    cached_tokens: int
    prefill_ms: float
    wall_s: float


@dataclass
class Guesses:
    """How often each way to guess was right."""

    right: Counter[str] = field(default_factory=Counter)
    cached_tokens: list[int] = field(default_factory=list)

    def take(self, secret: str, shown: dict[str, Shown], chance: random.Random) -> None:
        """One trial; `shown` holds the replies to the guesses in the order of asking."""
        names = list(shown)
        # Among equals the first one would be taken, whose place must say nothing.
        chance.shuffle(names)
        ways: dict[str, Callable[[str], float]] = {
            "count": lambda name: -shown[name].cached_tokens,
            "stage": lambda name: shown[name].prefill_ms,
            "wall": lambda name: shown[name].wall_s,
        }
        for way, cost in ways.items():
            self.right[way] += min(names, key=cost) == secret
        self.cached_tokens += [one.cached_tokens for one in shown.values()]


def message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def prompt(trial: object, name: str) -> str:
    """The name stands in the first block, so guesses share none with each other."""
    return f"{trial} {name}: {FILE}"


def surprising(trials: int) -> int:
    """So many right guesses or more come by chance less often than `UNLIKELY`."""
    share, tail = 1 / len(NAMES), 0.0
    for right in range(trials, -1, -1):
        tail += comb(trials, right) * share**right * (1 - share) ** (trials - right)
        if tail > UNLIKELY:
            return right + 1
    return 0


def played(victim: Tenant, attacker: Tenant, trials: int, seed: int) -> Guesses:
    """`trials` of the game. The names and the order of guesses are drawn with `seed`."""
    chance, guesses = random.Random(seed), Guesses()
    for trial in range(trials):
        secret = chance.choice(NAMES)
        victim.ask(prompt(f"{seed}-{trial}", secret))
        order = chance.sample(NAMES, len(NAMES))
        shown = {name: attacker.ask(prompt(f"{seed}-{trial}", name)) for name in order}
        guesses.take(secret, shown, chance)
    return guesses


@pytest.fixture(scope="module")
def tenants(appliance: Serving) -> Iterator[Callable[[str], Tenant]]:
    """Tenants by name, each made with a key that may manage policies."""
    made: dict[str, Tenant] = {}
    with httpx2.Client(base_url=appliance.url, timeout=120) as client:

        def tenant(name: str) -> Tenant:
            if name not in made:
                made[name] = created(client, appliance.data_dir, name)
            return made[name]

        yield tenant


def created(client: httpx2.Client, data_dir: Path, name: str) -> Tenant:
    """A new tenant with an admin's key."""
    line = ("keys", "create", "--label", name, "--tenant", name, "--admin", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *line],
        env=settings_env({"DATA_DIR": data_dir}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    key = json.loads(done.stdout)
    return Tenant(client, key["secret"], key["tenant_id"])


def test_guesses_of_another_tenants_prompt_are_no_better_than_chance(
    tenants: Callable[[str], Tenant],
) -> None:
    guesses = played(tenants("victim"), tenants("attacker"), TRIALS, seed=1)
    assert set(guesses.cached_tokens) == {0}
    limit = surprising(TRIALS)
    assert all(guesses.right[way] < limit for way in ("count", "stage", "wall")), guesses.right


def test_a_tenants_own_prompts_are_used_again(tenants: Callable[[str], Tenant]) -> None:
    """The same game within one tenant: what is measured shows the cache where it is shared."""
    victim = tenants("victim")
    guesses = played(victim, victim, 10, seed=2)
    assert guesses.right["count"] == 10


#: Path, body for a text, and the count of cached tokens in the reply of each dialect.
DIALECTS: dict[str, tuple[str, Callable[[str], dict[str, Any]], Callable[[Any], int]]] = {
    "completions": (
        "/v1/completions",
        lambda text: {"model": "demo/chat", "max_tokens": 1, "prompt": text},
        lambda reply: int(reply["usage"]["prompt_tokens_details"]["cached_tokens"]),
    ),
    "responses": (
        "/v1/responses",
        lambda text: {"model": "demo/chat", "max_output_tokens": 16, "input": text},
        lambda reply: int(reply["usage"]["input_tokens_details"]["cached_tokens"]),
    ),
    "anthropic": (
        "/v1/messages",
        lambda text: {"model": "demo/chat", "max_tokens": 1, "messages": [message(text)]},
        lambda reply: int(reply["usage"]["cache_read_input_tokens"]),
    ),
    "gemini": (
        "/v1beta/models/demo/chat:generateContent",
        lambda text: {
            "contents": [{"role": "user", "parts": [{"text": text}]}],
            "generationConfig": {"maxOutputTokens": 1},
        },
        lambda reply: int(reply["usageMetadata"].get("cachedContentTokenCount", 0)),
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_keeps_tenants_apart(tenants: Callable[[str], Tenant], dialect: str) -> None:
    path, body, count = DIALECTS[dialect]
    asked = body(prompt(dialect, NAMES[0]))

    def cached(who: str) -> int:
        return count(tenants(who).post(path, asked).json())

    assert [cached("victim"), cached("attacker")] == [0, 0]
    assert cached("victim") > 0


def test_tenants_share_when_the_policies_of_all_of_them_say_so(
    tenants: Callable[[str], Tenant],
) -> None:
    left, right, third = tenants("left"), tenants("right"), tenants("third")

    def names(who: Tenant, others: list[Tenant]) -> None:
        document = {"prefix_cache_tenants": [other.id for other in others]}
        headers = {"authorization": f"Bearer {who.key}"}
        reply = who.client.patch(
            "/v1/policies/pol_default", json={"document": document}, headers=headers
        )
        assert reply.status_code == 200, reply.text

    def found(number: int) -> bool:
        """Whether `right` finds what `left` has sent."""
        left.ask(prompt(f"group-{number}", NAMES[0]))
        return right.ask(prompt(f"group-{number}", NAMES[0])).cached_tokens > 0

    assert not found(1)
    # One alone cannot: neither by naming the other nor by being named.
    names(right, [left])
    assert not found(2)
    names(left, [right])
    assert found(3)
    names(third, [left, right])
    assert third.ask(prompt("group-3", NAMES[0])).cached_tokens == 0
    names(left, [])
    assert not found(4)
