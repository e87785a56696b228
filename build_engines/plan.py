"""The plan of a build and its needs, known before any long work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from build_engines.checkpoint.network import Network
from build_engines.host.machine import Machine
from build_engines.host.program import Command
from orchestrator.contract.catalogue import EngineRecipe, Model

GIB = 1 << 30

#: Bits of one weight in a quantised matrix, scales included.
WEIGHT_BITS: Mapping[str, float] = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "int8": 8.1,
    "fp8": 8,
    "int4": 4.5,
    "int4_awq": 4.5,
    "nvfp4": 4.5,
}
#: Bits of what is not quantised: embeddings, norms, the vocabulary projection.
_KEPT_BITS = 16
_CACHE_BYTES = {"fp8": 1, "int8": 1}
#: CUDA context, NCCL and TensorRT buffers; an estimate, like the share of activations.
_RUNTIME_BYTES = 3 * GIB // 2
_LOGITS_BYTES = 4

#: The first compute capability with this arithmetic.
_CAPABILITIES: Mapping[str, tuple[int, int]] = {
    "bfloat16": (8, 0),
    "fp8": (8, 9),
    "nvfp4": (10, 0),
}
#: When a model does not fit, smaller types are tried in this order.
_SMALLER_DTYPES = ("fp8", "int8", "int4_awq", "nvfp4")


class PlanError(ValueError):
    """The build cannot work on this machine; the text has the numbers and what would fit."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of each GPU, in bytes. `work` is activations, logits and the runtime: an estimate."""

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        """The total memory."""
        return self.weights + self.cache + self.work


@dataclass(frozen=True, slots=True)
class Plan:
    """What is built, by which programs, and what it needs. Sizes are in bytes."""

    target: str
    backend: str
    architecture: str
    family: str
    dtype: str
    disk_bytes: int
    host_bytes: int
    cache_dtype: str = ""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu: GpuMemory | None = None
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()
    expected_s: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan for `--json` and the manifest."""
        document = asdict(self)
        document["commands"] = [list(command.arguments) for command in self.commands]
        del document["stages"]
        return document

    def lines(self) -> Iterator[str]:
        """Yields the plan as text for people."""
        cache = f", key/value cache {self.cache_dtype}" if self.cache_dtype else ""
        spread = self.tensor_parallel * self.pipeline_parallel
        over = (
            f", over {spread} GPUs (tensor {self.tensor_parallel}, pipeline " if spread > 1 else ""
        )
        over += f"{self.pipeline_parallel})" if over else ""
        yield f"{self.architecture} for `{self.target}` (backend {self.backend})"
        yield f"weights {self.dtype}{cache}{over}"
        needs = [f"disk {size(self.disk_bytes)}", f"host memory {size(self.host_bytes)}"]
        if self.gpu is not None:
            needs.append(f"each GPU {describe(self.gpu)}")
        yield f"needs about {', '.join(needs)}"
        if self.expected_s is not None:
            yield f"took {self.expected_s:.0f} s the last time"
        yield from (f"note: {note}" for note in self.notes)
        yield from (f"runs: {command}" for command in self.commands)


def size(count: float) -> str:
    """Formats a number of bytes for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"


def describe(memory: GpuMemory) -> str:
    """Formats GPU memory with its parts."""
    return (
        f"{size(memory.total)} (weights {size(memory.weights)}, "
        f"key/value cache {size(memory.cache)}, work {size(memory.work)})"
    )


def weight_bytes(network: Network, dtype: str) -> int:
    """Returns the bytes of all weights as `dtype`."""
    bits = WEIGHT_BITS[dtype]
    return int(network.linear_values * bits + network.other_values * max(bits, _KEPT_BITS)) // 8


