"""A model repository for the fake engine: real tokenizers and templates, manifests of our own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.contract.manifest import served_version
from orchestrator.settings import PROJECT_ROOT
from tests.bench.engine.work import BURST, DIMENSION, EMBED, PACED, SLOW

CONTEXT_TOKENS = 262_144
MODELS = PROJECT_ROOT / "model_repository"
_LEFT_OUT = shutil.ignore_patterns("selftest.json", "model.*", "config.pbtxt")


@dataclass(frozen=True, slots=True)
class Repository:
    """Where it is, and the catalogue of what is in it."""

    path: Path
    catalogue: Path


def write(path: Path) -> Repository:
    """The models of the engine, with what the demonstration models tokenise by."""
    entries = []
    for name in (PACED, SLOW, BURST, EMBED):
        source = "demo-embed" if name == EMBED else "demo-chat"
        built = served_version(MODELS / source)
        assert built is not None, f"{source} is not built: run `make engines`"
        folder = path / name / "1"
        shutil.copytree(built, folder, ignore=_LEFT_OUT)
        manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
        manifest["model"] = name
        manifest["limits"] |= {
            "max_batch_size": 256,
            "max_input_len": CONTEXT_TOKENS - 1,
            "max_seq_len": CONTEXT_TOKENS,
        }
        manifest["features"] = {"guided": manifest["features"].get("guided", [])}
        if name == EMBED:
            manifest["embedding"]["dimension"] = DIMENSION
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        entries.append(_entry(name))
    catalogue = path / "catalogue.toml"
    catalogue.write_text("\n".join(entries), encoding="utf-8")
    return Repository(path, catalogue)


def _entry(name: str) -> str:
    task = "embed" if name == EMBED else "generate"
    return (
        f'[[model]]\nid = "{name}"\nname = "{name}"\ntask = "{task}"\n'
        f"context_tokens = {CONTEXT_TOKENS}\n"
        + ("" if name == EMBED else 'parser = "hermes"\n')
        + '[model.engine]\ncheckpoint = "nowhere"\n'
    )
