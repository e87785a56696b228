"""One compiled decoder with a paged key/value cache: token ids in, logits out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset15 as ops

# The only way to the paged form; no other private module of OpenVINO is imported.
from openvino._offline_transformations import paged_attention_transformation

from build_engines.cpu.precision import Precision
from orchestrator import cgroup

FINAL_NORM = "final_norm"
"""The graph builder's name of the last norm, whose output is the hidden state."""

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

_INPUTS = (
    "input_ids",
    "position_ids",
    "past_lens",
    "subsequence_begins",
    "block_indices",
    "block_indices_begins",
    "max_context_len",
    "output_rows",
)


@dataclass(slots=True)
class StepInputs:
    """The tokens of one step, sequence after sequence.

    `output_rows` int64[k] are the token rows whose logits are returned. The arrays are bound by
    reference: a caller with the same sequences may change values in place and run again.
    """

    input_ids: Int64
    position_ids: Int64
    past_lens: Int32
    subsequence_begins: Int32
    block_indices: Int32
    block_indices_begins: Int32
    max_context_len: npt.NDArray[np.int32]
    output_rows: Int64


class DecoderRuntime:
    """A compiled decoder. Not thread-safe: one thread runs steps."""

    def __init__(
        self, model_xml: Path, precision: Precision, cache_tokens: int, threads: int = 0
    ) -> None:
        core = ov.Core()
        compiled = core.compile_model(
            _paged(core.read_model(model_xml)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision.arithmetic,
                "KV_CACHE_PRECISION": precision.kv_cache,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
            },
        )
        self._request = compiled.create_infer_request()
        self.block_size = int(compiled.input("key_cache.0").get_partial_shape()[2].get_length())
        self.num_blocks = -(-cache_tokens // self.block_size)
        self.vocab_size = int(compiled.output(0).get_partial_shape()[2].get_length())
        self._cache = self._allocate_cache(compiled)
        self._bound: StepInputs | None = None
        self._tensors: list[ov.Tensor] = []

    def run(self, inputs: StepInputs) -> Logits:
        """Returns logits float32[k, vocab_size] of `output_rows`; valid until the next call."""
        if inputs is not self._bound:
            self._bind(inputs)
        self._request.infer()
        logits: Logits = self._request.get_output_tensor(0).data
        return logits.reshape(len(inputs.output_rows), self.vocab_size)

    def _bind(self, inputs: StepInputs) -> None:
        self._tensors = []
        for name in _INPUTS:
            tensor = ov.Tensor(getattr(inputs, name), shared_memory=True)
            self._request.set_tensor(name, tensor)
            self._tensors.append(tensor)
        self._bound = inputs

    def _allocate_cache(self, compiled: ov.CompiledModel) -> list[ov.Tensor]:
        """Allocates tensors for the keys and the values of each layer. Raises: MemoryError."""
        ports = {port.get_any_name(): port for port in compiled.inputs}
        shapes = {
            name: [self.num_blocks, *(int(d.get_length()) for d in list(port.partial_shape)[1:])]
            for name, port in ports.items()
            if name.startswith(("key_cache.", "value_cache."))
        }
        sizes = (math.prod(shapes[name]) * ports[name].element_type.size for name in shapes)
        _check_memory(sum(sizes), self.num_blocks * self.block_size)
        tensors = []
        for name, shape in shapes.items():
            tensor = ov.Tensor(ports[name].element_type, ov.Shape(shape))
            # Uninitialised memory may hold NaN, which attention would spread from the unused
            # end of a block.
            np.frombuffer(tensor.data, np.uint8)[:] = 0
            self._request.set_tensor(name, tensor)
            tensors.append(tensor)
        return tensors


def _check_memory(needed_bytes: int, tokens: int) -> None:
    """Checks memory first: Linux grants memory that it does not have, and kills its user later."""
    free_bytes = cgroup.available_memory_bytes()
    if needed_bytes > free_bytes:
        raise MemoryError(
            f"the key/value cache of {tokens} tokens needs {needed_bytes >> 20} MiB, "
            f"{free_bytes >> 20} MiB are free: lower `kv_cache_tokens`"
        )


def _paged(model: Any) -> Any:
    """Returns the stateful decoder with paged attention, and logits of `output_rows` only."""
    paged_attention_transformation(model)
    rows = ops.parameter([-1], np.int64)
    rows.set_friendly_name("output_rows")
    rows.get_output_tensor(0).set_names({"output_rows"})
    norm = next(op for op in model.get_ops() if op.get_friendly_name() == FINAL_NORM)
    readers = list(norm.output(0).get_target_inputs())
    wanted = ops.gather(norm.output(0), rows, ops.constant(np.int64(0)))
    for reader in readers:
        reader.replace_source_output(wanted.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()
    return model
