"""Judges a chat checkpoint on held-out conversations and prints the table as Markdown."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from . import corpus
from .calling import called
from .decoding import generate
from .dialogue import Dialogue
from .llama import Llama, LlamaShape
from .vocabulary import END_OF_TEXT, TURN_END, chat_renderer, token_id

SKILLS = (
    "smalltalk",
    "capital",
    "concept",
    "fact",
    "reading",
    "repeat",
    "extraction",
    "memory",
    "lookup",
    "arithmetic",
    "addition",
    "counting",
    "haiku",
    "story",
    "tool_call",
    "tool_result",
    "tool_unneeded",
    "unknown",
    "conversation",
)
_LONGEST_STORY_TOKENS = 700


class Checkpoint:
    """A chat checkpoint read from its folder, answering greedily."""

    def __init__(self, folder: Path, weights: Path | None = None) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = LlamaShape(
            vocabulary=stated["vocab_size"],
            width=stated["hidden_size"],
            layers=stated["num_hidden_layers"],
            heads=stated["num_attention_heads"],
            key_value_heads=stated["num_key_value_heads"],
            head_width=stated["head_dim"],
            hidden=stated["intermediate_size"],
            rope_theta=stated["rope_theta"],
        )
        self.model = Llama(shape).eval()
        tensors = load_file(weights or folder / "model.safetensors")
        self.model.load_state_dict({name: one.float() for name, one in tensors.items()})
        self._render = chat_renderer()
        self._end_ids = {token_id(self.tokenizer, one) for one in (TURN_END, END_OF_TEXT)}

    def answers(self, dialogues: Sequence[Dialogue]) -> list[str]:
        """What the model says in place of the last turn of each conversation."""
        prompts = [self._prompt(one) for one in dialogues]
        found = generate(self.model, prompts, self._end_ids, self._longest(dialogues))
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    def _longest(self, dialogues: Sequence[Dialogue]) -> int:
        """A bound in tokens past which no answer can be right."""
        if dialogues[0].skill == "story":
            return _LONGEST_STORY_TOKENS
        wished = [answer for one in dialogues for answer in (expected(one), *one.accepted)]
        return 40 + max(len(one.ids) for one in self.tokenizer.encode_batch(wished))

    def _prompt(self, dialogue: Dialogue) -> list[int]:
        text = self._render(
            messages=dialogue.messages()[:-1],
            tools=list(dialogue.tools) or None,
            add_generation_prompt=True,
        )
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids


def is_right(dialogue: Dialogue, answer: str) -> bool:
    """True for an exact match, or where a dialogue names fragments, for an answer with them."""
    if dialogue.skill == "story":
        return len(answer.split()) >= 80 and answer.endswith("The end.")
    if dialogue.contains:
        return all(one in answer for one in dialogue.contains)
    return answer in (expected(dialogue), *dialogue.accepted)


def expected(dialogue: Dialogue) -> str:
    """The last turn as the chat template writes it."""
    last = dialogue.turns[-1]
    calls = [called(arguments, name) for name, arguments in last.calls]
    return "\n".join([last.content] * bool(last.content) + calls)


def table(checkpoint: Checkpoint, count: int, seed: int, shown: int) -> Iterator[str]:
    """The lines of a table of right answers per skill; some wrong ones below it on demand."""
    yield f"| skill (n = {count}) | known wordings, new entities | new wordings, new entities |"
    yield "|---|---|---|"
    wrong: list[str] = []
    for skill in SKILLS:
        cells = []
        for unseen_phrases in (False, True):
            dialogues = corpus.held_out(skill, count, seed, unseen_phrases)
            pairs = list(zip(dialogues, checkpoint.answers(dialogues), strict=True))
            missed = [one for one in pairs if not is_right(*one)]
            cells.append(f"{100 * (1 - len(missed) / count):.0f} %")
            wrong += [_shown(*one) for one in missed[:shown]]
        yield f"| {skill} | {cells[0]} | {cells[1]} |"
    yield from wrong


def seeds_table(checkpoint: Checkpoint) -> Iterator[str]:
    """The lines of a table of what the model says to what first-time visitors paste."""
    yield "| question | answer | as wished |"
    yield "|---|---|---|"
    questions = corpus.seed_questions()
    plain, prompted = (
        checkpoint.answers(
            [corpus.single(question, system, wished) for question, wished in questions]
        )
        for system in (None, "You are a helpful assistant.")
    )
    for (question, wished), first, second in zip(questions, plain, prompted, strict=True):
        marks = " / ".join("yes" if wished in one else "no" for one in (first, second))
        yield f"| {question} | {first} | {marks} |".replace("\n", " / ")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--checkpoint", type=Path, required=True)
    options.add_argument("--weights", type=Path, help="a snapshot in place of the folder's weights")
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, default=2026)
    options.add_argument("--wrong", type=int, default=0, help="wrong answers to show per cell")
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    checkpoint = Checkpoint(chosen.checkpoint, chosen.weights)
    lines = (
        table(checkpoint, chosen.count, chosen.seed, chosen.wrong),
        ("",),
        seeds_table(checkpoint),
    )
    for line in itertools.chain.from_iterable(lines):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _shown(dialogue: Dialogue, answer: str) -> str:
    asked, last = dialogue.turns[-2].content, dialogue.turns[-1]
    wished = last.content or str(last.calls)
    return f"  [{dialogue.skill}] {asked!r} -> {answer[:160]!r}; wished {wished[:120]!r}"


if __name__ == "__main__":
    main()
