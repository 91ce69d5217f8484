"""PLaMo's own vocabulary, and what the stream says of its tokenizer."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from proxy.gguf.conversion import ModelDescription, convert
from proxy.gguf.header import GgufHeader, read_header
from proxy.gguf.model_config import CannotConvert
from tests.gguf.tiny_repositories.plamo_tokens import FILE
from tests.gguf.writing import TOKENIZER_FILES, plan, tensors_of
from tests.kit.tiny_conversions import plan_with, repository, with_tokenizer_config

CONFIG = "tokenizer_config.json"
BOS = "a text without the chat template begins without <|plamo:bos|>, which its tokenizer adds and llama.cpp does not"
with_config = partial(with_tokenizer_config, "plamo3")


def with_line(number: int, line: bytes) -> Mapping[str, bytes]:
    """The files with another line in the vocabulary."""
    files = repository("plamo3")
    lines = files[FILE].splitlines(keepends=True)
    return {**files, FILE: b"".join([*lines[:number], line + b"\n", *lines[number + 1 :]])}


def header_of(files: Mapping[str, bytes]) -> GgufHeader:
    return read_header(plan(files).header)


def items(files: Mapping[str, bytes], key: str) -> list[Any]:
    value = header_of(files).metadata[f"tokenizer.ggml.{key}"].value
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize(("score", "rounded"), [(-10.00044999, -100004), (-9.25, -92500)])
def test_scores_round_as_the_authors_tokenizer_rounds_them(score: float, rounded: int) -> None:
    """llama.cpp multiplies the F32 by 10,000; the first would become another number."""
    made = items(with_line(7, json.dumps(["A?A?", score, "NORMAL"]).encode()), "scores")[7]
    assert round(made * 1e4) == rounded
    assert abs(made * 1e4 - rounded) < 0.5


def test_token_without_a_type_is_normal_unless_its_text_is_special() -> None:
    types = items(with_line(7, b'["A?A?", -9.0]'), "token_type")
    assert (types[5], types[7]) == (3, 1)


@pytest.mark.parametrize(
    "line",
    [
        b"[",
        b"{}",
        b"[]",
        b'["A"]',
        b'["A", "-9", "NORMAL"]',
        b'["A", NaN, "NORMAL"]',
        b'["A", 900, "NORMAL"]',
        b'["A", -9.0, "OTHER"]',
        b'["<0x4>", 0, "BYTE"]',
        b"\xff",
    ],
)
def test_broken_line_is_refused(line: bytes) -> None:
    with pytest.raises(CannotConvert, match=rf"{FILE} has the invalid line .* at 8"):
        plan(with_line(7, line))


def test_vocabulary_without_a_byte_is_refused() -> None:
    with pytest.raises(CannotConvert, match="a token for each byte"):
        plan(with_line(300, b'["x300", -9.0, "NORMAL"]'))


def test_repeated_token_is_refused() -> None:
    with pytest.raises(CannotConvert, match="two tokens with the text"):
        plan(with_line(7, b'["B", -9.0, "NORMAL"]'))


def test_special_tokens_have_the_ids_of_their_texts() -> None:
    metadata = header_of(with_config(bos_token={"content": "<|plamo:eos|>"}, eos_token=None)).metadata
    assert metadata["tokenizer.ggml.bos_token_id"].value == 2
    assert metadata["tokenizer.ggml.eos_token_id"].value == 2
    with pytest.raises(CannotConvert, match=r"the eos_token '<\|end\|>', which"):
        plan(with_config(eos_token="<|end|>"))


def test_stream_says_what_llama_cpp_does_not_do() -> None:
    assert plan(repository("plamo3")).warnings == (BOS,)
    assert plan(with_config(add_bos_token=None)).warnings == ()
    warnings = plan(with_config(add_bos_token=False, break_around_repeated_chars_threshold=5)).warnings
    assert [warning[:32] for warning in warnings] == ["5 or more equal characters in a r"[:32]]


def test_window_of_plamo2_is_said_where_a_layer_has_one() -> None:
    assert "beyond 1024 tokens" in plan(repository("plamo2")).warnings[0]
    assert plan_with("plamo2", {"full_attention_idx": [1]}).warnings == (BOS,)


def test_layer_of_plamo2_has_the_base_of_its_kind() -> None:
    bases = {"rope_theta": 5000.0, "rope_local_theta": 6000.0}
    for full, base in ((None, 6000.0), ([1], 5000.0)):
        made = read_header(plan_with("plamo2", {**bases, "full_attention_idx": full}).header)
        assert made.metadata["plamo2.rope.freq_base"].value == base
    first = plan_with("plamo2", {"rope_theta": None, "rope_local_theta": None})
    assert read_header(first.header).metadata["plamo2.rope.freq_base"].value == 10000.0


def test_listed_windows_of_plamo3_are_accepted() -> None:
    listed = {"window_size": None, "sliding_window": [16, 16, None], "interleaved_sliding_window": [16, 16, None]}
    assert read_header(plan_with("plamo3", listed).header).metadata["plamo3.attention.sliding_window"].value == 16


@pytest.mark.parametrize("name", ["plamo2", "plamo3", "rwkv6"])
@pytest.mark.parametrize("adds", [True, False])
def test_no_template_makes_llama_cpp_add_bos(name: str, *, adds: bool) -> None:
    """With a template that is not the authors', as one in [models], other models add the BOS that the authors' has.

    llama.cpp adds none with these tokenizers, but with the key it removes that of a chat template.
    """
    files = repository(name)
    unset, made = (
        convert(
            json.loads(files["config.json"]),
            {path: files[path] for path in TOKENIZER_FILES if path in files},
            tensors_of(files),
            ModelDescription("x", adds_bos=value),
        )
        for value in (None, adds)
    )
    assert made.header == unset.header
