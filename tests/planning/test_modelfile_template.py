"""Which template a model gets, and whether its texts begin with BOS, by the version of Ollama."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.chat.facts import ChatTemplate
from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.gguf.header import Field
from proxy.planning.modelfile import OPENING, PLAIN
from tests.kit.modelfiles import (
    BOTH,
    CHAT,
    CONFIG,
    DEFAULT_PARAMETERS,
    FAILED,
    GO,
    JINJA,
    NEW,
    OLD,
    chosen,
    gguf,
    of_gguf,
)


@pytest.mark.parametrize(
    ("architecture", "version", "source"),
    [
        ("Gemma4ForCausalLM", "0.20.0", "ollama"),
        ("Gemma4ForCausalLM", "0.19.9", "tokenizer_config.json"),
        ("Gemma4ForConditionalGeneration", OLD, "ollama"),
        ("Gemma4ForConditionalGeneration", NEW, "ollama"),
        # Ollama has two forms for it, and takes the first for every Laguna.
        ("LagunaForCausalLM", OLD, "tokenizer_config.json"),
        ("NemotronHForCausalLM", "0.21.9", "tokenizer_config.json"),
        ("NemotronHForCausalLM", "0.22.0", "ollama"),
        ("NemotronHForCausalLM", NEW, "ollama"),
        ("Gemma3ForCausalLM", OLD, "tokenizer_config.json"),
    ],
)
def test_what_ollama_renders_itself_gets_no_template(architecture: str, version: str, source: str) -> None:
    modelfile = chosen(architecture=architecture, version=version)
    assert (modelfile.source, modelfile.settings.template) == (source, None if source == "ollama" else GO)
    assert (modelfile.exact, modelfile.warnings) == (None if source == "ollama" else True, ())
    assert modelfile.settings.parameters == DEFAULT_PARAMETERS


@pytest.mark.parametrize("version", ["0.30.0", NEW])
@pytest.mark.parametrize("chat", [CHAT, replace(CHAT, exact=False), replace(CHAT, template="", warnings=("in Go",))])
def test_from_0_30_on_the_jinja_goes_into_the_gguf_alone(version: str, chat: ChatTemplate) -> None:
    modelfile = chosen(version=version, chat=chat)
    assert (modelfile.source, modelfile.exact, modelfile.warnings) == ("tokenizer_config.json", True, ())
    assert modelfile.settings.template is None
    assert modelfile.jinja == OPENING + JINJA


OTHERWISE = replace(CHAT, native={"user": True, "system": False})
USER_ONLY = {"user": True, "system": False}


def with_jinja(jinja: str) -> dict[str, Any]:
    return {"tokenizer_config.json": CONFIG | {"chat_template": jinja}}


def test_jinja_that_llama_server_renders_wrongly_needs_go() -> None:
    modelfile = chosen(version=NEW, chat=OTHERWISE)
    assert (modelfile.settings.template, modelfile.exact, modelfile.warnings) == (GO, True, ())
    assert (modelfile.jinja or "").endswith(JINJA)
    assert chosen(version=NEW, chat=OTHERWISE, adds_bos=False).settings.template == "<s>" + GO


@pytest.mark.parametrize(
    ("shapes", "native", "template", "differing"),
    [
        ({"user": True, "turns": True, "long": False}, {"user": True, "turns": False, "long": False}, GO, "long"),
        ({"user": True, "turns": False, "long": False}, {"user": True, "turns": True, "long": False}, None, "long"),
        ({"user": True, "turns": False}, {"user": False, "turns": True}, None, "user"),
        # Only the kinds that are known of both count.
        ({"user": True, "tools": True}, {"user": True, "thinking off": False}, None, "thinking off"),
        ({"user": True, "tools": False}, {"user": False}, GO, "tools"),
        ({"user": True, "thinking off": True}, {"user": True, "thinking off": False}, GO, ""),
        ({}, {"user": False, "system": True}, None, "user"),
    ],
)
def test_of_two_inexact_ones_the_better_is_used(
    shapes: dict[str, bool], native: dict[str, bool], template: str | None, differing: str
) -> None:
    modelfile = chosen(version=NEW, chat=replace(CHAT, exact=False, shapes=shapes, native=native))
    assert (modelfile.settings.template, modelfile.exact) == (template, not differing)
    assert len(modelfile.warnings) == bool(differing)
    assert all(f"these differ: {differing};" in warning for warning in modelfile.warnings)


@pytest.mark.parametrize(
    ("chat", "jinja"),
    [
        (replace(OTHERWISE, exact=False, shapes=USER_ONLY), JINJA),
        (OTHERWISE, JINJA + "{{ tools }}"),
        (OTHERWISE, JINJA + "{{ message.tool_calls }}"),
        (OTHERWISE, JINJA + "<think></think>"),
        (OTHERWISE, JINJA + "{{ m.content.split('</think>')[-1] }}"),
    ],
)
def test_where_nothing_is_exact_a_warning_says_so(chat: ChatTemplate, jinja: str) -> None:
    """Ollama prefers the Jinja if it supports more than the Go template."""
    modelfile = chosen(with_jinja(jinja), version=NEW, chat=chat)
    assert (modelfile.settings.template, modelfile.exact) == (None, False)
    [warning] = modelfile.warnings
    assert "cannot be rendered exactly by llama-server: these differ: system; set" in warning


@pytest.mark.parametrize(
    ("jinja", "go", "is_used"),
    [
        ("{{ tools }}<think></think>", "{{ .ToolCalls }}", True),
        ("{{ tools }}<think></think>", "", False),
        ("{{ tools }}<think></think>[CALL_ID]{{ tool_call.id }}", "{{ .ToolCalls }}", False),
        ("<think></think>", "", True),
    ],
)
def test_a_go_template_that_does_as_much_is_used(jinja: str, go: str, *, is_used: bool) -> None:
    chat = replace(OTHERWISE, template=GO + go, capabilities=frozenset(("tools", "thinking", "system")))
    modelfile = chosen(with_jinja(JINJA + jinja), version=NEW, chat=chat)
    assert modelfile.settings.template == (GO + go if is_used else None)


REFUSED = replace(OTHERWISE, native={"user": False, "system": False}, loads=False)


@pytest.mark.parametrize(
    ("chat", "template", "warning"),
    [
        (REFUSED, GO, None),
        (replace(REFUSED, exact=False, shapes=USER_ONLY), GO, "written exactly"),
        (replace(REFUSED, template="", shapes={}), PLAIN, "is not used"),
    ],
)
def test_a_jinja_that_llama_server_refuses_is_left_out(chat: ChatTemplate, template: str, warning: str | None) -> None:
    modelfile = chosen(with_jinja(JINJA + "{{ tools }}"), version=NEW, chat=chat)
    assert (modelfile.settings.template, modelfile.jinja) == (template, None)
    assert [warning in text for text in modelfile.warnings if warning] == ([True] if warning else [])


@BOTH
@pytest.mark.parametrize(
    ("chat", "config", "adds_bos"),
    [
        (CHAT, {}, True),
        (replace(CHAT, emits_bos=False), {}, False),
        (replace(CHAT, emits_bos=False), {"bos_token": None}, None),
        (CHAT, {"bos_token": None}, True),
        (CHAT, {"add_bos_token": False}, True),
        (FAILED, {"add_bos_token": True}, None),
        (FAILED, {}, None),
    ],
)
def test_a_text_begins_as_the_templates_conversations(
    version: str, chat: ChatTemplate, config: dict[str, Any], adds_bos: bool | None
) -> None:
    assert chosen({"tokenizer_config.json": CONFIG | config}, version=version, chat=chat).adds_bos is adds_bos


@BOTH
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("emits", [True, False])
def test_a_plain_text_begins_as_with_the_tokenizer(version: str, *, adds: bool, emits: bool) -> None:
    """If a plain text and a conversation cannot both be right, the conversation is."""
    modelfile = chosen(version=version, chat=replace(CHAT, emits_bos=emits), adds_bos=adds)
    assert modelfile.adds_bos is (adds and emits)
    if version == OLD:
        assert modelfile.settings.template == ("<s>" if emits and not adds else "") + GO
    else:
        assert modelfile.settings.template is None, "llama-server writes what the Jinja has"
    warning = ("a text without the chat template begins without <s>, which this tokenizer would add",)
    assert modelfile.warnings == (warning if adds and not emits else ())


@BOTH
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize(
    ("files", "settings", "architecture"),
    [
        ({"template": b"theirs"}, NO_SETTINGS, "LlamaForCausalLM"),
        ({}, ModelSettings(template="mine"), "LlamaForCausalLM"),
        ({}, NO_SETTINGS, "Gemma4ForCausalLM"),
    ],
)
def test_a_foreign_template_gets_bos_from_the_model(
    version: str, files: dict[str, Any], settings: ModelSettings, architecture: str, *, adds: bool
) -> None:
    modelfile = chosen(files, version=version, settings=settings, architecture=architecture, adds_bos=adds)
    assert modelfile.adds_bos is True


@pytest.mark.parametrize("version", ["0.12.0", OLD, "0.29.9"])
def test_below_0_30_the_probed_template_and_its_stops(version: str) -> None:
    modelfile = chosen(version=version)
    assert (modelfile.source, modelfile.exact, modelfile.warnings) == ("tokenizer_config.json", True, ())
    assert (modelfile.settings.template, modelfile.settings.parameters) == (GO, DEFAULT_PARAMETERS)
    assert modelfile.jinja == JINJA


@BOTH
def test_a_base_model_continues_texts(version: str) -> None:
    modelfile = chosen({"tokenizer_config.json": {"eos_token": "</s>"}}, version=version)
    assert (modelfile.source, modelfile.exact, modelfile.settings.template) == ("none", None, PLAIN)
    assert modelfile.jinja is None
    assert modelfile.settings.parameters == {"repeat_penalty": 1.0, "stop": ["</s>"]}
    [warning] = modelfile.warnings
    assert "it has no chat template" in warning


def test_an_inexact_template_is_a_warning() -> None:
    shapes = {"user": True, "system": False, "long": False, "late system": False}
    modelfile = chosen(chat=replace(CHAT, exact=False, shapes=shapes))
    assert (modelfile.source, modelfile.exact, modelfile.settings.template) == ("tokenizer_config.json", False, GO)
    [warning] = modelfile.warnings
    assert "tokenizer_config.json cannot be written exactly for Ollama" in warning
    assert "system, long" in warning


def test_a_go_template_that_does_not_trim_is_a_warning() -> None:
    chat = replace(CHAT, trims=True)
    [warning] = chosen(chat=chat).warnings
    assert "tokenizer_config.json removes spaces at the ends of messages" in warning
    assert chosen(version=NEW, chat=chat).warnings == (), "llama-server renders the Jinja"
    assert chosen(version=NEW, chat=replace(OTHERWISE, trims=True)).warnings == (warning,), "Ollama renders in Go"


@pytest.mark.parametrize(
    ("version", "source", "template", "message"),
    [
        (OLD, "none", PLAIN, "tokenizer_config.json is not used: the chat template cannot be rendered: of a test; set"),
        (NEW, "tokenizer_config.json", None, "tokenizer_config.json could not be checked: the chat template cannot be"),
    ],
)
def test_probing_that_failed_is_a_warning(version: str, source: str, template: str | None, message: str) -> None:
    modelfile = chosen(version=version, chat=FAILED)
    assert (modelfile.source, modelfile.exact, modelfile.settings.template) == (source, False, template)
    [warning] = modelfile.warnings
    assert message in warning
    assert modelfile.settings.parameters == {"repeat_penalty": 1.0, "stop": ["</s>"]}


@BOTH
def test_a_gguf_gets_the_probed_template_on_every_version(version: str) -> None:
    modelfile = of_gguf(gguf(tokenizer__chat_template=Field.string(JINJA)), CHAT, version)
    assert (modelfile.source, modelfile.exact, modelfile.settings.template) == ("gguf", True, GO)
    assert (modelfile.jinja, modelfile.warnings) == (None, ())
    assert modelfile.settings.parameters == {"repeat_penalty": 1.0, "stop": ["<|im_end|>"]}


@BOTH
@pytest.mark.parametrize(("adds", "begin"), [(False, "<s>"), (True, ""), (None, "")])
def test_without_add_bos_in_a_gguf_the_template_writes_bos(version: str, *, adds: bool | None, begin: str) -> None:
    header = gguf(
        tokenizer__chat_template=Field.string(JINJA),
        tokenizer__ggml__bos_token_id=Field.uint32(1),
        **({} if adds is None else {"tokenizer__ggml__add_bos_token": Field.boolean(adds)}),
    )
    assert of_gguf(header, CHAT, version).settings.template == begin + GO


@BOTH
def test_a_gguf_without_jinja_continues_texts(version: str) -> None:
    modelfile = of_gguf(gguf(), None, version)
    assert (modelfile.source, modelfile.settings.template) == ("none", PLAIN)
    assert "it has no chat template" in modelfile.warnings[0]
