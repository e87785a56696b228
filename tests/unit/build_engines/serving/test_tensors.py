from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from build_engines.serving.request import Guide, Limits, RequestError
from build_engines.serving.tensors import MAX_GUIDE_BYTES, parse_request, wants_stop
from build_engines.serving.texts import parse_texts

LIMITS = Limits(
    max_batch_size=4, max_queue_size=8, max_input_len=15, max_seq_len=16, vocab_size=100
)
Tensors = dict[str, npt.NDArray[Any]]


def tensors(ids: list[int] | None = None, output: int = 5, **more: Any) -> Tensors:
    """Tensors as Triton hands them over: scalars have lost their second dimension."""
    tokens = np.array([[1, 2, 3] if ids is None else ids], np.int32)
    values: Tensors = {
        "input_ids": tokens,
        "input_lengths": np.array([tokens.shape[1]], np.int32),
        "request_output_len": np.array([output], np.int32),
    }
    types = {bool: np.bool_, int: np.int32, float: np.float32, str: np.object_}
    for name, value in more.items():
        if isinstance(value, np.ndarray):
            values[name] = value
        else:
            content = value.encode() if isinstance(value, str) else value
            values[name] = np.array([content], types[type(value)])
    return values


def words(*listed: list[int], pad: int = 0) -> npt.NDArray[np.int32]:
    ids = [token for word in listed for token in word]
    ends = np.cumsum([len(word) for word in listed]).tolist()
    width = len(ids) + pad
    return np.array([[ids + [0] * (width - len(ids)), ends + [-1] * (width - len(ends))]], np.int32)


def test_a_bare_request_samples_from_everything() -> None:
    parsed = parse_request(tensors(), LIMITS)
    request = parsed.request
    assert request.input_ids.tolist() == [1, 2, 3]
    assert request.max_new_tokens == 5
    assert request.end_id == -1
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (1, 0, 1, 0)
    assert sampling.plain
    assert not sampling.greedy
    assert not parsed.streaming
    assert parsed.exclude_input


def test_every_setting_arrives() -> None:
    parsed = parse_request(
        tensors(
            temperature=0.5,
            runtime_top_k=7,
            runtime_top_p=0.25,
            min_p=0.125,
            seed=np.array([2**64 - 1], np.uint64),
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.25,
            end_id=9,
            min_tokens=2,
            return_log_probs=True,
            num_top_log_probs=4,
            streaming=True,
            return_perf_metrics=True,
            return_num_input_tokens=True,
            return_num_output_tokens=True,
            exclude_input_in_output=False,
            stop_words_list=words([4], [5, 6], pad=2),
            bad_words_list=words([7, 8]),
            embedding_bias=np.zeros((1, 100), np.float32),
            guided_decoding_guide_type="regex",
            guided_decoding_guide="[ü]+",
            pad_id=3,
            cache_salt_id=np.array([2**64 - 1], np.uint64),
        ),
        LIMITS,
    )
    request, sampling = parsed.request, parsed.request.sampling
    assert sampling.temperature == 0.5
    assert (sampling.top_k, sampling.top_p, sampling.min_p) == (7, 0.25, 0.125)
    assert sampling.seed == 2**64 - 1
    assert sampling.repetition_penalty == 1.5
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-0.5, 0.25)
    assert sampling.bias is not None
    assert sampling.bad_words == ((7, 8),)
    assert request.stop_words == ((4,), (5, 6))
    assert (request.end_id, request.min_tokens) == (9, 2)
    assert (request.log_probs, request.top_log_probs) == (True, 4)
    assert request.guide == Guide("regex", "[ü]+")
    assert request.cache_salt == 2**64 - 1
    assert parsed.streaming
    assert parsed.perf_metrics
    assert parsed.num_input_tokens
    assert parsed.num_output_tokens
    assert not parsed.exclude_input


def test_the_output_is_clamped_to_the_room_that_is_left() -> None:
    assert parse_request(tensors(output=1000), LIMITS).request.max_new_tokens == 13


def test_padding_behind_the_input_length_is_dropped() -> None:
    padded = tensors([1, 2, 0, 0]) | {"input_lengths": np.array([2], np.int32)}
    assert parse_request(padded, LIMITS).request.input_ids.tolist() == [1, 2]


def test_empty_word_lists_and_an_empty_bias_are_none() -> None:
    empty = np.zeros((1, 2, 0), np.int32)
    request = parse_request(
        tensors(stop_words_list=empty, embedding_bias=np.zeros((1, 0), np.float32)), LIMITS
    ).request
    assert request.stop_words == ()
    assert request.sampling.bias is None


