"""GGUFs of others: what ends llama.cpp's loader is found in the header, and nothing else is."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.gguf.foreign import check_layout, check_tensors, check_vocabulary, without_misleading_name
from proxy.gguf.header import Field, GgufHeader, ValueType, read_header
from proxy.gguf.tensors import GgufError, TensorInfo, TensorType
from tests.kit.tiny_gguf import tiny_gguf

TEXTS = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(509))]
PHI3_TEXTS = [*TEXTS[:-1], "<|endoftext|>"]
VOCABULARY: Mapping[str, Field] = {
    "general__name": Field.string("A model"),
    "tokenizer__ggml__model": Field.string("llama"),
    "tokenizer__ggml__tokens": Field.strings(TEXTS),
    "tokenizer__ggml__scores": Field.array(ValueType.FLOAT32, [0.0] * 512),
    "tokenizer__ggml__token_type": Field.array(ValueType.INT32, [1] * 512),
    "llama__embedding_length": Field.uint32(256),
}


def header(**changes: Field | None) -> GgufHeader:
    fields: dict[str, Any] = {**VOCABULARY, **changes}
    return read_header(tiny_gguf(**fields))


def check(one: GgufHeader) -> None:
    check_vocabulary(one.metadata, one.tensors)
    check_tensors(one.metadata, one.tensors)
    check_layout(one)


def with_tensors(change: Callable[[TensorInfo], TensorInfo | None]) -> GgufHeader:
    """Without the tensors for which `change` gives None."""
    whole = header()
    return replace(whole, tensors=tuple(new for tensor in whole.tensors if (new := change(tensor)) is not None))


def without(name: str) -> GgufHeader:
    return with_tensors(lambda tensor: None if tensor.name == name else tensor)


def shaped(name: str, *shape: int) -> GgufHeader:
    return with_tensors(lambda tensor: replace(tensor, shape=shape) if tensor.name == name else tensor)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokenizer__ggml__scores": None, "tokenizer__ggml__token_type": None},
        {"tokenizer__ggml__scores": Field.array(ValueType.INT32, [0] * 600)},
        {"tokenizer__ggml__token_type": Field.array(ValueType.UINT32, [1] * 512)},
        {"tokenizer__ggml__tokens": Field.strings([*TEXTS[:-2], "", ""])},
        {"tokenizer__ggml__model": None, "tokenizer__ggml__tokens": Field.strings(["a", "a"])},
        {"tokenizer__ggml__model": Field.string("no_vocab"), "tokenizer__ggml__tokens": None},
        {"tokenizer__ggml__model": Field.string("gpt2"), "tokenizer__ggml__merges": Field.strings(["a b"])},
        {"tokenizer__ggml__model": Field.string("gpt2"), "tokenizer__ggml__pre": Field.string("kimi-k2")},
        {"general__name": Field.string("Phi-3 mini"), "tokenizer__ggml__tokens": Field.strings(PHI3_TEXTS)},
        {"general__name": Field.string("Phi 3"), "general__basename": Field.string("phi-3")},
        {"general__name": Field.string("phi3"), "tokenizer__ggml__pre": Field.string("jina-v2-de")},
        {"general__architecture": Field.string("eagle3"), "tokenizer__ggml__tokens": Field.strings(["a", "b"])}
        | dict.fromkeys(["tokenizer__ggml__scores", "tokenizer__ggml__token_type"]),
        {"llama__embedding_length": Field.string("wide")},
        {"llama__block_count": None},
        {"llama__block_count": Field.string("many")},
        {"llama__feed_forward_length": Field.array(ValueType.UINT32, [1])},
    ],
)
def test_what_loads_or_may_load_passes(changes: dict[str, Field | None]) -> None:
    check(header(**changes))


def test_two_texts_that_are_not_utf8_are_not_equal() -> None:
    """Both are shown as U+FFFD."""
    tokens = Field.strings([*TEXTS[:-2], "x", "y"])
    raw = tokens.raw.removesuffix(b"x" + (1).to_bytes(8, "little") + b"y")
    check(header(tokenizer__ggml__tokens=Field(tokens.kind, raw + b"\xfe" + (1).to_bytes(8, "little") + b"\xff")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__tokens": Field.strings([*TEXTS[:-1], "t0"])}, "it has two tokens with the text 't0'"),
        (
            {"tokenizer__ggml__tokens": Field.strings(TEXTS[:-1])},
            "it has 511 tokens, but token_embd.weight has 512 rows",
        ),
        ({"tokenizer__ggml__tokens": Field.array(ValueType.INT32, [1] * 512)}, "tokens is not a list of texts"),
        (
            {"tokenizer__ggml__scores": Field.array(ValueType.FLOAT32, [0.0] * 511)},
            "it has 512 tokens, but tokenizer.ggml.scores has 511 values",
        ),
        (
            {"tokenizer__ggml__token_type": Field.array(ValueType.INT32, [1])},
            "it has 512 tokens, but tokenizer.ggml.token_type has 1 values",
        ),
        ({"tokenizer__ggml__model": Field.string("gpt2")}, "its tokenizer has no tokenizer.ggml.merges"),
        (
            {"general__name": Field.string("My PHI-3 Tune")},
            "general.name is 'My PHI-3 Tune', so llama.cpp expects the tokens",
        ),
        ({"general__name": Field.string("phi3.5")}, "general.name is 'phi3.5', so llama.cpp expects the tokens"),
        ({"llama__block_count": Field.uint32(3)}, "it has tensors of layer 3, but block_count is 3"),
        ({"llama__block_count": Field.uint32(5)}, "the tensor blk.4.attn_norm.weight is missing"),
        ({"llama__block_count": Field.uint32(4_000_000_000)}, "the tensor blk.4.attn_norm.weight is missing"),
        (
            {"llama__embedding_length": Field.uint32(128)},
            r"the tensor 'token_embd.weight' has the shape \[256, 512\], but embedding_length is 128",
        ),
    ],
)
def test_what_the_loader_refuses_is_refused(changes: dict[str, Field | None], message: str) -> None:
    with pytest.raises(GgufError, match=f"{message}"):
        check(header(**changes))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (without("blk.2.attn_q.weight"), "the tensor blk.2.attn_q.weight is missing"),
        (
            shaped("blk.2.attn_norm.weight", 32),
            r"'blk.2.attn_norm.weight' has the shape \[32\], but embedding_length is 256",
        ),
        (shaped("token_embd.weight", 256, 500), "it has 512 tokens, but token_embd.weight has 500 rows"),
        (without("token_embd.weight"), "the tensor token_embd.weight is missing"),
        (without("output_norm.weight"), "the tensor output_norm.weight is missing"),
        (
            with_tensors(lambda tensor: replace(tensor, offset=tensor.offset + 32)),
            "'token_embd.weight' is at byte 32 of the data instead of 0",
        ),
        (
            with_tensors(lambda tensor: replace(tensor, name=f"{tensor.name}.{'x' * 60}")),
            "has more than 63 bytes",
        ),
    ],
)
def test_tensors_that_the_loader_refuses_are_refused(broken: GgufHeader, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        check(broken)


@pytest.mark.parametrize("name", ["blk.x.attn_q.weight", "blk.", "blk.1", "blk.99999999999.attn_q.weight"])
def test_an_odd_name_is_no_fault(name: str) -> None:
    whole = header()
    check_tensors(whole.metadata, [*whole.tensors, TensorInfo(name, (32,), TensorType.F32)])


def test_layers_of_experts_may_differ() -> None:
    whole = header(llama__expert_count=Field.uint32(8))
    check_tensors(whole.metadata, [tensor for tensor in whole.tensors if tensor.name != "blk.2.attn_q.weight"])


def test_a_file_that_is_written_anew_gets_a_harmless_name() -> None:
    """llama.cpp takes no `phi-3` from it."""
    misleading = header(general__name=Field.string("My PHI-3 Tune"))
    renamed = without_misleading_name(misleading.metadata)
    assert renamed["general.name"].value == "My PHI 3 Tune"
    assert list(renamed) == list(misleading.metadata)
    check_vocabulary(renamed, misleading.tensors)
    kept = header(general__name=Field.string("Phi-3"), tokenizer__ggml__tokens=Field.strings(PHI3_TEXTS)).metadata
    assert without_misleading_name(kept) == kept
