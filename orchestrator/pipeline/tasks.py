"""What can be asked of a model: one row for each task."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from orchestrator.core.limits import Bucket
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.core.value import value

TaskName = Literal["generate", "embed"]
"""As catalogue and policies name a task."""


@value
class Task:
    """`verb` stands in sentences, `bucket` is the limit of requests that it counts in."""

    name: TaskName
    verb: str
    bucket: Bucket


GENERATE = Task("generate", "generate text", "chat")
EMBED = Task("embed", "embed text", "chat")
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (GENERATE, EMBED)})


def task_of(request: GenerationRequest | EmbeddingRequest) -> Task:
    """The task that `request` asks for."""
    return GENERATE if isinstance(request, GenerationRequest) else EMBED
