"""How the token vectors of a text become one vector, from sentence-transformers' files."""

from __future__ import annotations

from typing import Literal, cast, get_args

from build_engines.checkpoint.files import Checkpoint, CheckpointError

Pooling = Literal["mean", "cls", "last"]

_MODES = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}


def pooling_of(checkpoint: Checkpoint) -> tuple[Pooling, bool]:
    """Returns the pooling, and whether the result is normalised. Raises: CheckpointError."""
    modules = checkpoint.optional_json("modules.json")
    if modules is None:
        raise CheckpointError("file `modules.json` is missing: it says how to pool the vectors")
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: module.get("path", "") for module in modules}
    if unknown := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
        raise CheckpointError(f"modules.json: module `{min(unknown)}` is unsupported")
    config = checkpoint.optional_json(f"{kinds.get('Pooling', '1_Pooling')}/config.json") or {}
    modes = [name for name in _MODES if config.get(f"pooling_mode_{name}")]
    pooling = str(config.get("pooling_mode", "+".join(_MODES[mode] for mode in modes)))
    pooling = "last" if pooling == "lasttoken" else pooling
    if len(modes) > 1 or pooling not in get_args(Pooling):
        known = ", ".join(get_args(Pooling))
        raise CheckpointError(f"pooling `{pooling or 'unknown'}` is unsupported; known: {known}")
    return cast("Pooling", pooling), "Normalize" in kinds
