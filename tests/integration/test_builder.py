"""A model added by hand: built, rolled back, served, and served still when later builds fail."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from build_engines.golden.replay import Observed, Player
from build_engines.golden.selftest import (
    check_same,
    embedding_document,
    generation_document,
    read_document,
)
from build_engines.journal import Journal
from build_engines.repository.versions import Repository
from build_engines.targets.target import Workplace
from build_engines.targets.trial import try_on_triton
from orchestrator.contract.catalogue import load_catalogue
from orchestrator.settings import PROJECT_ROOT
from orchestrator.supervisor.command import environment
from orchestrator.supervisor.installation import find_installation
from orchestrator.supervisor.run_directory import assemble
from tests.integration.conftest import SupervisedTriton
from tests.integration.serving import Serving, running
from tests.reference.checkpoints import write_decoder, write_encoder

MODELS = PROJECT_ROOT / "model_repository"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_ENTRY = """
[[model]]
id = "added/{name}"
name = "{name}"
task = "{task}"
context_tokens = {context}
[model.engine]
checkpoint = "{checkpoint}"
{recipe}
"""


@dataclass(frozen=True)
class Workshop:
    """A repository and a catalogue of three models; `serving` runs over them."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def catalogue(self) -> Path:
        return self.folder / "catalogue.toml"

    def checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / name

    def write_catalogue(self, *, context: int, chat_dtype: str = "float32") -> None:
        """Writes the catalogue."""
        entries = [
            ("chat", "generate", context, f'dtype = "{chat_dtype}"\nmax_batch_size = 4'),
            ("embed", "embed", 100, ""),
            ("broken", "embed", 100, ""),
        ]
        text = "".join(
            _ENTRY.format(
                name=name,
                task=task,
                context=length,
                recipe=recipe,
                checkpoint=self.checkpoint(name),
            )
            for name, task, length, recipe in entries
        )
        self.catalogue.write_text(text)

    def build(self, *arguments: str) -> list[dict[str, Any]]:
        """Runs the builder as an operator would; its results."""
        paths = ["--catalogue", str(self.catalogue), "--repository", str(self.repository)]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "build_engines",
                *paths,
                "--target",
                "cpu",
                "--json",
                *arguments,
            ],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results

    def served(self, name: str) -> int | None:
        return Repository(self.repository, MODELS / "templates").served_version(name)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Two versions of each model; the chat model is rolled back, one manifest is damaged."""
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    chat = write_decoder(workshop.checkpoint("chat"), "qwen3")
    (chat / "chat_template.jinja").write_text(TEMPLATE)
    write_encoder(workshop.checkpoint("embed"), "roberta", "cls")
    write_encoder(workshop.checkpoint("broken"), "bert")
    workshop.repository.mkdir()
    (workshop.repository / "backends").symlink_to(MODELS / "backends")
    workshop.write_catalogue(context=60)
    assert [result["status"] for result in workshop.build()] == ["built"] * 3
    workshop.write_catalogue(context=120, chat_dtype="int8")
    statuses = [result["status"] for result in workshop.build()]
    assert statuses == ["built", "up_to_date", "up_to_date"]
    (workshop.repository / "broken" / "1" / "manifest.json").write_text('{"format": 1}')
    return workshop


@pytest.fixture(scope="module")
def serving(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    (rolled_back,) = workshop.build("added/chat", "--rollback")
    assert (rolled_back["status"], rolled_back["version"]) == ("rolled_back", 1)
    settings: dict[str, object] = {
        "CATALOGUE": workshop.catalogue,
        "TRITON__REPOSITORY": workshop.repository,
    }
    yield from running(Serving(tmp_path_factory.mktemp("added"), settings))


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=serving.base_url, api_key=serving.key, max_retries=0, timeout=60
    ) as client:
        yield client


def answer(client: openai.OpenAI, length: int = 8) -> ChatCompletion:
    return client.chat.completions.create(
        model="added/chat",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=length,
        temperature=0,
    )


def test_a_model_added_by_hand_is_offered_and_answers(client: openai.OpenAI) -> None:
    assert {"added/chat", "added/embed"} <= {model.id for model in client.models.list()}
    reply = answer(client)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 5
    embedding = client.embeddings.create(model="added/embed", input="Hello")
    assert len(embedding.data[0].embedding) == 48


def test_what_is_served_is_the_version_that_was_rolled_back_to(client: openai.OpenAI) -> None:
    # Version 1 has room for 60 tokens, version 2 for 120.
    assert answer(client, length=50).choices
    with pytest.raises(openai.BadRequestError, match="context length is 60 tokens"):
        answer(client, length=100)


def test_a_model_with_a_wrong_manifest_is_left_out_and_the_log_says_why(
    client: openai.OpenAI, serving: Serving
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model="added/broken", input="Hello")
    assert refused.value.status_code in (404, 503)
    assert "model added/broken is not served" in serving.log


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            "model.safetensors",
            lambda f: f.write_bytes(f.read_bytes()[:-64]),
            "lies outside the file",
        ),
        ("tokenizer.json", lambda f: f.unlink(), "file `tokenizer.json` is missing"),
        ("config.json", lambda f: f.write_text("{"), "config.json: "),
    ],
)
def test_a_build_that_fails_leaves_the_last_good_version_serving(
    workshop: Workshop, client: openai.OpenAI, file: str, damage: Any, message: str
) -> None:
    before = answer(client).choices[0].message
    whole = workshop.checkpoint("chat")
    kept = workshop.folder / "kept"
    shutil.copytree(whole, kept)
    try:
        damage(whole / file)
        (result,) = workshop.build("added/chat", "--force")
    finally:
        shutil.rmtree(whole)
        kept.rename(whole)
    assert result["status"] == "failed"
    assert message in result["error"]
    assert workshop.served("chat") == 1
    assert answer(client).choices[0].message == before


async def test_golden_answers_are_given_again_through_triton(triton_demo: SupervisedTriton) -> None:
    endpoint = triton_demo.endpoint
    assert endpoint.token is not None
    player = Player(endpoint.url, [("triton-grpc-protocol-tok", endpoint.token)])
    try:
        await asyncio.to_thread(replay, player)
        chat = golden("demo-chat")
        ids = chat["cases"][0]["input_ids"]
        observed = await asyncio.to_thread(player.observe, "demo-chat", ids, 2048)
    finally:
        player.close()
    assert asdict(observed) == asdict(
        Observed(
            delta_ids=True,
            final_with_tokens=observed.final_with_tokens,
            log_probs=True,
            cancels=True,
            end_excluded=True,
        )
    )


@pytest.mark.parametrize("name", ["demo-chat", "demo-embed"])
def test_a_trial_server_answers_as_the_engine_was_recorded(
    name: str, demo_models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tries GPU engines before they are served, with the wheel's server in their image's."""
    installation = find_installation()
    run = assemble(tmp_path / "data", uuid.uuid4().hex, installation, MODELS)
    for key, value in environment(installation, run, 1).items():
        monkeypatch.setenv(key, value)
    triton = tmp_path / "triton"
    for link, target in (
        ("bin/tritonserver", installation.server),
        ("backends/python", run.backends / "python"),
    ):
        (triton / link).parent.mkdir(parents=True)
        (triton / link).symlink_to(target)
    repository = Repository(MODELS, MODELS / "templates")
    version = repository.served_version(name)
    assert version is not None
    folder = repository.version_folder(name, version)
    journal = Journal(tmp_path / "log", lambda _stage: None)
    models = {model.name: model for model in load_catalogue(MODELS / "catalogue.toml").models}
    try:
        place = Workplace(folder, folder, tmp_path, journal)
        check_same(golden(name), try_on_triton(models[name], place, triton), "on trial")
    finally:
        run.remove()


def replay(player: Player) -> None:
    chat, embed = golden("demo-chat"), golden("demo-embed")
    answers = player.generate("demo-chat", inputs(chat), 2048)
    check_same(chat, generation_document(answers, "float32"), "through Triton")
    vectors = player.embed("demo-embed", inputs(embed))
    check_same(embed, embedding_document(vectors, "float32"), "through Triton")


def golden(name: str) -> dict[str, Any]:
    repository = Repository(MODELS, MODELS / "templates")
    version = repository.served_version(name)
    assert version is not None
    document = read_document(repository.version_folder(name, version))
    assert document is not None
    return document


def inputs(document: dict[str, Any]) -> list[list[int]]:
    return [case["input_ids"] for case in document["cases"]]
