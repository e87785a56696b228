"""The tasks that a model can have: one row for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from orchestrator.core.limits import Bucket
from orchestrator.core.request import EmbeddingRequest, GenerationRequest
from orchestrator.core.value import value

TaskName = Literal["generate", "embed"]
"""The name of a task in catalogue and policies."""


@value
class Task:
    """`verb` is for messages; `bucket` is the request limit in which the task counts."""

    name: TaskName
    verb: str
    bucket: Bucket


GENERATE = Task("generate", "generate text", "chat")
EMBED = Task("embed", "embed text", "chat")
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (GENERATE, EMBED)})


def task_of(request: GenerationRequest | EmbeddingRequest) -> Task:
    """The task that `request` asks for."""
    return GENERATE if isinstance(request, GenerationRequest) else EMBED
