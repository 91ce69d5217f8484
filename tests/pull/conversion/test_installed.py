"""How a converted model is installed, checked and replaced."""

import json

import aiohttp
import pytest

from proxy.app import App
from proxy.gguf.header import read_header as read_gguf_header
from proxy.inspection import inspect
from proxy.pull import execute
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.ollama_log import bodies, created
from tests.kit.support import Client, fetched, settings
from tests.kit.tiny_models import tiny_bert

NAME = "hf.co/acme/tiny"


async def test_a_manifest_makes_the_model_that_a_create_makes(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    own = {"system": "Be brief.", "parameters": {"temperature": 0.5}, "license": ["first", "second"]}
    hub.add("acme/tiny", REPOSITORIES["qwen3"].files())
    shown = {}
    for way in ("manifest", "create"):
        config = settings(
            hub.endpoint,
            ollama.url,
            # Port 9 is closed: Ollama gets no manifest, so a create makes the model.
            ollama={"advertise_url": "" if way == "manifest" else "http://127.0.0.1:9"},
            models={NAME: own},
        )
        ollama.requests.clear()
        async with App(config) as app:
            lines = await Client(app.address.url, session).pull(f"{NAME}:bf16")
        assert [line["status"] for line in lines if "digest" not in line] == [
            "pulling manifest",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        assert len(created(ollama)) == (way == "create")
        assert list(ollama.models) == [f"{NAME}:bf16"]
        listed = ollama.models[f"{NAME}:bf16"].listed(NAME)
        shown[way] = ollama.models[f"{NAME}:bf16"].shown(NAME), listed["details"]
        ollama.models.clear()
    by_manifest, by_create = shown["manifest"], shown["create"]
    assert by_manifest[1] == by_create[1]
    for key in ("license", "system", "template", "parameters", "details", "capabilities", "modelfile"):
        assert sorted(str(by_manifest[0][key]).split("\n")) == sorted(str(by_create[0][key]).split("\n")), key


async def test_a_replaced_model_leaves_nothing_behind(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        for name in ("qwen3", "mistral", "mistral"):
            hub.add("acme/tiny", REPOSITORIES[name].files())
            assert (await client.pull(f"{NAME}:bf16"))[-1] == {"status": "success"}
            assert list(ollama.models) == [f"{NAME}:bf16"]
            assert ollama.blobs.keys() == ollama.models.used_digests()


@pytest.mark.parametrize("tag", ["bf16", "q4_K_M"])
@pytest.mark.parametrize("reached", [True, False])
async def test_with_verify_an_unloadable_model_replaces_nothing(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, tag: str, reached: bool
) -> None:
    config = settings(
        hub.endpoint,
        ollama.url,
        pull={"verify": True},
        ollama={"reclaim": True, "advertise_url": "" if reached else "http://127.0.0.1:9"},
    )
    async with App(config) as app:
        client = Client(app.address.url, session)
        hub.add("acme/tiny", REPOSITORIES["qwen3"].files())
        lines = await client.pull(f"{NAME}:{tag}")
        assert lines[-1] == {"status": "success"}
        assert {"status": "verifying conversion"} in lines
        [loaded] = bodies(ollama, "/api/generate")
        assert "ollama-hf-proxy/" in loaded["model"]
        first = ollama.models[f"{NAME}:{tag}"].digest

        hub.add("acme/tiny", REPOSITORIES["mistral"].files())
        ollama.fail_load = "llama runner process has terminated: exit status 2"
        lines = await client.pull(f"{NAME}:{tag}")
        assert "Ollama cannot load it: llama runner process has terminated" in lines[-1]["error"]
        assert "writing manifest" not in [line.get("status") for line in lines]
        assert ollama.models[f"{NAME}:{tag}"].digest == first

        ollama.fail_load = "model requires more system memory (9.9 GiB) than is available (1.0 GiB)"
        before = len(fetched(hub, ".safetensors"))
        lines = await client.pull(f"{NAME}:{tag}")
        assert lines[-1] == {"status": "success"}
        assert any("too little memory" in str(line["status"]) for line in lines)
        assert len(fetched(hub, ".safetensors")) == before
        assert ollama.models[f"{NAME}:{tag}"].digest != first
        assert list(ollama.models) == [f"{NAME}:{tag}"]
        if reached:
            assert ollama.blobs.keys() == ollama.models.used_digests()


async def test_an_embedding_model_is_tried_with_an_embedding(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/tiny-bert", tiny_bert())
    async with App(settings(hub.endpoint, ollama.url, pull={"verify": True})) as app:
        assert (await Client(app.address.url, session).pull("hf.co/acme/tiny-bert:f16"))[-1] == {"status": "success"}
    assert len(bodies(ollama, "/api/embed")) == 1
    assert not bodies(ollama, "/api/generate")


async def test_a_reranker_is_refused_early(client: Client, hub: StandInHub) -> None:
    """Before any weight file is requested."""
    files = tiny_bert()
    config = json.loads(files["config.json"]) | {"architectures": ["BertForSequenceClassification"]}
    hub.add("acme/tiny", files | {"config.json": json.dumps(config).encode()})
    assert "only ranks or classifies texts, and Ollama serves neither" in (await client.pull(NAME))[-1]["error"]
    assert not fetched(hub, ".safetensors")


async def test_dense_layers_come_from_their_own_folders(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    """The matrices after the pooling of an embedding model."""
    hub.add("acme/tiny", REPOSITORIES["gemma_embedding"].files())
    assert (await client.pull(f"{NAME}:f16"))[-1] == {"status": "success"}
    [weights] = [layer for layer in ollama.models[f"{NAME}:f16"].layers if layer.kind == "model"]
    header = read_gguf_header(ollama.beginning(weights.digest), size=weights.size)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors if tensor.name.startswith("dense")}
    assert shapes == {"dense_2.weight": (256, 512), "dense_3.weight": (512, 256)}
    assert header.get("gemma-embedding.dense_2_feat_out", int) == 512


@pytest.mark.parametrize(
    ("template", "adds", "begins", "writes"),
    [
        ("{{ bos_token }}", True, True, False),
        ("{{ bos_token }}", False, False, True),
        ("", True, False, False),
        ("", False, False, False),
    ],
)
async def test_a_conversation_begins_with_one_bos(
    client: Client,
    hub: StandInHub,
    ollama: StandInOllama,
    template: str,
    *,
    adds: bool,
    begins: bool,
    writes: bool,
) -> None:
    """If the author's template writes it."""
    files = REPOSITORIES["llama"].files()
    tokenizer = json.loads(files["tokenizer_config.json"])
    tokenizer["chat_template"] = template + tokenizer["chat_template"]
    tokenizer |= {"add_bos_token": adds, "tokenizer_class": "LlamaTokenizer"}
    hub.add("acme/tiny", files | {"tokenizer_config.json": json.dumps(tokenizer).encode()})
    assert (await client.pull(f"{NAME}:bf16"))[-1] == {"status": "success"}
    model = ollama.models[f"{NAME}:bf16"]
    [weights] = [layer for layer in model.layers if layer.kind == "model"]
    header = read_gguf_header(ollama.beginning(weights.digest), size=weights.size)
    assert header.get("tokenizer.ggml.add_bos_token", bool) is begins
    assert (tokenizer["bos_token"] in model.template) is writes


async def test_the_disk_has_to_hold_the_model(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the model: nothing else is written."""
    hub.add("acme/tiny", REPOSITORIES["qwen3"].files())
    config = settings(hub.endpoint, ollama.url)
    inspection = (await inspect(config, f"{NAME}:q4_K_M")).to_json()
    result = inspection["result_size"]
    assert inspection["files"][0]["size"] == result
    for free, enough in ((result - 1, False), (result + 1, True)):

        async def left(*_: object, free: int = free) -> int:
            return free

        monkeypatch.setattr(execute, "free_disk", left)
        async with App(config) as app:
            last = (await Client(app.address.url, session).pull(f"{NAME}:q4_K_M"))[-1]
        assert (last == {"status": "success"}) == enough, last
        assert enough or "of disk until it is made" in last["error"]
