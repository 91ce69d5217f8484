"""The plan: which files, which quantization, which template, and what is refused before a byte moves."""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config import NO_SETTINGS, ModelSettings, Quantization
from proxy.errors import Refusal
from proxy.pull.plan import (
    CHAT_TEMPLATE,
    READABLE_BYTES,
    TOKENIZER_CONFIG,
    check_readable,
    choose_files,
    choose_quantization,
    is_native,
    make_plan,
)
from proxy.pull.reference import ModelReference
from proxy.sources.base import RepositoryFile

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

LFS = "0" * 64


@dataclass(frozen=True)
class Listing:
    """A repository that only lists: the plan is pure."""

    files: tuple[RepositoryFile, ...]
    id: str = "acme/model"
    commit: str = "c" * 40

    def stream(
        self,
        file: RepositoryFile,
        start: int = 0,  # noqa: ARG002
        stop: int | None = None,  # noqa: ARG002
    ) -> "AbstractAsyncContextManager[Any]":
        raise AssertionError(f"the plan fetched {file.path}")


def listing(*paths: str) -> Listing:
    return Listing(
        tuple(
            RepositoryFile(path, 10, sha256=LFS) if path.endswith(".safetensors") else RepositoryFile(path, 10)
            for path in paths
        )
    )


def index(*shards: object) -> bytes:
    return json.dumps({"weight_map": {f"t{number}": shard for number, shard in enumerate(shards)}}).encode()


def reference(tag: str = "latest") -> ModelReference:
    return ModelReference("hf.co", "acme/model", tag)


BASE = ("config.json", "tokenizer.json")


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model-00001-of-00001.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "original/model.safetensors", "onnx/model.safetensors"], ["model.safetensors"]),
    ],
)
def test_without_an_index_one_family_of_weights_is_taken(present: list[str], chosen: list[str]) -> None:
    selection = choose_files(listing(*present, *BASE), None)
    assert [file.path for file in selection.weights] == chosen


def test_with_an_index_exactly_its_shards_are_taken() -> None:
    repository = listing("model-a.safetensors", "model-b.safetensors", "model.safetensors", "old.safetensors", *BASE)
    selection = choose_files(repository, index("model-b.safetensors", "model-a.safetensors", "model-b.safetensors"))
    assert [file.path for file in selection.weights] == ["model-a.safetensors", "model-b.safetensors"]


def test_the_companions_are_what_ollama_reads_and_nothing_else() -> None:
    repository = listing(
        "model.safetensors",
        *BASE,
        "tokenizer.model",
        "generation_config.json",
        "1_Pooling/config.json",
        "README.md",
        "original/params.json",
        "vocab.json",
        "pytorch_model.bin",
        "onnx/config.json",
    )
    paths = [file.path for file in choose_files(repository, None).companions]
    assert paths == [
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "generation_config.json",
        "1_Pooling/config.json",
    ]


@pytest.mark.parametrize(
    "path", ["../x.safetensors", "/x.safetensors", "a\\x.safetensors", "x\0.safetensors", "a//b", ""]
)
def test_an_unsafe_path_in_the_index_is_refused(path: str) -> None:
    with pytest.raises(Refusal, match="unsafe file"):
        choose_files(listing("model.safetensors", *BASE), index("model.safetensors", path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (index("gone.safetensors"), "names gone.safetensors, which the repository does not have"),
        (index("sub/model.safetensors"), "reads only"),
        (index(5), "unsafe file"),
        (index(["model.safetensors"]), "unsafe file"),
        (b"{}", "names no shards"),
        (b'{"weight_map": []}', "names no shards"),
        (b"[1]", "not a JSON object"),
        (b"\xff", "is not JSON"),
    ],
)
def test_a_broken_index_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=message) as error:
        choose_files(listing("model.safetensors", "sub/model.safetensors", *BASE), content)
    assert "acme/model/model.safetensors.index.json" in str(error.value)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([*BASE, "pytorch_model.bin"], "no safetensors weights"),
        ([*BASE, "adapter_model.safetensors"], "no safetensors weights"),
        (["model.safetensors", "tokenizer.json"], "no config.json"),
        (["model.safetensors", "config.json", "vocab.json"], "no tokenizer"),
    ],
)
def test_a_repository_that_cannot_become_a_model_is_refused(present: list[str], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        choose_files(listing(*present), None)


def test_files_without_a_sha256_are_refused_where_they_would_fill_the_memory() -> None:
    shards = [
        RepositoryFile(f"model-{number}-of-9.safetensors", READABLE_BYTES // 8, git_sha1="1" * 40)
        for number in range(9)
    ]
    selection = choose_files(Listing((*shards, *listing(*BASE).files)), None)
    with pytest.raises(Refusal, match="acme/model/model-0-of-9.safetensors has 8388608 bytes"):
        check_readable("acme/model", selection.to_read)
    check_readable("acme/model", selection.to_read[:7])


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("latest", "Q4_K_M"), ("LATEST", "Q4_K_M"), ("q8_0", "Q8_0"), ("bF16", "BF16"), ("F32", "F32")],
)
def test_a_tag_is_a_quantization_in_any_case(tag: str, expected: str) -> None:
    assert choose_quantization(tag, Quantization.Q4_K_M) == expected


