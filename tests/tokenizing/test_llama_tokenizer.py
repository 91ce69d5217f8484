"""Our tokens for a GGUF's fields equal those of llama.cpp b10488, which are stored as digests."""

import json

import pytest

from proxy.gguf.header import Field, read_header
from proxy.tokenizing.llama_tokenizer import LlamaTokenizer, UnknownTokenizer
from proxy.tokenizing.pre_tokenization import PATTERNS
from tests.gguf.writing import plan
from tests.tokenizing.make_llama_tokens import CASES, DIGESTS, digest, texts_of


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_llama_cpp(case: str) -> None:
    make, name = CASES[case]
    gguf = plan(make(), name=name).header
    tokenizer = LlamaTokenizer(read_header(gguf).metadata)
    digests = json.loads(DIGESTS.read_bytes())[case].split()
    for at, (text, expected) in enumerate(zip(texts_of(gguf), digests, strict=True)):
        ids = tokenizer.encode(text, add_special=bool(at % 2))
        assert digest(ids) == expected, (text, ids)


def test_every_pre_tokenizer_has_digests() -> None:
    assert PATTERNS.keys() <= CASES.keys()


@pytest.mark.parametrize(("key", "value"), [("model", "rwkv"), ("pre", "viking")])
def test_another_tokenizer_is_refused(key: str, value: str) -> None:
    metadata = dict(read_header(plan(CASES["llama"][0]()).header).metadata)
    metadata[f"tokenizer.ggml.{key}"] = Field.string(value)
    with pytest.raises(UnknownTokenizer, match=value):
        LlamaTokenizer(metadata)
