"""What tokenizer_config.json and a GGUF say about conversations."""

from typing import Any

import pytest

from proxy.chat.facts import TokenizerFacts
from proxy.gguf.header import Field
from proxy.gguf.tensors import GgufError
from proxy.planning.modelfile import (
    ChatMetadata,
    chat_metadata_of_files,
    chat_metadata_of_gguf,
    choose_modelfile,
)
from tests.kit.modelfiles import BOTH, CHAT, JINJA, OLD, TOKENS, chosen, encoded, gguf, of_gguf, request


@pytest.mark.parametrize(
    ("template", "jinja"),
    [
        ([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}], "plain"),
        ([{"name": "tool_use", "template": "tools"}], None),
        ([{"name": "default", "template": 5}], None),
        ([{"name": ["default"], "template": "x"}, {"name": {}}, 5, None], None),
        ([], None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_of_a_list_the_entry_default_counts(template: Any, jinja: str | None) -> None:
    contents = encoded({"tokenizer_config.json": {"chat_template": template}})
    metadata = chat_metadata_of_files("acme/model", contents, {})
    assert (metadata.jinja, metadata.source) == (jinja, "tokenizer_config.json" if jinja else "none")
    if jinja:
        modelfile = choose_modelfile(request(OLD), "X", metadata, CHAT, contents)
        assert modelfile.jinja == jinja


@BOTH
def test_a_file_of_its_own_wins_over_the_tokenizer_config(version: str) -> None:
    modelfile = chosen({"chat_template.jinja": b"of the file"}, version=version)
    assert modelfile.source == "chat_template.jinja"
    assert modelfile.jinja is not None
    assert modelfile.jinja.endswith("of the file")


def test_a_file_of_its_own_does_without_a_tokenizer_config() -> None:
    contents = {"chat_template.jinja": b"of the file"}
    metadata = chat_metadata_of_files("acme/model", contents, {})
    modelfile = choose_modelfile(request(OLD), "X", metadata, CHAT, contents)
    assert (modelfile.jinja, modelfile.adds_bos) == ("of the file", True)


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_no_template(content: bytes) -> None:
    assert chosen({"chat_template.jinja": content}).source == "tokenizer_config.json"


def test_the_facts_of_a_tokenizer_config() -> None:
    config = {
        "bos_token": {"content": "<s>"},
        "eos_token": {"content": "</s>"},
        "unk_token": 5,
        "pad_token": "<pad>",
        "add_bos_token": True,
    }
    contents = encoded({"tokenizer_config.json": config, "config.json": {"eos_token_id": [2, 3]}})
    assert chat_metadata_of_files("acme/model", contents, TOKENS).facts == TokenizerFacts(
        "<s>", ("</s>", "<|im_end|>"), "", "<pad>", ("<s>", "</s>", "<|im_end|>"), adds_bos=True
    )
    assert chat_metadata_of_files("acme/model", {}, {}) == ChatMetadata(None, "none", TokenizerFacts(), {})


def test_what_a_gguf_brings() -> None:
    header = gguf(
        tokenizer__ggml__bos_token_id=Field.uint32(1),
        tokenizer__ggml__eos_token_id=Field.uint32(3),
        tokenizer__ggml__eot_token_id=Field.uint32(2),
        tokenizer__ggml__unknown_token_id=Field.uint32(0),
        tokenizer__ggml__padding_token_id=Field.uint32(4_000_000),
        tokenizer__ggml__add_bos_token=Field.boolean(True),
        tokenizer__chat_template=Field.string(JINJA),
    )
    facts = TokenizerFacts("<s>", ("<|im_end|>", "</s>"), "<unk>", "", ("<s>", "</s>", "<|im_end|>"), adds_bos=True)
    assert chat_metadata_of_gguf(header) == ChatMetadata(JINJA, "gguf", facts, {}, adds_bos=True)


@BOTH
def test_the_sampling_values_of_a_gguf_become_parameters(version: str) -> None:
    """Ollama reads them itself only from 0.33.3 on, and then our penalty of 1 would win over the authors'."""
    header = gguf(
        general__sampling__temp=Field.float32(0.6),
        general__sampling__top_k=Field.int32(20),
        general__sampling__top_p=Field.float32(0.95),
        general__sampling__min_p=Field.float32(0.05),
        general__sampling__typ_p=Field.float32(0.9),
        general__sampling__penalty_last_n=Field.int32(256),
        general__sampling__penalty_repeat=Field.float32(1.05),
        general__sampling__penalty_present=Field.float32(1.5),
        general__sampling__penalty_freq=Field.float32(0.25),
        general__sampling__mirostat=Field.int32(2),
    )
    assert of_gguf(header, None, version).settings.parameters == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 0.9,
        "repeat_last_n": 256,
        "repeat_penalty": 1.05,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.25,
        "stop": [],
    }


def test_sampling_values_of_a_wrong_kind_are_left_out() -> None:
    header = gguf(general__sampling__temp=Field.string("hot"), general__sampling__top_k=Field.boolean(True))
    assert of_gguf(header, None, OLD).settings.parameters == {"repeat_penalty": 1.0, "stop": []}


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("tokenizer__ggml__tokens", Field.string("x")),
        ("tokenizer__ggml__token_type", Field.uint32(1)),
        ("tokenizer__ggml__add_bos_token", Field.uint32(1)),
        ("tokenizer__chat_template", Field.boolean(True)),
    ],
)
def test_a_gguf_with_metadata_of_a_wrong_kind_is_an_error(key: str, field: Field) -> None:
    with pytest.raises(GgufError, match="is of the kind"):
        chat_metadata_of_gguf(gguf(**{key: field}))
