"""A TensorRT encoder engine as an embedder: needs a GPU, TensorRT-LLM and torch."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt
import torch
from tensorrt_llm._utils import trt_dtype_to_torch
from tensorrt_llm.runtime import Session, TensorInfo

from build_engines.serving.artefacts import Artefacts, check_runtime
from build_engines.serving.texts import Text
from build_engines.trtllm.packing import embedding_settings, groups, pack, pool

ENGINE_FOLDER = "engine"
_OUTPUT = "hidden_states"


class TensorRtEmbedder:
    """One encoder engine on one GPU. Not thread-safe."""

    def __init__(self, engine: Path, artefacts: Artefacts) -> None:
        self._session = Session.from_serialized_engine((engine / "rank0.engine").read_bytes())
        self._stream = torch.cuda.Stream()
        manifest = artefacts.manifest
        self._pooling, self._normalize, self._offset = embedding_settings(manifest)
        self._max_batch_size = int(manifest["limits"]["max_batch_size"])
        self._max_num_tokens = int(manifest["limits"]["max_num_tokens"])

    def embed(self, texts: list[Text]) -> npt.NDArray[np.float32]:
        """Returns vectors float32[len(texts), dimension], in the order of `texts`."""
        parts = groups(texts, self._max_batch_size, self._max_num_tokens)
        return np.concatenate([self._run(part) for part in parts])

    def _run(self, texts: list[Text]) -> npt.NDArray[np.float32]:
        packed = pack(texts, self._offset)
        with torch.cuda.stream(self._stream):
            inputs = {name: torch.from_numpy(value).cuda() for name, value in packed.items()}
            outputs = self._outputs(inputs)
            if not self._session.run(inputs, outputs, self._stream.cuda_stream):
                raise RuntimeError("the encoder engine failed")
            hidden = outputs[_OUTPUT].float().cpu()
        self._stream.synchronize()
        lengths = packed["input_lengths"]
        return pool(hidden.numpy(), lengths, self._pooling, normalize=self._normalize)

    def _outputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        shapes = [TensorInfo(name, trt.DataType.INT32, t.shape) for name, t in inputs.items()]
        return {
            tensor.name: torch.empty(
                tuple(tensor.shape), dtype=trt_dtype_to_torch(tensor.dtype), device="cuda"
            )
            for tensor in self._session.infer_shapes(shapes)
        }


def open_embedder(artefacts: Artefacts) -> TensorRtEmbedder:
    """Opens the embedder of a version folder. Raises: ValueError when it was built elsewhere."""
    versions = {name: metadata.version(name) for name in ("tensorrt_llm", "tensorrt")}
    check_runtime(artefacts, versions, torch.cuda.get_device_capability())
    return TensorRtEmbedder(artefacts.folder / ENGINE_FOLDER, artefacts)
