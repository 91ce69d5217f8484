"""Modelfiles for tests: chat metadata of tiny repositories, and the choice from it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.chat.facts import ChatTemplate
from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.gguf.header import Field, GgufHeader, ValueType
from proxy.planning.capabilities import capabilities_of
from proxy.planning.modelfile import (
    Modelfile,
    chat_metadata_of_files,
    chat_metadata_of_gguf,
    choose_modelfile,
)
from proxy.planning.plan import PlanRequest
from tests.planning.listings import Listing

OLD, NEW = "0.24.0", "0.33.0"
BOTH = pytest.mark.parametrize("version", [OLD, NEW])
JINJA = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
GO = "{{ range .Messages }}<|im_start|>{{ .Content }}<|im_end|>{{ end }}"
RIGHT = {"user": True, "system": True}
CHAT = ChatTemplate(GO, ("<|im_end|>",), "<|im_end|>", exact=True, shapes=RIGHT, native=RIGHT, emits_bos=True)
FAILED = ChatTemplate(warnings=("the chat template cannot be rendered: of a test",))
TOKENS = {1: "<s>", 2: "</s>", 3: "<|im_end|>"}
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": JINJA}
DEFAULT_PARAMETERS = {"repeat_penalty": 1.0, "stop": ["<|im_end|>", "</s>"]}


def encoded(files: dict[str, Any]) -> dict[str, bytes]:
    return {
        path: content if isinstance(content, bytes) else json.dumps(content).encode() for path, content in files.items()
    }


def request(version: str, settings: ModelSettings = NO_SETTINGS) -> PlanRequest:
    return PlanRequest("hf.co/acme/model", Listing(()), settings, capabilities_of(version))


def chosen(
    files: dict[str, Any] | None = None,
    *,
    version: str = OLD,
    chat: ChatTemplate | None = CHAT,
    settings: ModelSettings = NO_SETTINGS,
    architecture: str = "LlamaForCausalLM",
    adds_bos: bool | None = None,
    embeds: bool = False,
) -> Modelfile:
    """The Modelfile for a safetensors repository. `chat` is the probed template; it needs a Jinja template.

    Each argument is one input of the choice. A test names only those that it changes.
    """
    contents = encoded({"tokenizer_config.json": CONFIG} | (files or {}))
    metadata = replace(chat_metadata_of_files("acme/model", contents, TOKENS), adds_bos=adds_bos, embeds=embeds)
    probed = chat if metadata.jinja else None
    return choose_modelfile(request(version, settings), architecture, metadata, probed, contents)


def gguf(**metadata: Field) -> GgufHeader:
    """A header with more metadata. Two underscores in a key stand for a dot."""
    fields = {
        "general.architecture": Field.string("llama"),
        "tokenizer.ggml.tokens": Field.strings(["<unk>", "<s>", "</s>", "<|im_end|>", "a"]),
        "tokenizer.ggml.token_type": Field.array(ValueType.INT32, [2, 3, 3, 4, 1]),
    }
    return GgufHeader(fields | {key.replace("__", "."): field for key, field in metadata.items()}, (), 0)


def of_gguf(header: GgufHeader, chat: ChatTemplate | None, version: str) -> Modelfile:
    metadata = chat_metadata_of_gguf(header)
    return choose_modelfile(request(version), "", metadata, chat, {})
