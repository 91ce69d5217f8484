"""What the comparison of tokens with the real Ollama rests on, and tokenizers that llama.cpp has no name for."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.config import CannotConvert
from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES, name_pre_tokenizer
from tests.gguf.cuts import DEVIATIONS, TEXTS, Cut, ending, judge, pre_tokenizer, showing, showing_pieces
from tests.gguf.tiny_repositories.tokenizer import SPACE, edit_tokenizer
from tests.gguf.writing import plan

BY_NAME = {name: cut for cut, name in PRE_TOKENIZER_NAMES.items()}
ALIKE = {"qwen2", "bailingmoe"}
"""Two patterns for the same cuts."""


def numbers(cut: Cut, name: str) -> dict[str, list[int]]:
    """The texts' tokens where the tokens that `name` may have are cut so."""
    encoder = judge(showing(cut, name))
    return {text: encoder.encode(text, add_special_tokens=False).ids for text in TEXTS}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_another_name_would_be_seen_in_the_tokens(name: str) -> None:
    right = numbers(BY_NAME[name], name)
    for other in BY_NAME.keys() - {name} - (ALIKE if name in ALIKE else set()):
        wrong = numbers(BY_NAME[other], name)
        seen = {text for text in TEXTS if right[text] != wrong[text]}
        assert seen - DEVIATIONS.get(name, {}).keys() - DEVIATIONS.get(other, {}).keys(), other


@pytest.mark.parametrize(
    ("cut", "name"),
    PRE_TOKENIZER_NAMES.items(),
    ids=[f"{name}-{at}" for at, name in enumerate(PRE_TOKENIZER_NAMES.values())],
)
def test_what_has_one_name_is_cut_in_one_way(cut: Cut, name: str) -> None:
    tokenizer = showing(cut, name)
    assert name_pre_tokenizer(json.loads(tokenizer.files["tokenizer.json"])) == name
    assert numbers(cut, name) == numbers(BY_NAME[name], name)


def with_tokens(name: str, *texts: str) -> Mapping[str, Any]:
    steps, ignores_merges = BY_NAME[name]
    vocabulary = {text: number for number, text in enumerate(texts)}
    return {
        "pre_tokenizer": pre_tokenizer(steps),
        "model": {"type": "BPE", "ignore_merges": ignores_merges, "vocab": vocabulary},
    }


@pytest.mark.parametrize(
    ("name", "token", "taken"),
    [
        ("deepseek-llm", "7", True),
        ("deepseek-llm", "12", False),
        ("deepseek-llm", "\u00d9\u00a3\u00d9\u00a4", False),  # the bytes of ٣٤
        ("deepseek-llm", "\u00d9\u00a3", True),
        ("deepseek-llm", "a1", True),
        ("falcon", "123", True),
        ("falcon", "\u01201", False),
        ("falcon", "\u00d0\u00bc", False),  # the bytes of м, of which one is ¼ in byte-level BPE
        ("falcon", "\u0120a", True),
        ("smollm", "\u012012", True),
    ],
)
def test_tokens_that_llama_cpp_alone_would_make_are_refused(name: str, token: str, *, taken: bool) -> None:
    if taken:
        assert name_pre_tokenizer(with_tokens(name, token)) == name
        return
    with pytest.raises(CannotConvert, match="tokens that span such splits"):
        name_pre_tokenizer(with_tokens(name, token))


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_words_that_metaspace_cuts_apart_are_refused_without_their_model(scheme: str) -> None:
    """llama.cpp merges over spaces."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": cuts}
        files["tokenizer.json"].update(normalizer=None, pre_tokenizer=step)

    cuts = False
    assert plan(ending("mistral", edit_tokenizer(showing_pieces(model=False), change)))
    cuts = True
    assert plan(ending("mistral", edit_tokenizer(showing_pieces(model=True), change)))
    with pytest.raises(CannotConvert, match="Metaspace"):
        plan(ending("mistral", edit_tokenizer(showing_pieces(model=False), change)))


def test_two_tokens_with_one_text_are_refused() -> None:
    """They end llama.cpp, and with it all of Ollama before 0.30."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        vocabulary = files["tokenizer.json"]["model"]["vocab"]
        vocabulary["<|im_end|>"] = vocabulary.pop("jumping")

    tokenizer = showing(BY_NAME["qwen2"], "qwen2")
    assert plan(ending("mistral", tokenizer))
    with pytest.raises(CannotConvert, match=r"two tokens with the text '<\|im_end\|>'"):
        plan(ending("mistral", edit_tokenizer(tokenizer, change)))
