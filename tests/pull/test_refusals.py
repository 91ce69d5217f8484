"""Unusual repositories: refused before any weight byte and any upload, or repaired and converted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.inspection import inspect
from proxy.ollama import disk
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.conversions import converted
from tests.kit.support import Client, digest_of, settings
from tests.kit.tiny_models import tiny_bert, tiny_nomic_bert
from tests.planning.shapes import LLAMA, PHI3, Shapes, config, shapes, weights

TINY = tiny_llama()
TOKENS = len(json.loads(TINY["tokenizer.json"])["model"]["vocab"]) + len(
    json.loads(TINY["tokenizer.json"])["added_tokens"]
)
SHARDED = tiny_llama(shards=2)
INDEX, SHARD = "model.safetensors.index.json", "model-00002-of-00002.safetensors"
DOWN = "model.layers.0.mlp.down_proj.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4000000000\n"
GGUF = "hf.co/acme/model-GGUF"

Files = dict[str, bytes]


def written(value: object) -> bytes:
    return json.dumps(value).encode()


def changed(path: str, files: Mapping[str, bytes] = TINY, **changes: Any) -> Files:
    """The same files with changed keys in one of them; `...` removes a key."""
    fields = {key: value for key, value in {**json.loads(files[path]), **changes}.items() if value is not ...}
    return {**files, path: written(fields)}


def without(*paths: str, files: Mapping[str, bytes] = TINY) -> Files:
    return {path: content for path, content in files.items() if path not in paths}


def model(architecture: str, tensors: Shapes | None = None, /, **changes: Any) -> Files:
    """A repository of another family, or of a Llama with other tensors."""
    fields = config(architecture, **{"vocab_size": TOKENS, "tie_word_embeddings": True, **changes})
    content = weights(shapes(architecture, rows=TOKENS) if tensors is None else tensors)
    return {**TINY, "config.json": written(fields), "model.safetensors": content}


def llama(more: Shapes | None = None, /, *less: str, dtype: str = "BF16", **changes: Any) -> Files:
    tensors = {name: shape for name, shape in shapes(LLAMA, dtype, TOKENS).items() if name not in less}
    return model(LLAMA, tensors | (more or {}), **changes)


def index(**places: str) -> Files:
    """A repository in two shards whose index has wrong entries for some tensors."""
    weight_map = json.loads(SHARDED[INDEX])["weight_map"]
    return {**SHARDED, INDEX: written({"weight_map": weight_map | places})}


@dataclass(frozen=True)
class Case:
    name: str
    files: Mapping[str, bytes]
    says: tuple[str, ...]
    tag: str = "q8_0"
    version: str = "0.24.0"
    other: bool = True
    """Whether the refusal names a GGUF of the same model."""


CASES = [
    Case(
        "an architecture that nobody converts",
        changed("config.json", architectures=["UnheardOfForCausalLM"]),
        ("acme/model/config.json: this proxy does not know the architecture UnheardOfForCausalLM",),
    ),
    Case(
        "an architecture that newer ones run",
        REPOSITORIES["qwen3"].files(),
        ("acme/model/config.json: Ollama 0.6.5 does not run Qwen3ForCausalLM; Ollama 0.6.6 or newer does",),
        version="0.6.5",
    ),
    Case("no architecture", changed("config.json", architectures=...), ("config.json names no architecture",)),
    *(
        Case(
            f"{method} by its config",
            llama({DOWN: ("I32", (64, 96))}, quantization_config={"quant_method": method}),
            (
                f"acme/model: config.json has a quantization_config: the weights are quantized already ('{method}')",
                "pull the repository that they were quantized from",
            ),
        )
        for method in ("gptq", "awq", "bitsandbytes")
    ),
    *(
        Case(
            f"{name} by its tensors",
            llama({DOWN: (dtype, (64, 96))}),
            (f"acme/model: '{DOWN}' is of the type {dtype}, not one of F32, F16, BF16",),
        )
        for name, dtype in (("gptq", "I32"), ("bitsandbytes 4", "U8"), ("bitsandbytes 8", "I8"), ("mlx", "U32"))
    ),
    *(
        Case(
            f"FP8 without scales, {dtype}",
            llama({DOWN: (dtype, (64, 96))}),
            (f"acme/model: '{DOWN}' is of the type {dtype}, not one of F32, F16, BF16",),
        )
        for dtype in ("F8_E4M3", "F8_E5M2")
    ),
    Case(
        "a quantization that takes an importance matrix",
        TINY,
        ("acme/model: IQ1_S needs an importance matrix", "the nearest quantization without one is Q2_K"),
        tag="iq1_s",
        other=False,
    ),
    Case(
        "gpt-oss whose config.json does not say that it is quantized",
        changed("config.json", REPOSITORIES["gpt_oss"].files(), quantization_config=...),
        ("acme/model: 'model.layers.0.mlp.experts.gate_up_proj_blocks' is of the type U8",),
        tag="latest",
    ),
    Case(
        "a missing shard",
        without(SHARD, files=SHARDED),
        (f"{INDEX} names {SHARD}, which the repository does not have", "incomplete"),
        other=False,
    ),
    Case(
        "a tensor that its shard has not",
        index(**{"model.embed_tokens.weight": SHARD}),
        (f"{INDEX} lists the tensor model.embed_tokens.weight in {SHARD}, but that file does not have it",),
        other=False,
    ),
    Case("an index of nothing", {**SHARDED, INDEX: b"{}"}, (f"{INDEX} names no shards",), other=False),
    Case(
        "an index that leads elsewhere",
        index(**{"model.norm.weight": "../../secret.safetensors"}),
        (f"{INDEX} names an unsafe file", "the proxy fetches nothing from this repository"),
        other=False,
    ),
    Case(
        "two models without an index",
        {
            **without("model.safetensors"),
            "model-a.safetensors": TINY["model.safetensors"],
            "model-b.safetensors": TINY["model.safetensors"],
        },
        (
            "model-a.safetensors and model-b.safetensors both have the tensor",
            f"no {INDEX} that chooses one",
            "mixes two models",
        ),
        other=False,
    ),
    Case(
        "shards of two counts without an index",
        {**without(INDEX, SHARD, files=SHARDED), "model-00003-of-00003.safetensors": SHARDED[SHARD]},
        (
            "acme/model: model-00001-of-00002.safetensors is one of 2 shards, but number 2 is not",
            "upload is incomplete",
        ),
        other=False,
    ),
    Case(
        "a Git LFS pointer",
        {**TINY, "model.safetensors": POINTER},
        ("acme/model/model.safetensors is a Git LFS pointer", "upload the file itself"),
        other=False,
    ),
    *(
        Case(f"{path}: {what}", {**TINY, path: content}, (f"acme/model/{path} is {what}", "upload"), other=False)
        for path, what, content in (
            ("config.json", "a Git LFS pointer, not the file itself", POINTER),
            ("tokenizer.json", "a Git LFS pointer, not the file itself", POINTER),
            ("config.json", "an HTML page, not the file itself", b"<!DOCTYPE html>\n<html>"),
            ("config.json", "empty", b""),
        )
    ),
    Case(
        "a page of HTML",
        {**TINY, "model.safetensors": b"<!doctype html><title>404</title>"},
        ("acme/model/model.safetensors is not a safetensors file", "it is an HTML page"),
        other=False,
    ),
    Case(
        "weights that end too early",
        {**TINY, "model.safetensors": TINY["model.safetensors"][:-1000]},
        ("acme/model/model.safetensors has", "but its header describes", "upload it again"),
        other=False,
    ),
    Case(
        "weights that end within the header",
        {**TINY, "model.safetensors": TINY["model.safetensors"][:1000]},
        ("model.safetensors is not a safetensors file",),
        other=False,
    ),
    Case(
        "an entry without its place",
        {
            **TINY,
            "model.safetensors": (len(b := b'{"a":{"dtype":"F32","shape":[1]}}')).to_bytes(8, "little") + b + b"1234",
        },
        ("model.safetensors has a broken header", "data_offsets"),
        other=False,
    ),
    *(
        Case(
            f"Phi-3 with a {kind} rope",
            model(PHI3, rope_scaling={"type": kind, "factor": 2.0}),
            (f"acme/model: config.json has a rope scaling of the type '{kind}', unknown for this architecture",),
        )
        for kind in ("linear", "dynamic", "yarn", "llama3")
    ),
    Case("no config.json", without("config.json"), ("acme/model has no config.json",)),
    Case(
        "a config.json that is none",
        {**TINY, "config.json": b"{,}"},
        ("acme/model/config.json is not JSON",),
        other=False,
    ),
    Case(
        "no heads",
        changed("config.json", num_attention_heads=0),
        ("acme/model: config.json has num_attention_heads = 0",),
    ),
    Case(
        "no tokenizer", without("tokenizer.json"), ("acme/model has no tokenizer", "tokenizer.json and tokenizer.model")
    ),
    Case("an empty tokenizer", {**TINY, "tokenizer.json": b""}, ("acme/model has no tokenizer",)),
    Case(
        "a WordPiece tokenizer",
        {**TINY, "tokenizer.json": tiny_bert()["tokenizer.json"]},
        ("acme/model: tokenizer.json has the unknown normalizer",),
    ),
    Case(
        "only a pickle",
        {**without("model.safetensors"), "pytorch_model.bin": b"\x80\x02"},
        ("no safetensors weights", "pytorch_model.bin is a pickle, which may run any code"),
    ),
    Case(
        "a missing tensor",
        llama(None, DOWN),
        ("acme/model: the weights have nothing that becomes blk.0.ffn_down.weight",),
    ),
    Case(
        "a missing layer",
        changed("config.json", num_hidden_layers=3),
        ("acme/model: the weights have nothing that becomes blk.2.",),
    ),
    Case(
        "a tensor too many",
        llama({"vision.patch.weight": ("BF16", (64, 64))}),
        ("acme/model: the tensor 'vision.patch.weight' is unknown for this architecture",),
    ),
    Case(
        "rows that cannot be quantized",
        model(
            LLAMA,
            {
                name: (dtype, tuple(40 if size == 96 else size for size in shape))
                for name, (dtype, shape) in shapes(LLAMA, rows=TOKENS).items()
            },
            intermediate_size=40,
        ),
        ("acme/model: the tensor 'blk.0.ffn_down.weight' has rows of 40, no multiple of Q8_0's 32: ask for F16",),
    ),
    Case(
        "a generation_config.json that is none",
        {**TINY, "generation_config.json": b"{'a': 1}"},
        ("acme/model: generation_config.json is not JSON",),
    ),
    Case(
        "an embedding model without modules.json",
        without("modules.json", files=tiny_bert()),
        ("acme/model has no modules.json",),
    ),
    Case(
        "pooling by the maximum",
        tiny_bert(pooling="max"),
        ("1_Pooling/config.json pools by max; Ollama knows mean and cls and lasttoken",),
    ),
    Case(
        "a dense layer behind BERT",
        {
            **tiny_bert(),
            "modules.json": written(
                [
                    *json.loads(tiny_bert()["modules.json"]),
                    {"type": "sentence_transformers.models.Dense", "path": "3_Dense"},
                ]
            ),
        },
        ("acme/model/modules.json has the modules Transformer, Pooling, Normalize, Dense",),
    ),
    Case(
        "pooling that is not there",
        without("1_Pooling/config.json", files=tiny_bert()),
        ("acme/model/1_Pooling/config.json is missing",),
        other=False,
    ),
    Case(
        "a NomicBert under names that are neither transformers' nor its authors'",
        tiny_nomic_bert(),
        ("acme/model: the tensor 'embeddings.LayerNorm.weight' is unknown for this architecture",),
    ),
    Case(
        "an Ollama that is too old",
        TINY,
        ("Ollama 0.5.4 is too old", "update it to 0.5.5 or newer"),
        version="0.5.4",
        other=False,
    ),
]


def header_bytes(files: Mapping[str, bytes]) -> int:
    """Bytes of the headers of all weight files that exist."""
    lengths = [
        int.from_bytes(content[:8], "little") for path, content in files.items() if path.endswith(".safetensors")
    ]
    return sum(8 + (length if length < 10**6 else 0) for length in lengths)


def assert_nothing_moved(hub: StandInHub, ollama: StandInOllama, files: Mapping[str, bytes]) -> None:
    """No byte of tensor data was fetched, and nothing was sent to Ollama. A wrong header may be read twice."""
    served = [request for request in hub.requests if request.origin == "cdn" and ".safetensors" in request.path]
    assert sum(request.body_bytes for request in served) <= 2 * header_bytes(files)
    assert not [request for request in ollama.requests if request.method == "POST"]
    assert not ollama.models


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_an_unusable_repository_is_refused_early(
    case: Case, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """Before any weight byte is fetched and anything is uploaded."""
    hub.add("acme/model", case.files)
    hub.add("acme/model-GGUF", {"model.gguf": b"GGUF"}, quantized_from="acme/model")
    ollama.version = case.version
    lines = await client.pull(f"hf.co/acme/model:{case.tag}")
    assert lines[0] == {"status": "pulling manifest"}
    assert list(lines[-1]) == ["error"]
    error = lines[-1]["error"]
    for text in case.says:
        assert text in error
    assert (f"as GGUF, which Ollama runs as it is: {GGUF}" in error) is case.other
    assert "a fault in" not in error
    assert_nothing_moved(hub, ollama, case.files)


@pytest.mark.parametrize(
    ("files", "tag", "version"),
    [
        (TINY, "q5_k_m", "0.24.0"),
        (
            {**without("model.safetensors"), "consolidated.safetensors": TINY["model.safetensors"]},
            "q8_0",
            "0.6.4",
        ),
    ],
    ids=["a quantization that this Ollama does not make", "weights by a name that this Ollama does not read"],
)
async def test_the_proxy_makes_what_ollamas_create_refuses(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: Files, tag: str, version: str
) -> None:
    ollama.version = version
    hub.add("acme/model", files)
    name = f"hf.co/acme/model:{tag}"
    assert (await client.pull(name))[-1] == {"status": "success"}
    gguf = converted(files, "model", quantization=tag.upper())
    assert [layer.digest for layer in ollama.models[name].layers if layer.kind == "model"] == [digest_of(gguf)]


HOSTILE = {
    "half a pair of surrogates": b'{"architectures": ["\\ud800"], "weight_map": {"a": "\\ud800"}, "model": "\\ud800"}',
    "a nest": b'{"weight_map": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a deeper nest": b'{"model": ' * 100_000,
    "a giant number": b'{"num_hidden_layers": 1' + b"0" * 300 + b', "architectures": ["LlamaForCausalLM"], "model": 1}',
    "a list": b'[{"type": "Pooling"}, 5]',
    "nothing": b"null",
    "other types": written(
        {
            **config(LLAMA, num_hidden_layers=2**31 - 1, text_config=[], rope_scaling=[1], rope_parameters={"a": [[]]}),
            "weight_map": {"a": ["model.safetensors"]},
            "model": {"type": "BPE", "vocab": {"a": 10**12}, "merges": [5]},
            "added_tokens": [{"id": [], "content": 5}, 7],
            "additional_special_tokens": ["a", {}],
            "chat_template": {"a": 1},
        }
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    "path", ["config.json", INDEX, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
async def test_a_hostile_file_is_never_a_fault_of_the_proxy(
    path: str, hostile: str, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/model", {**TINY, path: HOSTILE[hostile]})
    last = (await client.pull("hf.co/acme/model:q8_0"))[-1]
    if last == {"status": "success"}:
        # A wrong list of names, or a wrong template, may be repaired or ignored.
        assert path in ("special_tokens_map.json", "tokenizer_config.json")
    else:
        assert "a fault in" not in last["error"]
        assert len(last["error"]) < 1000
        assert_nothing_moved(hub, ollama, TINY)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("path", ["modules.json", "1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json"])
async def test_a_hostile_file_of_an_embedding_model_is_refused(
    path: str, hostile: str, client: Client, hub: StandInHub
) -> None:
    hub.add("acme/model", {**tiny_bert(), path: HOSTILE[hostile]})
    last = (await client.pull("hf.co/acme/model:q8_0"))[-1]
    assert last == {"status": "success"} or "a fault in" not in last["error"]
    assert ("error" in last) or path == "tokenizer_config.json"


@pytest.mark.parametrize(
    "header",
    [
        b'{"\\ud800":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}',
        b'{"\\u001b[2J":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}',
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"a":{"dtype":["F32"],"shape":[[1]],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[1' + b"0" * 300 + b'],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"Q1","shape":[9999999999],"data_offsets":[0,8]}}',
        b'["a"]',
    ],
)
async def test_a_hostile_header_is_never_a_fault_of_the_proxy(
    header: bytes, client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    files = {**TINY, "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8)}
    hub.add("acme/model", files)
    error = (await client.pull("hf.co/acme/model:q8_0"))[-1]["error"]
    assert "acme/model/model.safetensors" in error
    assert "\x1b" not in error
    assert len(error) < 1000
    assert_nothing_moved(hub, ollama, files)


async def test_without_a_gguf_the_refusal_says_to_look_for_one(client: Client, hub: StandInHub) -> None:
    hub.add("acme/model", without("config.json"))
    assert (await client.pull("hf.co/acme/model"))[-1]["error"].endswith("; look for a GGUF of the same model")


async def test_inspect_has_the_same_refusal(hub: StandInHub, ollama: StandInOllama, client: Client) -> None:
    hub.add("acme/model", llama(None, DOWN))
    error = (await client.pull("hf.co/acme/model"))[-1]["error"]
    inspection = await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/model")
    assert inspection.to_json()["refusal"] == error


async def test_a_too_small_disk_is_refused_before_it_is_full(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("acme/model", TINY)
    needed = len(converted(TINY, "model", quantization="Q8_0"))
    for free, enough in ((needed - 1, False), (2 * needed, True)):
        monkeypatch.setattr(disk, "_free", lambda _, free=free: free)
        async with App(settings(hub.endpoint, ollama.url, ollama={"models": str(tmp_path)})) as app:
            last = (await Client(app.address.url, session).pull("hf.co/acme/model:q8_0"))[-1]
        if enough:
            assert last == {"status": "success"}
        else:
            assert "hf.co/acme/model:q8_0 needs about" in last["error"]
            assert "of disk until it is made, but Ollama has" in last["error"]
            assert "(`ollama rm`)" in last["error"]
            assert_nothing_moved(hub, ollama, TINY)
