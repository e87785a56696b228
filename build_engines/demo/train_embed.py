"""Trains `demo/embed` on pairs of like meaning and writes it as a Hugging Face checkpoint."""

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as token_decoders
from torch import Tensor
from torch.nn import functional

from .bert import Bert, BertShape
from .draw import Draw
from .paraphrases import Pair, kinds, pairs

_UNKNOWN = "[UNK]"
_SPECIAL = ("[PAD]", _UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
_VOCABULARY = 4096
_BATCH_PAIRS = 128
_TEMPERATURE = 0.06
_RATE = 1e-3
_LONGEST_TOKENS = 64


def train_tokenizer(size: int, seed: int) -> Tokenizer:
    """A lower-case WordPiece tokenizer learnt from the training pairs."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = token_decoders.WordPiece()
    letters = [chr(one) for one in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=letters,
        show_progress=False,
    )
    texts = (f"{one.first} {one.second}" for one in itertools.islice(pairs(seed, False), 40_000))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(one, tokenizer.token_to_id(one)) for one in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids int64[rows, length] and bool[rows, length] of the places that hold a token."""
    rows = [one.ids[:_LONGEST_TOKENS] for one in tokenizer.encode_batch(list(texts))]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, ids != 0


def contrast(model: Bert, tokenizer: Tokenizer, batch: Sequence[Pair]) -> Tensor:
    """The loss by which every text must find its partner among those of the other pairs."""
    with torch.autocast("cpu", torch.bfloat16):
        firsts = model(*encode(tokenizer, [one.first for one in batch]))
        seconds = model(*encode(tokenizer, [one.second for one in batch]))
    scores = firsts @ seconds.T / _TEMPERATURE
    same = torch.tensor([[a.meaning == b.meaning for b in batch] for a in batch])
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, -1e4)
    wanted = torch.arange(len(batch))
    both = functional.cross_entropy(scores, wanted) + functional.cross_entropy(scores.T, wanted)
    return both / 2


def train(model: Bert, tokenizer: Tokenizer, steps: int, seed: int) -> None:
    """Warm-up, then a straight line down to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    source = pairs(seed, False)
    started_at = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min((step + 1) / 100, 1.0 - step / steps)
        loss = contrast(model, tokenizer, list(itertools.islice(source, _BATCH_PAIRS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            elapsed_min = (time.monotonic() - started_at) / 60
            report = f"step {step + 1} loss {float(loss.detach()):.4f} minutes {elapsed_min:.2f}"
            sys.stdout.write(report + "\n")
            sys.stdout.flush()


def table(model: Bert, tokenizer: Tokenizer, count: int, seed: int) -> str:
    """Per kind of held-out pair: how often the partner beats another text, and the cosines."""
    head = (f"held-out pairs (n = {count})", "related above unrelated", f"partner first of {count}")
    lines = [
        f"| {' | '.join(head)} | mean cosine, related | mean cosine, unrelated |",
        "|---|---|---|---|---|",
    ]
    for name, batch in held_out(count, seed).items():
        with torch.inference_mode():
            firsts = model(*encode(tokenizer, [one.first for one in batch]))
            seconds = model(*encode(tokenizer, [one.second for one in batch]))
            scores = firsts @ seconds.T
        other = torch.tensor([[a.meaning != b.meaning for b in batch] for a in batch])
        related = scores.diagonal()[:, None].expand_as(scores)
        above = float((related > scores)[other].float().mean())
        best = scores.masked_fill(~other, -2).max(dim=1).values
        first = float((scores.diagonal() > best).float().mean())
        means = f"{float(scores.diagonal().mean()):.2f} | {float(scores[other].mean()):.2f}"
        lines.append(f"| {name} | {100 * above:.1f} % | {100 * first:.0f} % | {means} |")
    return "\n".join(lines) + "\n"


def held_out(count: int, seed: int) -> dict[str, list[Pair]]:
    """Pairs of every kind, and mixed, with words and wordings that training never saw."""
    mixed: Iterator[Pair] = pairs(seed, True)
    sets = {"all kinds mixed": list(itertools.islice(mixed, count))}
    for name, make in kinds().items():
        if name.endswith("again") or name == "fact and question":
            continue
        draw = Draw(random.Random(f"{name} {seed}"), unseen_words=True, unseen_phrases=True)
        made = (make(draw) for _ in itertools.count())
        sets[name] = list(itertools.islice((one for one in made if one.first != one.second), count))
    return sets


def write_checkpoint(model: Bert, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the folder that sentence-transformers and Hugging Face loaders read."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: one.half().contiguous() for name, one in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    longest = model.shape.context_tokens
    width = model.shape.width
    named = dict(zip(("pad", "unk", "cls", "sep", "mask"), _SPECIAL, strict=True))
    special = {f"{name}_token": token for name, token in named.items()}
    steps = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    files = {
        "config.json": model.shape.config(0),
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizerFast",
            "do_lower_case": True,
            "model_max_length": longest,
            "clean_up_tokenization_spaces": True,
            **special,
        },
        "special_tokens_map.json": special,
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(steps)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "2_Normalize/config.json": {},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    options.add_argument("--steps", type=int, default=1200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--count", type=int, default=100, help="held-out pairs per kind")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--evaluate-only", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    if chosen.evaluate_only:
        tokenizer = Tokenizer.from_file(str(chosen.out / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(_VOCABULARY, chosen.seed)
    model = Bert(BertShape(vocabulary=tokenizer.get_vocab_size()))
    if chosen.evaluate_only:
        tensors = load_file(chosen.out / "model.safetensors")
        model.load_state_dict({name: one.float() for name, one in tensors.items()})
    else:
        train(model, tokenizer, chosen.steps, chosen.seed)
        write_checkpoint(model, tokenizer, chosen.out)
    sys.stdout.write(table(model.eval(), tokenizer, chosen.count, seed=2026))


if __name__ == "__main__":
    main()
