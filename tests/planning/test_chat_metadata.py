"""What tokenizer_config.json and a GGUF say about conversations."""

import re
from typing import Any

import pytest

from proxy.chat.facts import TokenizerFacts
from proxy.errors import Refusal
from proxy.gguf.header import Field
from proxy.gguf.tensors import GgufError
from proxy.planning.chat_templates import template_files
from proxy.planning.modelfile import (
    ChatMetadata,
    chat_metadata_of_files,
    chat_metadata_of_gguf,
    choose_modelfile,
)
from tests.kit.modelfiles import BOTH, CHAT, JINJA, OLD, TOKENS, chosen, encoded, gguf, of_gguf, request
from tests.planning.listings import listing


def templates(**texts: str) -> dict[str, Any]:
    return {"chat_template": texts}


def listed(**texts: str) -> dict[str, Any]:
    return {"chat_template": [{"name": name, "template": text} for name, text in texts.items()]}


OTHER = "additional_chat_templates/tool_use.jinja"
NAMED_DEFAULT = "additional_chat_templates/default.jinja"
PLACES: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "text": ({"tokenizer_config.json": {"chat_template": "plain"}}, "plain", "tokenizer_config.json"),
    "list": ({"tokenizer_config.json": listed(tool_use="tools", default="plain")}, "plain", "tokenizer_config.json"),
    "object": (
        {"tokenizer_config.json": templates(tool_use="tools", default="plain")},
        "plain",
        "tokenizer_config.json",
    ),
    "only one in a list": ({"tokenizer_config.json": listed(tool_use="tools")}, "tools", "tokenizer_config.json"),
    "only one in an object": ({"tokenizer_config.json": templates(x="one")}, "one", "tokenizer_config.json"),
    "only one file": ({OTHER: b"tools"}, "tools", OTHER),
    "file": ({"chat_template.jinja": b"plain", OTHER: b"tools"}, "plain", "chat_template.jinja"),
    "file before text": (
        {"chat_template.jinja": b"plain", "tokenizer_config.json": {"chat_template": "x"}},
        "plain",
        "chat_template.jinja",
    ),
    "named file before file": ({NAMED_DEFAULT: b"plain", "chat_template.jinja": b"x"}, "plain", NAMED_DEFAULT),
    "default before other files": (
        {OTHER: b"tools", "tokenizer_config.json": {"chat_template": "plain"}},
        "plain",
        "tokenizer_config.json",
    ),
    "processor": ({"processor_config.json": {"chat_template": "plain"}}, "plain", "processor_config.json"),
    "old processor": ({"chat_template.json": {"chat_template": "plain"}}, "plain", "chat_template.json"),
    "tokenizer before processor": (
        {"tokenizer_config.json": {"chat_template": "plain"}, "chat_template.json": {"chat_template": "x"}},
        "plain",
        "tokenizer_config.json",
    ),
    "processor before old processor": (
        {"processor_config.json": {"chat_template": "plain"}, "chat_template.json": {"chat_template": "x"}},
        "plain",
        "processor_config.json",
    ),
    "object of an old processor": ({"chat_template.json": templates(default="plain")}, "plain", "chat_template.json"),
    "no text": ({"tokenizer_config.json": {"chat_template": [{"name": "default", "template": 5}]}}, None, "none"),
    "no names": (
        {"tokenizer_config.json": {"chat_template": [{"name": ["default"], "template": "x"}, {"name": {}}, 5, None]}},
        None,
        "none",
    ),
    "empty list": ({"tokenizer_config.json": {"chat_template": []}}, None, "none"),
    "empty text": ({"tokenizer_config.json": {"chat_template": ""}}, None, "none"),
    "null": ({"tokenizer_config.json": {"chat_template": None}}, None, "none"),
    "number": ({"tokenizer_config.json": {"chat_template": 7}}, None, "none"),
    "another folder": ({"sub/chat_template.jinja": b"x", "additional_chat_templates/a/b.jinja": b"x"}, None, "none"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_template_is_where_transformers_reads_it(place: str) -> None:
    files, jinja, source = PLACES[place]
    contents = encoded(files)
    metadata = chat_metadata_of_files("acme/model", contents, {})
    assert (metadata.jinja, metadata.source, metadata.unchosen) == (jinja, source, ())
    if jinja:
        assert choose_modelfile(request(OLD), "X", metadata, CHAT, contents).jinja == jinja
        read = [file.path for file in template_files("acme/model", listing(*files).files)]
        assert source in [*read, "tokenizer_config.json"]


@BOTH
@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": listed(tool_use="tools", rag="grounded")},
        {"tokenizer_config.json": templates(tool_use="tools", rag="grounded")},
        {OTHER: b"tools", "additional_chat_templates/rag.jinja": b"grounded", "tokenizer_config.json": {}},
        {"tokenizer_config.json": {}, "chat_template.json": templates(tool_use="tools", rag="grounded")},
    ],
)
def test_several_templates_without_a_default_are_named(files: dict[str, Any], version: str) -> None:
    modelfile = chosen(files, version=version)
    assert (modelfile.source, modelfile.jinja) == ("none", None)
    [warning] = modelfile.warnings
    named = re.search(r"none of its chat templates \((.*)\) is the default", warning)
    assert named
    assert sorted(named[1].split(", ")) == ["rag", "tool_use"]


def test_a_template_that_counts_has_to_be_readable() -> None:
    broken = {"processor_config.json": b"{", "tokenizer_config.json": {"chat_template": "plain"}}
    assert chosen(broken).jinja == "plain"
    with pytest.raises(Refusal, match="acme/model/processor_config.json is not JSON"):
        chosen(broken | {"tokenizer_config.json": {}})
    with pytest.raises(Refusal, match="tool_use.jinja is not UTF-8 text"):
        chosen({OTHER: b"\xff"})
    with pytest.raises(Refusal, match="unsafe file"):
        template_files("acme/model", listing("additional_chat_templates/a\\b.jinja").files)


def test_the_templates_of_a_gguf() -> None:
    names = Field.strings(["tool_use", "rag"])
    tools = {"tokenizer__chat_template.tool_use": Field.string("tools")}
    found = chat_metadata_of_gguf(gguf(tokenizer__chat_templates=names, **tools))
    assert (found.jinja, found.source) == ("tools", "gguf")
    grounded = {"tokenizer__chat_template.rag": Field.string("grounded")}
    found = chat_metadata_of_gguf(gguf(tokenizer__chat_templates=names, **tools, **grounded))
    assert (found.jinja, found.source, found.unchosen) == (None, "gguf", ("tool_use", "rag"))
    plain = {"tokenizer__chat_template": Field.string("plain")}
    assert chat_metadata_of_gguf(gguf(tokenizer__chat_templates=names, **tools, **plain)).jinja == "plain"


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