def test_a_quantization_that_ollama_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(Refusal, match="Q5_K_M.*F32, F16, BF16, Q8_0, Q4_K_S, Q4_K_M"):
        choose_quantization("Q5_K_M", Quantization.Q4_K_M)


@pytest.mark.parametrize(
    ("tag", "paths", "native"),
    [
        ("latest", ["m.Q4_K_M.gguf"], True),
        ("latest", ["m.Q4_K_M.gguf", "model.safetensors"], False),
        ("q4_k_m", ["m.Q4_K_M.gguf", "model.safetensors"], True),
        ("Q4_K_M", ["Q4_K_M/m-00001-of-00002.gguf", "model.safetensors"], True),
        ("m.Q4_K_M.gguf", ["m.Q4_K_M.gguf", "model.safetensors"], True),
        ("Q8_0", ["m.Q4_K_M.gguf", "model.safetensors"], False),
        ("Q4_K", ["m-Q4_K_M.gguf", "model.safetensors"], False),
        ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "model.safetensors"], False),
        ("F16", ["m-BF16.gguf", "model.safetensors"], False),
        ("latest", ["latest.gguf", "model.safetensors"], False),
        ("latest", ["pytorch_model.bin"], False),
        ("latest", ["adapter_model.safetensors", "m.Q4_K_M.gguf"], True),
        ("latest", ["onnx/model.safetensors", "m.Q4_K_M.gguf"], True),
        ("latest", ["model.safetensors.index.json", "m.Q4_K_M.gguf"], False),
    ],
)
def test_a_gguf_goes_to_ollama_where_there_is_nothing_else_or_the_tag_names_it(
    tag: str, paths: list[str], native: bool
) -> None:
    assert is_native(reference(tag), listing(*paths).files) is native


def planned(
    contents: dict[str, bytes],
    settings: ModelSettings = NO_SETTINGS,
    quantization: Quantization = Quantization.Q8_0,
) -> Any:
    repository = listing("model.safetensors", *BASE, *(path for path in contents if path not in BASE))
    selection = choose_files(repository, None)
    given = {"config.json": b"{}", "tokenizer.json": b"{}"} | contents
    assert {file.path for file in selection.to_read} == set(given)
    return make_plan(reference("q8_0"), repository, quantization, selection, given, settings)


def test_the_jinja_file_is_folded_into_the_tokenizer_config_and_wins() -> None:
    """Ollama never reads chat_template.jinja."""
    huge = "1000000000000000019884624838656"
    config = f'{{"chat_template": "old", "model_max_length": {huge}, "add_bos_token": true}}'.encode()
    plan = planned({TOKENIZER_CONFIG: config, CHAT_TEMPLATE: "{{ new }}｜".encode()})
    [upload] = [upload for upload in plan.uploads if upload.path == TOKENIZER_CONFIG]
    assert json.loads(upload.content) == {
        "chat_template": "{{ new }}｜",
        "model_max_length": int(huge),
        "add_bos_token": True,
    }
    assert upload.digest == f"sha256:{hashlib.sha256(upload.content).hexdigest()}"
    assert upload.size == len(upload.content)
    assert plan.template_source == CHAT_TEMPLATE
    assert CHAT_TEMPLATE not in [upload.path for upload in plan.uploads]


def test_a_jinja_file_alone_makes_a_tokenizer_config() -> None:
    plan = planned({CHAT_TEMPLATE: b"{{ x }}"})
    [upload] = [upload for upload in plan.uploads if upload.path == TOKENIZER_CONFIG]
    assert json.loads(upload.content) == {"chat_template": "{{ x }}"}


def test_without_a_jinja_file_the_tokenizer_config_goes_as_it_is() -> None:
    plan = planned({TOKENIZER_CONFIG: b'{ "chat_template" :  "t" }'})
    [upload] = [upload for upload in plan.uploads if upload.path == TOKENIZER_CONFIG]
    assert upload.content == b'{ "chat_template" :  "t" }'
    assert plan.template_source == TOKENIZER_CONFIG


def test_the_template_source_is_named() -> None:
    assert planned({}).template_source == "none"
    assert planned({TOKENIZER_CONFIG: b"{}"}).template_source == "none"
    assert planned({CHAT_TEMPLATE: b"x"}, ModelSettings(template="mine")).template_source == "config"


@pytest.mark.parametrize(
    ("path", "content"), [(TOKENIZER_CONFIG, b"<html>"), (TOKENIZER_CONFIG, b"[]"), (CHAT_TEMPLATE, b"\xff\xfe")]
)
def test_a_broken_template_file_is_refused_by_name(path: str, content: bytes) -> None:
    with pytest.raises(Refusal, match=f"acme/model/{path}"):
        planned({path: content})


def test_weights_stay_at_the_source_and_small_files_travel_in_the_plan() -> None:
    plan = planned({})
    assert [(upload.path, upload.digest, upload.content) for upload in plan.weights] == [
        ("model.safetensors", f"sha256:{LFS}", None)
    ]
    assert all(upload.content is not None for upload in plan.uploads if not upload.is_weights)
    assert plan.name == "hf.co/acme/model:q8_0"