def test_a_top_p_of_zero_or_less_is_unset() -> None:
    assert parse_request(tensors(runtime_top_p=0.0), LIMITS).request.sampling.top_p == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tensors(list(range(16))), r"`input_ids`: Prompt length \(16\) exceeds maximum input "),
        (tensors([]), "`input_ids` is empty"),
        (tensors([1, 100]), "`input_ids` holds token 100, must be from 0 to 99"),
        (tensors([-1]), "`input_ids` holds token -1"),
        (tensors(output=0), "`request_output_len` is 0, must be >= 1"),
        (tensors(input_lengths=4), "`input_lengths` is 4, must be from 1 to 3"),
        (tensors(temperature=0.0), "`temperature` is 0, must be > 0"),
        (tensors(temperature=float("nan")), "`temperature` is nan"),
        (tensors(runtime_top_k=-1), "`runtime_top_k` is -1, must be >= 0"),
        (tensors(runtime_top_p=1.5), "`runtime_top_p` is 1.5"),
        (tensors(min_p=1.5), "`min_p` is 1.5, must be from 0 to 1"),
        (tensors(repetition_penalty=0.0), "`repetition_penalty` is 0, must be > 0"),
        (tensors(presence_penalty=float("inf")), "`presence_penalty` is inf, must be finite"),
        (tensors(end_id=100), "`end_id` is 100, must be from -1 to 99"),
        (tensors(num_top_log_probs=21), "`num_top_log_probs` is 21, must be from 0 to 20"),
        (tensors(beam_width=2), "`beam_width` is 2, must be from 1 to 1"),
        (tensors(num_return_sequences=3), "`num_return_sequences` is 3"),
        (tensors(return_context_logits=True), "`return_context_logits` is not supported"),
        (tensors(lora_task_id=1), "`lora_task_id` is not supported by this engine"),
        (tensors(embedding_bias=np.zeros((1, 7), np.float32)), "`embedding_bias` holds 7 values"),
        (tensors(embedding_bias=np.full((1, 100), np.nan, np.float32)), "no number"),
        (tensors(stop_words_list=words([100])), "`stop_words_list` holds token 100"),
        (tensors(bad_words_list=np.array([[[1, 2], [2, 1]]], np.int32)), "end offset 1"),
        (tensors(bad_words_list=np.array([[[1, 2], [-1, 1]]], np.int32)), "follows the first -1"),
        (tensors(bad_words_list=np.array([[[1, 2], [3, -1]]], np.int32)), "end offset 3"),
        (tensors(stop_words_list=np.zeros((1, 3, 2), np.int32)), r"must be \[1, 2, L\]"),
        (tensors(guided_decoding_guide_type="xml"), "`guided_decoding_guide_type` is `xml`"),
        (tensors(guided_decoding_guide_type="regex"), "`guided_decoding_guide` is missing"),
        (
            tensors(
                guided_decoding_guide_type="regex",
                guided_decoding_guide="x" * (MAX_GUIDE_BYTES + 1),
            ),
            f"`guided_decoding_guide` has {MAX_GUIDE_BYTES + 1} bytes",
        ),
        (tensors(seed=np.array([1, 2], np.uint64)), "`seed` holds 2 values"),
        ({"input_ids": np.ones((1, 1), np.int32)}, "`input_lengths` is missing"),
        ({"input_lengths": np.ones(1, np.int32)}, "`input_ids` is missing"),
    ],
)
def test_a_wrong_value_is_named_with_its_limit(given: Tensors, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_request(given, LIMITS)


def test_stop_is_read_from_its_tensor() -> None:
    assert wants_stop(tensors(stop=True))
    assert not wants_stop(tensors(stop=False))
    assert not wants_stop(tensors())


def texts(ids: list[list[int]], mask: list[list[int]], **more: Any) -> Tensors:
    return {
        "input_ids": np.array(ids, np.int32),
        "attention_mask": np.array(mask, np.int32),
        **{name: np.array(value, np.int32) for name, value in more.items()},
    }


def test_a_text_is_what_its_mask_keeps() -> None:
    parsed = parse_texts(texts([[5, 6, 0], [7, 8, 9]], [[1, 1, 0], [1, 1, 1]]), LIMITS, 2)
    assert [text.ids.tolist() for text in parsed] == [[5, 6], [7, 8, 9]]
    assert [text.types.tolist() for text in parsed] == [[0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (texts([[1, 2]], [[0, 0]]), "`input_ids` is empty"),
        (texts([[1, 2]], [[1]]), r"`attention_mask` has shape \[1, 1\]"),
        (texts([[1, 100]], [[1, 1]]), "`input_ids` holds token 100"),
        (texts([[1] * 16], [[1] * 16]), r"Prompt length \(16\) exceeds maximum input length"),
        (texts([[1]], [[1]], token_type_ids=[[2]]), "`token_type_ids` must be from 0 to 1"),
    ],
)
def test_a_wrong_text_is_named(given: Tensors, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_texts(given, LIMITS, 2)
