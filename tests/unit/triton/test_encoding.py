"""Requests written as bytes are what the protobuf library would write."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from orchestrator.core.request import SamplingParams
from orchestrator.triton import encoding
from orchestrator.triton.contract import GenerateCall, Guide
from tests.unit.triton.reference_request import reference_request

VOCAB_SIZE = 40
int32 = st.integers(-(2**31), 2**31 - 1)
small = st.none() | st.sampled_from([0.0, 1.0]) | st.floats(0, 5, width=32)
samplings = st.builds(
    SamplingParams,
    temperature=small,
    top_p=small,
    top_k=st.none() | st.integers(0, 1000),
    min_p=small,
    seed=st.none() | st.integers(-(2**63), 2**64),
    presence_penalty=small,
    frequency_penalty=small,
    repetition_penalty=st.none() | st.just(1.0) | st.floats(2.0**-126, 5, width=32),
    logit_bias=st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-100, 100, width=32)),
)
guides = st.builds(
    Guide, st.sampled_from(["json", "json_schema", "regex", "ebnf_grammar"]), st.text(max_size=300)
)
calls = st.builds(
    GenerateCall,
    model=st.text(max_size=20),
    request_id=st.text(max_size=300),
    token_ids=st.lists(int32, max_size=200),
    max_tokens=int32,
    end_id=int32,
    pad_id=st.none() | int32,
    extra_end_ids=st.lists(int32, max_size=3).map(tuple),
    sampling=samplings,
    vocab_size=st.just(VOCAB_SIZE),
    reports_finish_reason=st.booleans(),
    reports_perf_metrics=st.booleans(),
    log_probs=st.booleans(),
    top_log_probs=st.integers(0, 20),
    guide=st.none() | guides,
    seed=st.none() | st.integers(0, 2**63),
    cache_salt=st.none() | st.integers(0, 2**64 - 1),
)


def read(raw: bytes) -> tuple[Any, ...]:
    """What a request says, tensors by their names: their order says nothing."""
    request = service_pb2.ModelInferRequest.FromString(raw)
    tensors = {
        tensor.name: (tensor.datatype, tuple(tensor.shape), content)
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    assert len(tensors) == len(request.inputs)
    # Nothing else is in it, and nothing that the library does not know.
    del request.raw_input_contents[:]
    outputs = [output.name for output in request.outputs]
    for tensor in request.inputs:
        tensor.ClearField("name")
        tensor.ClearField("datatype")
        tensor.ClearField("shape")
        assert not tensor.ByteSize()
    named = (request.model_name, request.id)
    for name in ("inputs", "outputs", "model_name", "id"):
        request.ClearField(name)
    assert not request.ByteSize()
    return *named, tensors, outputs


@given(calls, st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_request_is_what_the_library_writes(call: GenerateCall, streaming: bool) -> None:
    written = encoding.generate_request(call, streaming=streaming)
    expected = reference_request(call, streaming=streaming).SerializeToString()
    assert read(written) == read(expected)


@pytest.mark.parametrize("count", [1, 31, 32, 127, 128, 4095, 4096, 20_000])
def test_prompts_of_any_length_travel_whole(count: int) -> None:
    ids = array("i", range(count))
    call = GenerateCall(
        model="m",
        request_id="r",
        token_ids=ids,
        max_tokens=1,
        end_id=2,
        pad_id=None,
        extra_end_ids=(),
        sampling=SamplingParams(),
        vocab_size=8,
        reports_finish_reason=False,
    )
    assert read(encoding.generate_request(call)) == read(
        reference_request(call).SerializeToString()
    )


def sampled(**sampling: float) -> dict[str, Any]:
    call = GenerateCall(
        model="m",
        request_id="r",
        token_ids=[1],
        max_tokens=1,
        end_id=2,
        pad_id=None,
        extra_end_ids=(),
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
        vocab_size=8,
        reports_finish_reason=False,
    )
    tensors: dict[str, Any] = read(encoding.generate_request(call))[2]
    return tensors


def test_what_is_0_in_float32_is_0() -> None:
    assert sampled(temperature=1e-46) == sampled(temperature=0.0)
    assert sampled(temperature=1e-44) != sampled(temperature=0.0)
    assert sampled(min_p=1e-46) == sampled()
    assert sampled(top_p=1e-46) == sampled(top_p=0.0)


def test_a_repetition_penalty_stays_above_0() -> None:
    (smallest,) = struct.unpack("<f", sampled(repetition_penalty=1e-46)["repetition_penalty"][2])
    assert smallest == 2.0**-126


@given(st.text(max_size=20), st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_a_stop_names_the_request_that_it_ends(model: str, request_id: str) -> None:
    named, asked, tensors, outputs = read(encoding.stop_request(model, request_id))
    assert (named, asked, outputs) == (model, request_id, [])
    assert {name: raw for name, (_, _, raw) in tensors.items()} == {
        "input_ids": bytes(4),
        "input_lengths": b"\x01\0\0\0",
        "request_output_len": b"\x01\0\0\0",
        "stop": b"\x01",
    }
