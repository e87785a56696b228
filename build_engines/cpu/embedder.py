"""One compiled encoder: token ids of texts in, vectors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

from build_engines.cpu.precision import Precision
from build_engines.serving.texts import Text

#: Texts are padded together if the longest has at most this many times the shortest's tokens.
_PADDING_RATIO = 1.5


class Embedder:
    """A compiled encoder. Not thread-safe."""

    def __init__(self, model_xml: Path, precision: Precision, threads: int = 0) -> None:
        config = {
            "INFERENCE_PRECISION_HINT": precision.arithmetic,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = ov.Core().compile_model(model_xml, "CPU", config)
        self._request = compiled.create_infer_request()
        self.dimension = int(compiled.output(0).get_partial_shape()[1].get_length())

    def embed(self, texts: list[Text]) -> npt.NDArray[np.float32]:
        """Returns vectors float32[len(texts), dimension], in the order of `texts`."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for group in _groups([len(text.ids) for text in texts]):
            vectors[group] = self._run([texts[index] for index in group])
        return vectors

    def _run(self, texts: list[Text]) -> npt.NDArray[np.float32]:
        shape = (len(texts), max(len(text.ids) for text in texts))
        ids, mask, types = (np.zeros(shape, np.int32) for _ in range(3))
        for row, text in enumerate(texts):
            length = len(text.ids)
            ids[row, :length] = text.ids
            mask[row, :length] = 1
            types[row, :length] = text.types
        self._request.infer({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
        vectors: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data
        return vectors


def _groups(lengths: list[int]) -> list[list[int]]:
    """Returns groups of indices of texts that are padded together, the shortest first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[index] <= _PADDING_RATIO * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
