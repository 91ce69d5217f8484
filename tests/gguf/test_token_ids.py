"""Checks the tokenizers that tests/real compares with Ollama, and refusals of pre-tokenizers that llama.cpp lacks."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES, name_pre_tokenizer
from tests.gguf.pre_tokenizer_cases import (
    DEVIATIONS,
    TEXTS,
    PreTokenizer,
    covering_bpe,
    covering_pieces,
    load_tokenizer,
    pre_tokenizer_json,
    silent_repository,
)
from tests.gguf.tiny_repositories.tokenizer import SPACE, edit_tokenizer
from tests.gguf.writing import plan

BY_NAME = {name: pre_tokenizer for pre_tokenizer, name in PRE_TOKENIZER_NAMES.items()}
EQUIVALENT = {"qwen2", "bailingmoe"}
"""Two patterns that split all texts alike."""


@cache
def token_ids(pre_tokenizer: PreTokenizer, name: str) -> dict[str, list[int]]:
    encoder = load_tokenizer(covering_bpe(pre_tokenizer, name))
    return {text: encoder.encode(text, add_special_tokens=False).ids for text in TEXTS}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_wrong_name_changes_the_tokens(name: str) -> None:
    right = token_ids(BY_NAME[name], name)
    for other in BY_NAME.keys() - {name} - (EQUIVALENT if name in EQUIVALENT else set()):
        wrong = token_ids(BY_NAME[other], name)
        differing = {text for text in TEXTS if right[text] != wrong[text]}
        assert differing - DEVIATIONS.get(name, {}).keys() - DEVIATIONS.get(other, {}).keys(), other


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    PRE_TOKENIZER_NAMES.items(),
    ids=[f"{name}-{at}" for at, name in enumerate(PRE_TOKENIZER_NAMES.values())],
)
def test_all_forms_of_one_name_split_alike(pre_tokenizer: PreTokenizer, name: str) -> None:
    tokenizer = covering_bpe(pre_tokenizer, name)
    assert name_pre_tokenizer(json.loads(tokenizer.files["tokenizer.json"])) == name
    assert token_ids(pre_tokenizer, name) == token_ids(BY_NAME[name], name)


def with_tokens(name: str, *texts: str) -> Mapping[str, Any]:
    steps, ignores_merges = BY_NAME[name]
    vocabulary = {text: token_id for token_id, text in enumerate(texts)}
    return {
        "pre_tokenizer": pre_tokenizer_json(steps),
        "model": {"type": "BPE", "ignore_merges": ignores_merges, "vocab": vocabulary},
    }


@pytest.mark.parametrize(
    ("name", "token", "accepted"),
    [
        ("deepseek-llm", "7", True),
        ("deepseek-llm", "12", False),
        ("deepseek-llm", "\u00d9\u00a3\u00d9\u00a4", False),  # the bytes of ٣٤
        ("deepseek-llm", "\u00d9\u00a3", True),
        ("deepseek-llm", "a1", True),
        ("falcon", "123", True),
        ("falcon", "\u01201", False),
        ("falcon", "\u00d0\u00bc", False),  # the bytes of м, one of which looks like ¼ in byte-level BPE
        ("falcon", "\u0120a", True),
        ("smollm", "\u012012", True),
        ("tiny_aya", "aB", False),
        ("tiny_aya", "ABc", True),
        ("tiny_aya", "\u0120a", True),
        ("tiny_aya", "\u00d0\u00b1\u00d0\u0133", False),  # the bytes of бБ
    ],
)
def test_token_that_only_llama_cpp_makes_is_refused(name: str, token: str, *, accepted: bool) -> None:
    if accepted:
        assert name_pre_tokenizer(with_tokens(name, token)) == name
        return
    with pytest.raises(CannotConvert, match="tokens that span such splits"):
        name_pre_tokenizer(with_tokens(name, token))


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_metaspace_with_split_needs_tokenizer_model(scheme: str) -> None:
    """llama.cpp merges over spaces."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": splits}
        files["tokenizer.json"].update(normalizer=None, pre_tokenizer=step)

    splits = False
    assert plan(silent_repository("mistral", edit_tokenizer(covering_pieces(model=False), change)))
    splits = True
    assert plan(silent_repository("mistral", edit_tokenizer(covering_pieces(model=True), change)))
    with pytest.raises(CannotConvert, match="Metaspace"):
        plan(silent_repository("mistral", edit_tokenizer(covering_pieces(model=False), change)))


def test_two_tokens_with_one_text_are_refused() -> None:
    """llama.cpp aborts, and before 0.30 all of Ollama with it."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        vocabulary = files["tokenizer.json"]["model"]["vocab"]
        vocabulary["<|im_end|>"] = vocabulary.pop("jumping")

    tokenizer = covering_bpe(BY_NAME["qwen2"], "qwen2")
    assert plan(silent_repository("mistral", tokenizer))
    with pytest.raises(CannotConvert, match=r"two tokens with the text '<\|im_end\|>'"):
        plan(silent_repository("mistral", edit_tokenizer(tokenizer, change)))
