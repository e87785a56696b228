"""Sends golden prompts to a Triton server, and reports whether its engine keeps the contract.

Uses KServe's gRPC with one stream per generation, as the orchestrator does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from build_engines.golden.selftest import NEW_TOKENS, Answer, SelfTestError, Vector

_TIMEOUT_S = 300.0
_DTYPES = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
_NO_END = -1
_CANCEL_ID = "selftest-cancel"

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Observed:
    """The behaviour of an engine where its documentation is not specific.

    `end_excluded` says that the output does not include the end token; None if no end occurred.
    """

    delta_ids: bool
    final_with_tokens: bool
    log_probs: bool
    cancels: bool
    end_excluded: bool | None


@dataclass(frozen=True, slots=True)
class _Response:
    token_ids: list[int]
    log_probs: list[float]
    final: bool


class Player:
    """A client of one Triton server. Call `close` at the end."""

    def __init__(self, url: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._channel = grpc.insecure_channel(url, [("grpc.enable_http_proxy", 0)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = tuple(metadata)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def is_ready(self, model: str) -> bool:
        """Whether the server answers and has loaded `model`."""
        with contextlib.suppress(grpc.RpcError):
            request = service_pb2.ModelReadyRequest(name=model)
            return bool(self._stub.ModelReady(request, metadata=self._metadata, timeout=5).ready)
        return False

    def embed(self, model: str, inputs: Sequence[list[int]]) -> list[Vector]:
        """Returns one vector for each input. Raises: SelfTestError."""
        return [Vector(ids, self._embed(model, ids)) for ids in inputs]

    def generate(self, model: str, inputs: Sequence[list[int]], limit: int) -> list[Answer]:
        """Returns greedy answers of up to `NEW_TOKENS` tokens, `limit` with the prompt. Margins are
        lower bounds, as not every engine reports alternatives. Raises: SelfTestError.
        """
        answers = []
        for ids in inputs:
            length = max(1, min(NEW_TOKENS, limit - len(ids)))
            responses = list(self._stream(model, _prompt(ids, length)))
            tokens = [token for response in responses for token in response.token_ids]
            if not tokens:
                raise SelfTestError(f"the model `{model}` answered a golden prompt with nothing")
            log_probs = responses[-1].log_probs
            margins = [_least_margin(value) for value in log_probs] or [0.0] * len(tokens)
            answers.append(Answer(ids, tokens, log_probs, margins))
        return answers

    def observe(self, model: str, ids: list[int], limit: int) -> Observed:
        """Observes how the model streams, ends and cancels. Raises: SelfTestError."""
        length = max(2, min(NEW_TOKENS, limit - len(ids)))
        responses = list(self._stream(model, _prompt(ids, length)))
        tokens = [token for response in responses for token in response.token_ids]
        if not responses[-1].final:
            raise SelfTestError(f"the model `{model}` ends a stream without the final flag")
        end = tokens[min(1, len(tokens) - 1)]
        ended = list(self._stream(model, _prompt(ids, length, end_id=end)))
        after = [token for response in ended for token in response.token_ids]
        return Observed(
            delta_ids=len(tokens) <= length,
            final_with_tokens=bool(responses[-1].token_ids),
            log_probs=len(responses[-1].log_probs) == len(tokens),
            cancels=self._cancels(model, ids, limit),
            end_excluded=end not in after if len(after) < len(tokens) else None,
        )

    def _cancels(self, model: str, ids: list[int], limit: int) -> bool:
        """Whether a stop request ends a running generation before its length."""
        length = max(1, limit - len(ids))
        stream = self._stream(model, _prompt(ids, length), identity=_CANCEL_ID)
        count = len(next(stream).token_ids)
        stop = {**_prompt(ids, 1), "stop": np.array([[True]])}
        list(self._stream(model, stop, identity=_CANCEL_ID))
        return count + sum(len(response.token_ids) for response in stream) < length

    def _stream(self, model: str, tensors: Tensors, identity: str = "") -> Iterator[_Response]:
        request = _request(model, tensors, identity)
        call = self._stub.ModelStreamInfer(
            iter([request]), metadata=self._metadata, timeout=_TIMEOUT_S
        )
        try:
            for message in call:
                if message.error_message:
                    raise SelfTestError(f"the model `{model}` answered: {message.error_message}")
                yield _response(message.infer_response)
        except grpc.RpcError as error:
            raise SelfTestError(
                f"the model `{model}` does not answer: {error.details()}"
            ) from error
        finally:
            call.cancel()

    def _embed(self, model: str, ids: list[int]) -> list[float]:
        row = np.array([ids], np.int32)
        request = _request(model, {"input_ids": row, "attention_mask": np.ones_like(row)}, "")
        try:
            reply = self._stub.ModelInfer(request, metadata=self._metadata, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise SelfTestError(
                f"the model `{model}` does not answer: {error.details()}"
            ) from error
        vector: list[float] = _tensors(reply)["embedding"].ravel().tolist()
        return vector


def _least_margin(log_prob: float) -> float:
    """Returns the least lead of the best token: all others share the remaining probability."""
    rest = -math.expm1(min(log_prob, 0.0))
    return 99.0 if rest <= 0 else round(max(0.0, log_prob - math.log(rest)), 5)


def _prompt(ids: list[int], length: int, end_id: int = _NO_END) -> Tensors:
    """Builds the tensors; sets sampling, as TensorRT-LLM returns log-probabilities only then."""
    return {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[length]], np.int32),
        "end_id": np.array([[end_id]], np.int32),
        "runtime_top_k": np.array([[1]], np.int32),
        "return_log_probs": np.array([[True]]),
        "streaming": np.array([[True]]),
    }


def _request(model: str, tensors: Tensors, identity: str) -> Any:
    names = {np.dtype(np.int32): "INT32", np.dtype(np.bool_): "BOOL"}
    request = service_pb2.ModelInferRequest(model_name=model, id=identity)
    for name, value in tensors.items():
        request.inputs.add(name=name, datatype=names[value.dtype], shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    return request


def _tensors(reply: Any) -> Tensors:
    known = {}
    for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        if output.datatype in _DTYPES:
            known[output.name] = np.frombuffer(raw, _DTYPES[output.datatype])
    return known


def _response(reply: Any) -> _Response:
    tensors = _tensors(reply)
    ids = tensors.get("output_ids", np.zeros(0, np.int32))
    length = int(tensors["sequence_length"][0]) if "sequence_length" in tensors else len(ids)
    log_probs = tensors.get("output_log_probs", np.zeros(0, np.float32))
    return _Response(
        token_ids=ids[:length].tolist(),
        log_probs=[round(float(value), 5) for value in log_probs],
        final=reply.parameters["triton_final_response"].bool_param,
    )
