"""What the created model is told beside its weights, by the version of Ollama."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.config import NO_SETTINGS, ModelSettings
from proxy.errors import Refusal
from proxy.gguf.header import Field, GgufHeader, ValueType
from proxy.gguf.tensors import GgufError
from proxy.planning.capabilities import capabilities_of
from proxy.planning.modelfile import (
    LICENSES,
    MAX_BYTES,
    PLAIN,
    ChatMetadata,
    Modelfile,
    chat_metadata_of_files,
    chat_metadata_of_gguf,
    choose_modelfile,
    files_to_read,
)
from proxy.planning.plan import PlanRequest
from proxy.sources.base import RepositoryFile
from tests.planning.listings import Listing
from tests.planning.test_safetensors import JSON

OLD, NEW = "0.24.0", "0.33.0"
BOTH = pytest.mark.parametrize("version", [OLD, NEW])
JINJA = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
GO = "{{ range .Messages }}<|im_start|>{{ .Content }}<|im_end|>{{ end }}"
CHAT = ChatTemplate(
    GO, ("<|im_end|>",), "<|im_end|>", exact=True, shapes={"user": True, "system": True}, emits_bos=True
)
FAILED = ChatTemplate(warnings=("the chat template cannot be rendered: of a test",))
TOKENS = {1: "<s>", 2: "</s>", 3: "<|im_end|>"}
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": JINJA}
UNSAID = {"repeat_penalty": 1.0, "stop": ["<|im_end|>", "</s>"]}
WORTH_A_LOOK = ("tokenizer_config.json", "generation_config.json", "config.json", "params")


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
    """Of a safetensors repository; `chat` is what probing found, if there is a Jinja at all."""
    contents = encoded({"tokenizer_config.json": CONFIG} | (files or {}))
    metadata = replace(chat_metadata_of_files("acme/model", contents, TOKENS), adds_bos=adds_bos, embeds=embeds)
    probed = chat if metadata.jinja else None
    return choose_modelfile(request(version, settings), architecture, metadata, probed, contents)


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (["model.safetensors", "config.json"], []),
        (["template", "system", "params", "README.md"], ["template", "system", "params", "README.md"]),
        (["sub/template", "sub/LICENSE"], []),
        (["README.md", "LICENSE.txt"], ["LICENSE.txt"]),
        ([*reversed(LICENSES), "README.md"], ["LICENSE"]),
    ],
)
def test_what_is_read(files: list[str], read: list[str]) -> None:
    found = files_to_read(RepositoryFile(path, 10) for path in files)
    assert sorted(file.path for file in found) == sorted(read)


@pytest.mark.parametrize("size", [0, MAX_BYTES + 1])
def test_what_is_empty_or_large_is_not_read(size: int) -> None:
    files = [RepositoryFile("LICENSE", size), RepositoryFile("template", size), RepositoryFile("README.md", 10)]
    assert [file.path for file in files_to_read(files)] == ["README.md"]


@BOTH
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Gemma4ForCausalLM"])
def test_the_users_own_wins_key_by_key(version: str, architecture: str) -> None:
    files = {
        "template": b"theirs",
        "system": b"theirs",
        "params": {"temperature": 0.1, "top_k": 5, "stop": ["theirs"]},
        "generation_config.json": {"temperature": 0.2, "top_p": 0.9, "min_p": 0.1},
        "LICENSE": b"theirs",
    }
    mine = ModelSettings(template="mine", system="", parameters={"top_p": 0.5, "top_k": 7}, license="mine")
    found = chosen(files, version=version, settings=mine, architecture=architecture)
    assert (found.source, found.exact, found.warnings) == ("config", True, ())
    assert (found.settings.template, found.settings.system, found.settings.license) == ("mine", "", "mine")
    assert found.settings.parameters == {
        "temperature": 0.1,
        "top_p": 0.5,
        "min_p": 0.1,
        "top_k": 7,
        "repeat_penalty": 1.0,
        "stop": ["theirs"],
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("template", "mine"),
        ("system", "mine"),
        ("license", ["one", "two"]),
        ("parameters", {"stop": ["mine"]}),
        ("parameters", {"repeat_penalty": 1.3}),
    ],
)
def test_one_key_of_the_users_leaves_the_others(field: str, value: Any) -> None:
    files = {"system": b"theirs", "LICENSE": b"theirs"}
    theirs = chosen(files).settings
    mine = chosen(files, settings=ModelSettings(**{field: value})).settings
    wanted = theirs.parameters | value if field == "parameters" else value
    assert getattr(mine, field) == wanted
    for other in {"template", "system", "parameters", "license"} - {field}:
        assert getattr(mine, other) == getattr(theirs, other)


def test_the_revision_is_kept() -> None:
    assert chosen(settings=ModelSettings(revision="v1")).settings.revision == "v1"


@BOTH
def test_the_repositorys_own_files(version: str) -> None:
    files = {"template": b"\xef\xbb\xbf{{ .Prompt }}!", "system": "Be kind. é".encode(), "params": {"temperature": 0.1}}
    found = chosen(files, version=version, architecture="Gemma4ForCausalLM")
    assert (found.source, found.exact, found.warnings) == ("template", None, ())
    assert (found.settings.template, found.settings.system) == ("{{ .Prompt }}!", "Be kind. é")
    assert found.settings.parameters == UNSAID | {"temperature": 0.1}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"template": b"\xff"}, "acme/model/template is not UTF-8 text"),
        ({"system": b"\xff"}, "acme/model/system is not UTF-8 text"),
        ({"params": b"temperature 1"}, "acme/model/params is not JSON"),
        ({"params": [1]}, "acme/model/params is not a JSON object"),
        ({"generation_config.json": b"{"}, "acme/model/generation_config.json is not JSON"),
        ({"chat_template.jinja": b"\xff"}, "acme/model/chat_template.jinja is not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_refused(files: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        chosen(files)


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
    found = chosen(architecture=architecture, version=version)
    assert (found.source, found.settings.template) == (source, None if source == "ollama" else GO)
    assert (found.exact, found.warnings) == (None if source == "ollama" else True, ())
    assert found.settings.parameters == UNSAID


@pytest.mark.parametrize("version", ["0.30.0", NEW])
@pytest.mark.parametrize("chat", [CHAT, replace(CHAT, exact=False), replace(CHAT, template="", warnings=("in Go",))])
def test_from_0_30_on_the_jinja_goes_into_the_gguf_alone(version: str, chat: ChatTemplate) -> None:
    found = chosen(version=version, chat=chat)
    assert (found.source, found.exact, found.warnings) == ("tokenizer_config.json", True, ())
    assert found.settings.template is None
    assert found.jinja is not None
    opening, _, rest = found.jinja.partition("#}")
    assert opening.startswith("{#")
    assert len(opening) > 100
    assert rest == JINJA


OTHERWISE = replace(CHAT, native={"user": True, "system": False})


def with_jinja(jinja: str) -> dict[str, Any]:
    return {"tokenizer_config.json": CONFIG | {"chat_template": jinja}}


def test_what_llama_server_renders_otherwise_gets_the_go_template_from_0_30_on() -> None:
    found = chosen(version=NEW, chat=OTHERWISE)
    assert (found.settings.template, found.exact, found.warnings) == (GO, True, ())
    assert (found.jinja or "").endswith(JINJA)
    assert chosen(version=NEW, chat=OTHERWISE, adds_bos=False).settings.template == "<s>" + GO


@pytest.mark.parametrize(
    ("chat", "jinja"),
    [
        (replace(OTHERWISE, exact=False), JINJA),
        (OTHERWISE, JINJA + "{{ tools }}"),
        (OTHERWISE, JINJA + "{{ message.tool_calls }}"),
        (OTHERWISE, JINJA + "<think></think>"),
    ],
)
def test_where_nothing_is_exact_a_warning_says_so(chat: ChatTemplate, jinja: str) -> None:
    """Ollama uses the Jinja where that does more than the Go template."""
    found = chosen(with_jinja(jinja), version=NEW, chat=chat)
    assert (found.settings.template, found.exact) == (None, False)
    [warning] = found.warnings
    assert "cannot be rendered exactly by llama-server: these differ: system; set" in warning


def test_a_go_template_that_does_as_much_is_used() -> None:
    jinja = JINJA + "{{ tools }}<think></think>"
    chat = replace(OTHERWISE, capabilities=frozenset(("tools", "thinking", "system")))
    assert chosen(with_jinja(jinja), version=NEW, chat=chat).settings.template == GO


REFUSED = replace(OTHERWISE, native={"user": False, "system": False}, loads=False)


@pytest.mark.parametrize(
    ("chat", "template", "warning"),
    [
        (REFUSED, GO, None),
        (replace(REFUSED, exact=False), GO, "written exactly"),
        (replace(REFUSED, template="", shapes={}), PLAIN, "is not used"),
    ],
)
def test_a_jinja_that_llama_server_refuses_is_left_out(chat: ChatTemplate, template: str, warning: str | None) -> None:
    found = chosen(with_jinja(JINJA + "{{ tools }}"), version=NEW, chat=chat)
    assert (found.settings.template, found.jinja) == (template, None)
    assert [warning in text for text in found.warnings if warning] == ([True] if warning else [])


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
def test_a_text_begins_as_the_template_does_where_that_is_known(
    version: str, chat: ChatTemplate, config: dict[str, Any], adds_bos: bool | None
) -> None:
    assert chosen({"tokenizer_config.json": CONFIG | config}, version=version, chat=chat).adds_bos is adds_bos


@BOTH
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("emits", [True, False])
def test_a_text_without_the_template_begins_as_the_tokenizer_says(version: str, *, adds: bool, emits: bool) -> None:
    """Where a conversation then still has BOS once or not at all; if only one can be right, it is the conversation."""
    found = chosen(version=version, chat=replace(CHAT, emits_bos=emits), adds_bos=adds)
    assert found.adds_bos is (adds and emits)
    if version == OLD:
        assert found.settings.template == ("<s>" if emits and not adds else "") + GO
    else:
        assert found.settings.template is None, "llama-server writes what the Jinja has"
    said = ("a text without the chat template begins without <s>, which this tokenizer would add",)
    assert found.warnings == (said if adds and not emits else ())


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
def test_a_template_that_is_not_ours_gets_its_bos_from_the_model(
    version: str, files: dict[str, Any], settings: ModelSettings, architecture: str, *, adds: bool
) -> None:
    found = chosen(files, version=version, settings=settings, architecture=architecture, adds_bos=adds)
    assert found.adds_bos is True


@pytest.mark.parametrize("version", ["0.12.0", OLD, "0.29.9"])
def test_below_0_30_the_probed_template_and_its_stops(version: str) -> None:
    found = chosen(version=version)
    assert (found.source, found.exact, found.warnings) == ("tokenizer_config.json", True, ())
    assert (found.settings.template, found.settings.parameters) == (GO, UNSAID)
    assert found.jinja == JINJA


@BOTH
def test_a_base_model_continues_texts(version: str) -> None:
    found = chosen({"tokenizer_config.json": {"eos_token": "</s>"}}, version=version)
    assert (found.source, found.exact, found.settings.template) == ("none", None, PLAIN)
    assert found.jinja is None
    assert found.settings.parameters == {"repeat_penalty": 1.0, "stop": ["</s>"]}
    [warning] = found.warnings
    assert "it has no chat template" in warning


def test_an_inexact_template_is_a_warning() -> None:
    found = chosen(chat=replace(CHAT, exact=False, shapes={"user": True, "system": False, "long": False}))
    assert (found.source, found.exact, found.settings.template) == ("tokenizer_config.json", False, GO)
    [warning] = found.warnings
    assert "tokenizer_config.json cannot be written exactly for Ollama" in warning
    assert "system, long" in warning


def test_a_go_template_that_does_not_trim_is_a_warning() -> None:
    chat = replace(CHAT, trims=True)
    [warning] = chosen(chat=chat).warnings
    assert "tokenizer_config.json removes spaces at the ends of messages" in warning
    assert chosen(version=NEW, chat=chat).warnings == ()


@pytest.mark.parametrize(
    ("version", "source", "template", "message"),
    [
        (OLD, "none", PLAIN, "tokenizer_config.json is not used: the chat template cannot be rendered: of a test; set"),
        (NEW, "tokenizer_config.json", None, "tokenizer_config.json could not be checked: the chat template cannot be"),
    ],
)
def test_probing_that_failed_is_a_warning(version: str, source: str, template: str | None, message: str) -> None:
    found = chosen(version=version, chat=FAILED)
    assert (found.source, found.exact, found.settings.template) == (source, False, template)
    [warning] = found.warnings
    assert message in warning
    assert found.settings.parameters == {"repeat_penalty": 1.0, "stop": ["</s>"]}


@pytest.mark.parametrize(
    ("said", "jinja"),
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
def test_of_a_list_the_entry_default_counts(said: Any, jinja: str | None) -> None:
    contents = encoded({"tokenizer_config.json": {"chat_template": said}})
    metadata = chat_metadata_of_files("acme/model", contents, {})
    assert (metadata.jinja, metadata.source) == (jinja, "tokenizer_config.json" if jinja else "none")
    if jinja:
        found = choose_modelfile(request(OLD), "X", metadata, CHAT, contents)
        assert found.jinja == jinja


@BOTH
def test_a_file_of_its_own_wins_over_the_tokenizer_config(version: str) -> None:
    found = chosen({"chat_template.jinja": b"of the file"}, version=version)
    assert found.source == "chat_template.jinja"
    assert found.jinja is not None
    assert found.jinja.endswith("of the file")


def test_a_file_of_its_own_does_without_a_tokenizer_config() -> None:
    contents = {"chat_template.jinja": b"of the file"}
    metadata = chat_metadata_of_files("acme/model", contents, {})
    found = choose_modelfile(request(OLD), "X", metadata, CHAT, contents)
    assert (found.jinja, found.adds_bos) == ("of the file", True)


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_no_template(content: bytes) -> None:
    assert chosen({"chat_template.jinja": content}).source == "tokenizer_config.json"


@BOTH
def test_an_embedding_model_gets_neither_template_nor_parameters(version: str) -> None:
    files = {"generation_config.json": {"temperature": 0.5}, "LICENSE": b"MIT"}
    found = chosen(files, version=version, embeds=True)
    assert found == Modelfile(ModelSettings(license="MIT"), "none", None, JINJA)
    mine = ModelSettings(parameters={"num_ctx": 512})
    assert chosen(files, settings=mine, embeds=True).settings.parameters == {"num_ctx": 512}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, None),
        ({"LICENSE": b"MIT text", "README.md": b"---\nlicense: apache-2.0\n---\n"}, "MIT text"),
        ({"COPYING": b"GPL \xff"}, "GPL \ufffd"),
        ({"LICENSE": b"", "README.md": b"---\nlicense: mit\n---\n"}, "mit"),
        ({"README.md": b"---\ntags:\n- x\nlicense: apache-2.0  # so\n---\ntext"}, "apache-2.0"),
        ({"README.md": b"---\r\nlicense: 'mit'\r\ntags: x\r\n---\r\n"}, "mit"),
        ({"README.md": b'\xef\xbb\xbf---\nlicense: "mit"\n---\n'}, "mit"),
        ({"README.md": b"---\nlicense:\n- mit\n- bsd\n---\n"}, "mit"),
        ({"README.md": b"---\nlicense: [mit, bsd]\n---\n"}, "mit"),
        ({"README.md": b"---\nlicense:\ntags:\n- x\n---\n"}, None),
        ({"README.md": b"---\nlicense_name: x\n---\n"}, None),
        ({"README.md": b"license: mit\n"}, None),
        ({"README.md": b"---\ntags: x\n---\nlicense: mit\n"}, None),
    ],
)
def test_the_license(files: dict[str, bytes], said: str | None) -> None:
    assert chosen(files).settings.license == said


@pytest.mark.parametrize(
    ("params", "stops"),
    [
        ({}, ["<|im_end|>", "</s>"]),
        ({"stop": "one"}, ["one"]),
        ({"stop": ["one", "two"]}, ["one", "two"]),
        ({"stop": []}, []),
        ({"stop": None}, ["<|im_end|>", "</s>"]),
        ({"stop": 5}, ["<|im_end|>", "</s>"]),
        ({"stop": ["one", 5]}, ["one"]),
    ],
)
@BOTH
def test_stop_is_always_a_list_of_texts(params: dict[str, Any], stops: list[str], version: str) -> None:
    assert chosen({"params": params}, version=version).settings.parameters["stop"] == stops


def test_what_the_generation_config_says() -> None:
    said = {
        "eos_token_id": [3, 99, True, "2"],
        "temperature": 0.6,
        "repetition_penalty": 1.05,
        "max_length": 20,
        "max_new_tokens": 10**30,
    }
    files = {"generation_config.json": said, "config.json": {"eos_token_id": 2, "max_position_embeddings": 10**30}}
    found = chosen({"tokenizer_config.json": CONFIG | {"model_max_length": 10**30, "eos_token": None}} | files)
    assert found.settings.parameters == {
        "temperature": 0.6,
        "repeat_penalty": 1.05,
        "stop": ["<|im_end|>", "</s>"],
    }


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


def gguf(**metadata: Field) -> GgufHeader:
    """A dot in a key is written as two underscores."""
    fields = {
        "general.architecture": Field.string("llama"),
        "tokenizer.ggml.tokens": Field.strings(["<unk>", "<s>", "</s>", "<|im_end|>", "a"]),
        "tokenizer.ggml.token_type": Field.array(ValueType.INT32, [2, 3, 3, 4, 1]),
    }
    return GgufHeader(fields | {key.replace("__", "."): field for key, field in metadata.items()}, (), 0)


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


def of_gguf(header: GgufHeader, chat: ChatTemplate | None, version: str) -> Modelfile:
    metadata = chat_metadata_of_gguf(header)
    return choose_modelfile(request(version), "", metadata, chat, {})


@BOTH
def test_a_gguf_gets_the_probed_template_on_every_version(version: str) -> None:
    found = of_gguf(gguf(tokenizer__chat_template=Field.string(JINJA)), CHAT, version)
    assert (found.source, found.exact, found.settings.template) == ("gguf", True, GO)
    assert (found.jinja, found.warnings) == (None, ())
    assert found.settings.parameters == {"repeat_penalty": 1.0, "stop": ["<|im_end|>"]}


@BOTH
@pytest.mark.parametrize(("adds", "begin"), [(False, "<s>"), (True, ""), (None, "")])
def test_where_a_gguf_says_not_to_begin_with_bos_the_template_does(
    version: str, *, adds: bool | None, begin: str
) -> None:
    header = gguf(
        tokenizer__chat_template=Field.string(JINJA),
        tokenizer__ggml__bos_token_id=Field.uint32(1),
        **({} if adds is None else {"tokenizer__ggml__add_bos_token": Field.boolean(adds)}),
    )
    assert of_gguf(header, CHAT, version).settings.template == begin + GO


@BOTH
def test_a_gguf_without_jinja_continues_texts(version: str) -> None:
    found = of_gguf(gguf(), None, version)
    assert (found.source, found.settings.template) == ("none", PLAIN)
    assert "it has no chat template" in found.warnings[0]


@BOTH
@pytest.mark.parametrize("chat", [None, CHAT])
def test_a_gguf_that_embeds_gets_neither_template_nor_parameters(version: str, chat: ChatTemplate | None) -> None:
    header = gguf(
        general__architecture=Field.string("bert"),
        bert__pooling_type=Field.uint32(1),
        **({"tokenizer__chat_template": Field.string(JINJA)} if chat else {}),
    )
    assert of_gguf(header, chat, version) == Modelfile(NO_SETTINGS, "none", None)


TOKEN = st.sampled_from(["<s>", "", "</s>", "\x00"]) | st.fixed_dictionaries({"content": JSON}) | JSON
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "chat_template": st.lists(st.fixed_dictionaries({"name": JSON | st.just("default"), "template": JSON})) | JSON,
        "bos_token": TOKEN,
        "eos_token": TOKEN,
        "pad_token": TOKEN,
        "add_bos_token": JSON,
        "eos_token_id": JSON | st.lists(st.integers(0, 4) | JSON),
        "stop": JSON,
        "temperature": JSON,
        "top_k": JSON,
        "repetition_penalty": JSON,
        "do_sample": JSON,
    },
)


@given(
    st.dictionaries(st.sampled_from(WORTH_A_LOOK), FIELDS | JSON),
    st.dictionaries(st.sampled_from([*WORTH_A_LOOK, "chat_template.jinja", "README.md", "template"]), st.binary()),
    st.sampled_from([CHAT, FAILED]),
    st.sampled_from([OLD, NEW]),
)
def test_anything_gives_a_modelfile_or_a_refusal(
    files: dict[str, Any], raw: dict[str, bytes], chat: ChatTemplate, version: str
) -> None:
    try:
        found = chosen(raw | files, chat=chat, version=version)
    except Refusal:
        return
    stops = found.settings.parameters["stop"]
    assert isinstance(stops, list)
    assert all(isinstance(stop, str) for stop in stops)
    assert found.settings.template is not None or version == NEW
    json.dumps(found.settings.parameters)