def gpu_memory(network: Network, model: Model) -> GpuMemory:
    """Returns the memory of each GPU for the batch size and context of the recipe."""
    engine = model.engine
    tensor, pipeline = engine.tensor_parallel, engine.pipeline_parallel
    spread = tensor * pipeline
    weights = weight_bytes(network, engine.dtype) // spread
    cache = 0
    if model.task == "generate":
        width = _CACHE_BYTES.get(engine.kv_cache_dtype or "", max(2, _compute_bytes(engine)))
        # Counted in sequences of full length, so that attention windows are considered.
        sequences = engine.max_batch_size
        if engine.kv_cache_tokens is not None:
            sequences = max(1, -(-engine.kv_cache_tokens // model.context_tokens))
        values = network.cached_values(model.context_tokens, tensor)
        cache = values * width * sequences // pipeline
    step = min(engine.max_num_tokens, engine.max_batch_size * model.context_tokens)
    wide = 4 * network.hidden_size + 3 * network.intermediate_size // tensor
    logits = engine.max_batch_size * network.vocab_size * _LOGITS_BYTES
    work = _RUNTIME_BYTES + step * wide * _compute_bytes(engine) + logits
    return GpuMemory(weights, cache, work)


def check_gpus(model: Model, network: Network, machine: Machine) -> None:
    """Refuses a model that these GPUs cannot hold or compute. Raises: PlanError."""
    engine = model.engine
    _check_spread(engine, network)
    wanted = engine.tensor_parallel * engine.pipeline_parallel
    if len(machine.gpus) < wanted:
        raise PlanError(
            f"`tensor_parallel` {engine.tensor_parallel} times `pipeline_parallel` "
            f"{engine.pipeline_parallel} needs {wanted} GPUs, this machine has {len(machine.gpus)}"
        )
    for gpu in machine.gpus[:wanted]:
        for dtype in (engine.dtype, engine.kv_cache_dtype or ""):
            first = _CAPABILITIES.get(dtype, (0, 0))
            if gpu.compute_capability < first:
                raise PlanError(
                    f"`{dtype}` needs compute capability {_dotted(first)}, "
                    f"{gpu.name} has {_dotted(gpu.compute_capability)}"
                )
    room = min(gpu.memory_bytes for gpu in machine.gpus[:wanted])
    needed = gpu_memory(network, model)
    if needed.total > room and not engine.weight_streaming:
        fitting = ", or ".join(_what_fits(model, network, machine)) or "nothing smaller"
        raise PlanError(
            f"{model.engine.max_batch_size} sequences of {model.context_tokens} tokens need "
            f"{describe(needed)} on each of {wanted} GPUs, "
            f"{machine.gpus[0].name} has {size(room)}; {fitting} would fit"
        )


def check_length(model: Model, network: Network, position_offset: int = 0) -> None:
    """Refuses a context that the checkpoint does not support. Raises: PlanError."""
    positions = network.max_positions - position_offset
    if model.context_tokens > positions:
        raise PlanError(
            f"`context_tokens` is {model.context_tokens}, "
            f"the checkpoint knows positions up to {positions}"
        )


def check_host(plan: Plan, machine: Machine) -> None:
    """Refuses a build that would run out of memory. Raises: PlanError."""
    if plan.host_bytes > machine.available_bytes:
        raise PlanError(
            f"the build needs about {size(plan.host_bytes)} of host memory, "
            f"{size(machine.available_bytes)} of {size(machine.memory_bytes)} are free"
        )


def _check_spread(engine: EngineRecipe, network: Network) -> None:
    if engine.tensor_parallel < 1 or network.num_heads % engine.tensor_parallel:
        raise PlanError(
            f"`tensor_parallel` is {engine.tensor_parallel}, "
            f"must divide the {network.num_heads} attention heads"
        )
    if not 1 <= engine.pipeline_parallel <= network.num_layers:
        raise PlanError(
            f"`pipeline_parallel` is {engine.pipeline_parallel}, "
            f"must be from 1 to the {network.num_layers} layers"
        )


def _what_fits(model: Model, network: Network, machine: Machine) -> Iterator[str]:
    """Yields single changes of the recipe that would fit, each the smallest of its kind."""
    room = min(gpu.memory_bytes for gpu in machine.gpus)
    weakest = min(gpu.compute_capability for gpu in machine.gpus)

    def fits(changed: Model) -> bool:
        return gpu_memory(network, changed).total <= room

    def engine(**changes: Any) -> Model:
        return replace(model, engine=replace(model.engine, **changes))

    if batch := _largest(lambda n: fits(engine(max_batch_size=n)), model.engine.max_batch_size):
        yield f"`max_batch_size` {batch}"
    if context := _largest(lambda n: fits(replace(model, context_tokens=n)), model.context_tokens):
        yield f"`context_tokens` {context}"
    for dtype in _SMALLER_DTYPES:
        is_smaller = WEIGHT_BITS[dtype] < WEIGHT_BITS[model.engine.dtype]
        known = weakest >= _CAPABILITIES.get(dtype, (0, 0))
        if is_smaller and known and fits(engine(dtype=dtype)):
            yield f"`dtype` {dtype}"
            break
    for tensor in (2, 4, 8):
        wider = tensor > model.engine.tensor_parallel and network.num_heads % tensor == 0
        if wider and fits(engine(tensor_parallel=tensor)):
            here = "" if len(machine.gpus) >= tensor else f", on a machine with {tensor} GPUs"
            yield f"`tensor_parallel` {tensor}{here}"
            break


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Returns the largest half, quarter, … of `limit` that fits; 0 when even 1 does not."""
    value = limit // 2
    while value >= 1 and not fits(value):
        value //= 2
    return value


def _compute_bytes(engine: EngineRecipe) -> int:
    return 4 if engine.dtype == "float32" else 2


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
