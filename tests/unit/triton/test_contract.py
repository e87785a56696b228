"""Requests as TensorRT-LLM reads them, answers as it writes them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from orchestrator.core.request import SamplingParams
from orchestrator.triton import contract, encoding, errors
from orchestrator.triton.contract import GenerateCall


def call(**changes: Any) -> GenerateCall:
    values: dict[str, Any] = {
        "model": "chat",
        "request_id": "req_1-0",
        "token_ids": (5, 6, 7),
        "max_tokens": 9,
        "end_id": 2,
        "pad_id": None,
        "extra_end_ids": (),
        "sampling": SamplingParams(),
        "vocab_size": 16,
        "reports_finish_reason": False,
    }
    return GenerateCall(**{**values, **changes})


def generated(one: GenerateCall) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest.FromString(encoding.generate_request(one))


def tensors(request: service_pb2.ModelInferRequest) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        tensor.name: (tensor.datatype, list(tensor.shape), raw)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def test_a_plain_call_sends_what_the_engine_needs_and_no_more() -> None:
    request = generated(call())
    sent = tensors(request)
    assert set(sent) == {
        "input_ids", "input_lengths", "request_output_len", "end_id", "streaming", "runtime_top_p",
    }  # fmt: skip
    assert sent["input_ids"] == ("INT32", [1, 3], struct.pack("<3i", 5, 6, 7))
    assert sent["input_lengths"] == ("INT32", [1, 1], struct.pack("<i", 3))
    assert sent["streaming"] == ("BOOL", [1, 1], b"\x01")
    assert [output.name for output in request.outputs] == ["output_ids", "sequence_length"]


def test_arguments_that_shifted_in_1_2_are_never_sent() -> None:
    sampling = SamplingParams(0.5, 0.9, 40, 0.1, 1, 0.5, 0.5, 1.1, {3: 1.0})
    sent = tensors(generated(call(sampling=sampling)))
    assert not {"len_penalty", "early_stopping", "num_return_sequences"} & set(sent)
    assert "no_repeat_ngram_size" not in sent


def test_temperature_zero_is_greedy_and_never_sent_as_a_temperature() -> None:
    sent = tensors(generated(call(sampling=SamplingParams(0.0, 0.5, 40))))
    assert sent["runtime_top_k"][2] == struct.pack("<i", 1)
    assert not {"temperature", "runtime_top_p"} & set(sent)


def test_neutral_values_are_left_to_the_engine() -> None:
    sampling = SamplingParams(presence_penalty=0.0, repetition_penalty=1.0)
    sent = tensors(generated(call(sampling=sampling)))
    assert not {"presence_penalty", "repetition_penalty"} & set(sent)


@pytest.mark.parametrize(("top_p", "value"), [(None, 1.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1e-6)])
def test_sampling_always_names_a_nucleus_because_the_engine_is_greedy_without(
    top_p: float | None, value: float
) -> None:
    sent = tensors(generated(call(sampling=SamplingParams(top_p=top_p))))
    assert struct.unpack("<f", sent["runtime_top_p"][2])[0] == pytest.approx(value)


def test_extra_end_ids_travel_as_one_word_each() -> None:
    sent = tensors(generated(call(extra_end_ids=(11, 12))))
    datatype, shape, raw = sent["stop_words_list"]
    assert (datatype, shape) == ("INT32", [1, 2, 2])
    assert struct.unpack("<4i", raw) == (11, 12, 1, 2)


def test_logit_bias_is_dense_over_the_engines_vocabulary() -> None:
    sampling = SamplingParams(logit_bias={3: -100.0, 15: 2.5})
    sent = tensors(generated(call(sampling=sampling)))
    _, shape, raw = sent["embedding_bias"]
    values = struct.unpack("<16f", raw)
    assert shape == [1, 16]
    assert (values[3], values[15], sum(map(bool, values))) == (-100.0, 2.5, 2)


@pytest.mark.parametrize("seed", [0, 7, 2**63, -1])
def test_a_seed_fits_the_unsigned_tensor(seed: int) -> None:
    sent = tensors(generated(call(sampling=SamplingParams(seed=seed))))
    assert struct.unpack("<Q", sent["seed"][2]) == (seed % 2**64,)


def response(ids: tuple[int, ...], length: int, *, final: bool) -> service_pb2.ModelInferResponse:
    message = service_pb2.ModelInferResponse()
    # The order of outputs is the server's choice, so it is another one here.
    message.outputs.add(name="sequence_length", datatype="INT32", shape=[1, 1])
    message.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, len(ids)])
    message.raw_output_contents.append(struct.pack("<i", length))
    message.raw_output_contents.append(struct.pack(f"<{len(ids)}i", *ids))
    message.parameters["triton_final_response"].bool_param = final
    return message


def test_a_chunk_holds_the_valid_tokens_only() -> None:
    chunk = contract.read_chunk(response((8, 9, -1), 2, final=False))
    assert (tuple(chunk.token_ids), chunk.final, chunk.finish_reason) == ((8, 9), False, None)


def test_an_empty_final_response_is_the_end_and_no_token() -> None:
    chunk = contract.read_chunk(response((), 0, final=True))
    assert (tuple(chunk.token_ids), chunk.final) == ((), True)


def test_the_engines_finish_reason_is_read_where_it_is_given() -> None:
    message = response((8,), 1, final=True)
    message.outputs.add(name="finish_reason", datatype="BYTES", shape=[1, 1])
    message.raw_output_contents.append(struct.pack("<I", 6) + b"length")
    assert contract.read_chunk(message).finish_reason == "length"


def test_log_probs_guides_and_clocks_are_asked_for_only_when_wanted() -> None:
    guide = contract.Guide("json_schema", '{"type":"null"}')
    request = generated(
        call(log_probs=True, top_log_probs=2, guide=guide, reports_perf_metrics=True)
    )
    sent = tensors(request)
    assert sent["guided_decoding_guide_type"] == ("BYTES", [1, 1], b"\x0b\0\0\0json_schema")
    assert sent["guided_decoding_guide"][2] == b"\x0f\0\0\0" + guide.text.encode()
    assert sent["return_log_probs"][2] == sent["return_perf_metrics"][2] == b"\x01"
    assert sent["num_top_log_probs"] == ("INT32", [1, 1], struct.pack("<i", 2))
    assert [output.name for output in request.outputs][2:] == [
        "output_log_probs", "top_log_prob_ids", "top_log_probs", "arrival_time_ns",
        "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns",
        "kv_cache_reused_blocks",
    ]  # fmt: skip
    json = tensors(generated(call(guide=contract.Guide("json"))))
    assert "guided_decoding_guide" not in json


def outputs_of(**outputs: tuple[str, list[int], bytes]) -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse()
    for name, (datatype, shape, raw) in outputs.items():
        made.outputs.add(name=name, datatype=datatype, shape=shape)
        made.raw_output_contents.append(raw)
    return made


def two_tokens(log_probs: list[float], **more: Any) -> service_pb2.ModelInferResponse:
    count = len(log_probs)
    return outputs_of(
        output_ids=("INT32", [1, 1, 2], struct.pack("<2i", 5, 6)),
        sequence_length=("INT32", [1, 1], struct.pack("<i", 2)),
        output_log_probs=("FP32", [1, 1, count], struct.pack(f"<{count}f", *log_probs)),
        **more,
    )


def test_log_probs_of_new_tokens_are_cut_out_of_all_so_far() -> None:
    so_far = two_tokens([-1.0, -2.0, -3.0, -4.0])
    chunk = contract.read_chunk(so_far, received=2)
    assert chunk.log_probs == contract.LogProbs((-3.0, -4.0))
    assert contract.read_chunk(so_far, received=1).log_probs == contract.LogProbs((-2.0, -3.0))
    only_new = contract.read_chunk(two_tokens([-3.0, -4.0]), received=7)
    assert only_new.log_probs == contract.LogProbs((-3.0, -4.0))
    assert chunk.metrics is None


def test_alternatives_come_in_pairs_of_token_and_logarithm() -> None:
    chunk = contract.read_chunk(
        two_tokens(
            [-0.5, -0.25],
            top_log_prob_ids=("INT32", [1, 2, 3], struct.pack("<6i", *range(6))),
            top_log_probs=("FP32", [1, 2, 3], struct.pack("<6f", *range(6))),
        )
    )
    assert chunk.log_probs is not None
    assert chunk.log_probs.top == [[(0, 0.0), (1, 1.0), (2, 2.0)], [(3, 3.0), (4, 4.0), (5, 5.0)]]


def test_an_empty_last_response_has_clocks_and_no_log_probs() -> None:
    names = [*contract.CLOCKS]
    clocks: dict[str, Any] = {
        name: ("INT64", [1, 1], struct.pack("<q", 10 + at)) for at, name in enumerate(names)
    }
    last = outputs_of(
        output_ids=("INT32", [1, 1, 0], b""),
        sequence_length=("INT32", [1, 1], struct.pack("<i", 0)),
        output_log_probs=("FP32", [1, 1, 4], struct.pack("<4f", 1, 2, 3, 4)),
        kv_cache_reused_blocks=("INT32", [1, 1], struct.pack("<i", 7)),
        **clocks,
    )
    chunk = contract.read_chunk(last, received=4)
    assert chunk.log_probs is None
    assert chunk.metrics == contract.EngineMetrics(10, 11, 12, 13, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "in ensemble: `guided_decoding_guide` is no usable json_schema: Unknown key x.\nat y",
            "`tool_choice` cannot be enforced by the engine: Unknown key x.",
        ),
        (
            "`guided_decoding_guide` is no usable json_schema: regex parse error:\n    (\n    ^",
            "`tool_choice` cannot be enforced by the engine: regex parse error.",
        ),
        ("[TRT] xgrammar: /src/secret.cpp:7", "`tool_choice` cannot be enforced by the engine."),
        ("Grammar compilation", "`tool_choice` cannot be enforced by the engine."),
    ],
)
def test_a_guide_that_the_engine_refuses_is_the_callers_fault(text: str, message: str) -> None:
    error = errors.guide_refused(text, "tool_choice")
    assert error is not None
    assert (error.message, error.param, error.status) == (message, "tool_choice", 400)
    assert errors.guide_refused("CUDA out of memory", "tool_choice") is None
