"""Trains `demo/chat` and writes it as a Hugging Face checkpoint."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer

from .batches import Batch, batches
from .corpus import Phase
from .llama import Llama, LlamaShape
from .vocabulary import END_OF_TEXT, TURN_END, token_id, tokenizer_files, train_tokenizer
from .wiring import wire_copying

_WORKERS = 2
_MICRO_BATCHES = 4
_MICRO_BATCH_TOKENS = 1152
_MATRIX_RATE = 0.02
_VECTOR_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to train and how the learning rate moves; shares are of the whole run."""

    steps: int
    minutes: float
    warm_up_steps: int = 60
    copying_share: float = 0.0
    decay_share: float = 0.35
    phase: Phase = "main"

    def rate(self, step: int, progress: float) -> float:
        """Warm-up, a plateau, then a straight line down to nothing."""
        warm = min(1.0, (step + 1) / self.warm_up_steps)
        return warm * min(1.0, max(0.0, 1.0 - progress) / self.decay_share)


class Trainer:
    """One training run: model, optimizers and the batches still to come."""

    def __init__(self, tokenizer: Tokenizer, plan: Plan, seed: int, start: Path | None) -> None:
        torch.manual_seed(seed)
        self.tokenizer = tokenizer
        self.plan = plan
        self.model = Llama(LlamaShape(vocabulary=tokenizer.get_vocab_size()))
        wire_copying(self.model)
        if start is not None:
            self.model.load_state_dict(
                {name: weight.float() for name, weight in load_file(start).items()}
            )
        self.optimizers = optimizers(self.model)
        self._weights = list(self.model.parameters())
        # Workers that never wait for each other inside a layer keep a busy machine's cores full.
        self._workers = ThreadPoolExecutor(
            _WORKERS, initializer=torch.set_num_threads, initargs=(1,)
        )
        self.seed = seed
        self.tokens = 0

    def run(self, snapshots: Path) -> None:
        """Trains to the end of the plan; keeps the weights as they were before the decay."""
        started_at = time.monotonic()
        early = batches(self.tokenizer, self.seed, "start", _MICRO_BATCH_TOKENS)
        late = batches(self.tokenizer, self.seed + 1, self.plan.phase, _MICRO_BATCH_TOKENS)
        loss, kept = 0.0, False
        for step in itertools.count():
            elapsed_min = (time.monotonic() - started_at) / 60
            progress = max(step / self.plan.steps, elapsed_min / self.plan.minutes)
            if progress >= 1.0:
                return
            rate = self.plan.rate(step, progress)
            loss += self._step(early if progress < self.plan.copying_share else late, rate)
            if step % 25 == 24:
                report = f"step {step + 1} tokens {self.tokens} loss {loss / 25:.4f}"
                sys.stdout.write(f"{report} rate {rate:.3f} minutes {elapsed_min:.2f}\n")
                sys.stdout.flush()
                loss = 0.0
            if step % 250 == 249:
                save_weights(self.model, snapshots / "latest.safetensors", torch.float32)
            if not kept and progress >= 1.0 - self.plan.decay_share:
                kept = True
                save_weights(self.model, snapshots / "plateau.safetensors", torch.float32)

    def _step(self, source: Iterator[Batch], rate: float) -> float:
        parts = list(itertools.islice(source, _MICRO_BATCHES))
        whole = sum(float(part.weights.sum()) for part in parts)
        shares = list(self._workers.map(lambda part: self._gradients(part, whole), parts))
        for weight, *pieces in zip(self._weights, *(one[1] for one in shares), strict=True):
            weight.grad = torch.stack(pieces).sum(0)
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_rate"] * rate
        list(self._workers.map(lambda optimizer: optimizer.step(), self.optimizers))
        self.tokens += sum(int((part.weights > 0).sum()) for part in parts)
        return sum(one[0] for one in shares)

    def _gradients(self, part: Batch, whole: float) -> tuple[float, tuple[Tensor, ...]]:
        loss = weighted_loss(self.model, part) / whole
        return float(loss.detach()), torch.autograd.grad(loss, self._weights)


def optimizers(model: torch.nn.Module) -> list[Optimizer]:
    """Muon for the hidden matrices, in two halves that run side by side; AdamW for the rest."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        hidden = weight.ndim == 2 and "embed" not in name
        (matrices if hidden else others).append(weight)
    halves = (matrices[::2], matrices[1::2])
    made: list[Optimizer] = [
        Muon(half, lr=_MATRIX_RATE, momentum=0.95, weight_decay=0.03) for half in halves
    ]
    made.append(AdamW(others, lr=_VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.0))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_rate"] = group["lr"]
    return made


def weighted_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """The weighted sum of the cross entropies of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch.ids[:, :-1])
    entropy = functional.cross_entropy(
        logits.float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    return (entropy * batch.weights.flatten()).sum()


def save_weights(model: torch.nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Writes every tensor under its own name; there is no separate output layer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.to(dtype).contiguous() for name, weight in model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def write_checkpoint(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the folder that any loader of Hugging Face checkpoints reads."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, end = token_id(tokenizer, END_OF_TEXT), token_id(tokenizer, TURN_END)
    save_weights(model, folder / "model.safetensors", torch.float16)
    config = model.shape.config(begin, end, begin)
    generation = {
        "bos_token_id": begin,
        "do_sample": True,
        "eos_token_id": [end, begin],
        "pad_token_id": begin,
        "temperature": 0.3,
        "top_p": 0.9,
    }
    files = tokenizer_files(tokenizer)
    files["config.json"] = json.dumps(config, indent=2) + "\n"
    files["generation_config.json"] = json.dumps(generation, indent=2) + "\n"
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    options.add_argument("--snapshots", type=Path, required=True, help="folder for full precision")
    options.add_argument("--tokenizer", type=Path, help="a tokenizer.json; else one is trained")
    options.add_argument("--start", type=Path, help="weights to go on from")
    options.add_argument("--steps", type=int, default=4000)
    options.add_argument("--minutes", type=float, default=1e9, help="an earlier end of the run")
    options.add_argument("--copying-share", type=float, default=0.0)
    options.add_argument("--decay-share", type=float, default=0.35)
    options.add_argument("--phase", choices=("main", "end"), default="main", help="corpus shares")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.tokenizer is None:
        tokenizer = train_tokenizer(60_000, 1536, seed=1)
    else:
        tokenizer = Tokenizer.from_file(str(chosen.tokenizer))
    plan = Plan(
        steps=chosen.steps,
        minutes=chosen.minutes,
        copying_share=chosen.copying_share,
        decay_share=chosen.decay_share,
        phase=chosen.phase,
    )
    trainer = Trainer(tokenizer, plan, chosen.seed, chosen.start)
    trainer.run(chosen.snapshots)
    write_checkpoint(trainer.model, tokenizer, chosen.out)


if __name__ == "__main__":
    main()
