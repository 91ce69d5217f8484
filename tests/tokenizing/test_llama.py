"""Tokens by our reading of a GGUF's fields, against digests of those that llama.cpp b10488 made."""

import json

import pytest

from proxy.gguf.header import Field, read_header
from proxy.tokenizing.llama import LlamaTokenizer, UnknownTokenizer
from proxy.tokenizing.splitting import CUTS
from tests.gguf.writing import plan
from tests.tokenizing.make_llama_tokens import CASES, FIGURES, digest, texts_of


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_llama_cpp(case: str) -> None:
    make, name = CASES[case]
    gguf = plan(make(), name=name).header
    tokenizer = LlamaTokenizer(read_header(gguf).metadata)
    expected = json.loads(FIGURES.read_bytes())[case].split()
    for at, (text, wanted) in enumerate(zip(texts_of(gguf), expected, strict=True)):
        found = tokenizer.encode(text, add_special=bool(at % 2))
        assert digest(found) == wanted, (text, found)


def test_every_cut_has_figures() -> None:
    assert CUTS.keys() <= CASES.keys()


@pytest.mark.parametrize(("key", "value"), [("model", "rwkv"), ("pre", "viking")])
def test_another_kind_is_not_imitated(key: str, value: str) -> None:
    metadata = dict(read_header(plan(CASES["llama"][0]()).header).metadata)
    metadata[f"tokenizer.ggml.{key}"] = Field.string(value)
    with pytest.raises(UnknownTokenizer, match=value):
        LlamaTokenizer(metadata)
