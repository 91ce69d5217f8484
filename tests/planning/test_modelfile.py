"""What a model gets beside its weights and template: system text, parameters, license; and any files at all."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chat.facts import ChatTemplate
from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.errors import Refusal
from proxy.gguf.header import Field
from proxy.planning.modelfile import (
    LICENSES,
    MAX_BYTES,
    Modelfile,
    files_to_read,
)
from proxy.sources.base import RepositoryFile
from tests.kit.modelfiles import (
    BOTH,
    CHAT,
    CONFIG,
    DEFAULT_PARAMETERS,
    FAILED,
    JINJA,
    NEW,
    OLD,
    chosen,
    gguf,
    of_gguf,
)
from tests.planning.test_safetensors import JSON

WORTH_A_LOOK = ("tokenizer_config.json", "generation_config.json", "config.json", "params")


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
    modelfile = files_to_read(RepositoryFile(path, 10) for path in files)
    assert sorted(file.path for file in modelfile) == sorted(read)


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
    modelfile = chosen(files, version=version, settings=mine, architecture=architecture)
    assert (modelfile.source, modelfile.exact, modelfile.warnings) == ("config", True, ())
    assert (modelfile.settings.template, modelfile.settings.system, modelfile.settings.license) == ("mine", "", "mine")
    assert modelfile.settings.parameters == {
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
    expected = theirs.parameters | value if field == "parameters" else value
    assert getattr(mine, field) == expected
    for other in {"template", "system", "parameters", "license"} - {field}:
        assert getattr(mine, other) == getattr(theirs, other)


def test_the_revision_is_kept() -> None:
    assert chosen(settings=ModelSettings(revision="v1")).settings.revision == "v1"


@BOTH
def test_the_repositorys_own_files(version: str) -> None:
    files = {"template": b"\xef\xbb\xbf{{ .Prompt }}!", "system": "Be kind. é".encode(), "params": {"temperature": 0.1}}
    modelfile = chosen(files, version=version, architecture="Gemma4ForCausalLM")
    assert (modelfile.source, modelfile.exact, modelfile.warnings) == ("template", None, ())
    assert (modelfile.settings.template, modelfile.settings.system) == ("{{ .Prompt }}!", "Be kind. é")
    assert modelfile.settings.parameters == DEFAULT_PARAMETERS | {"temperature": 0.1}


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


@BOTH
def test_an_embedding_model_gets_neither_template_nor_parameters(version: str) -> None:
    files = {"generation_config.json": {"temperature": 0.5}, "LICENSE": b"MIT"}
    modelfile = chosen(files, version=version, embeds=True)
    assert modelfile == Modelfile(ModelSettings(license="MIT"), "none", None, JINJA)
    mine = ModelSettings(parameters={"num_ctx": 512})
    assert chosen(files, settings=mine, embeds=True).settings.parameters == {"num_ctx": 512}


@pytest.mark.parametrize(
    ("files", "value"),
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
def test_the_license(files: dict[str, bytes], value: str | None) -> None:
    assert chosen(files).settings.license == value


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
    value = {
        "eos_token_id": [3, 99, True, "2"],
        "temperature": 0.6,
        "repetition_penalty": 1.05,
        "max_length": 20,
        "max_new_tokens": 10**30,
    }
    files = {"generation_config.json": value, "config.json": {"eos_token_id": 2, "max_position_embeddings": 10**30}}
    modelfile = chosen({"tokenizer_config.json": CONFIG | {"model_max_length": 10**30, "eos_token": None}} | files)
    assert modelfile.settings.parameters == {
        "temperature": 0.6,
        "repeat_penalty": 1.05,
        "stop": ["<|im_end|>", "</s>"],
    }


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
        modelfile = chosen(raw | files, chat=chat, version=version)
    except Refusal:
        return
    stops = modelfile.settings.parameters["stop"]
    assert isinstance(stops, list)
    assert all(isinstance(stop, str) for stop in stops)
    assert modelfile.settings.template is not None or version == NEW
    json.dumps(modelfile.settings.parameters)
