"""The life of a pull on a real Ollama: sharing, resuming, pulling again, removing."""

import asyncio
import itertools
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest

from proxy.app import App
from proxy.config.sections import Config
from proxy.gguf.header import read_header
from proxy.pull.execute import REMOVING
from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from proxy.store.journal import state_file
from tests.kit.real_ollama import RealOllama, running
from tests.kit.support import Client, digest_of, eventually, fetched, serving, settings

pytestmark = pytest.mark.timeout(300)

SUCCESS = {"status": "success"}
NAME = "hf.co/acme/tiny:q4_K_M"
KILLS = 10
SEED = 24


@pytest.fixture
def own_ollama(tmp_path: Path) -> Iterator[RealOllama]:
    """An Ollama with an empty store."""
    with running(tmp_path / "ollama") as ollama:
        yield ollama


def with_reclaim(hub: StandInHub, ollama: RealOllama, /, **sections: Any) -> Config:
    ours = {"reclaim": True, "patience": "60s"} | sections.pop("ollama", {})
    return settings(hub.endpoint, ollama.url, ollama=ours, **sections)


@pytest.fixture
async def own_app(hub: StandInHub, own_ollama: RealOllama) -> AsyncIterator[App]:
    async with App(with_reclaim(hub, own_ollama)) as app:
        yield app


@pytest.fixture
def own_client(own_app: App, session: aiohttp.ClientSession) -> Client:
    return Client(own_app.address.url, session)


@asynccontextmanager
async def own_process(hub: StandInHub, ollama: RealOllama) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    async with serving("--hub", hub.endpoint, "--ollama", ollama.url) as (process, url):
        assert process.stderr is not None
        reading = asyncio.create_task(process.stderr.read())  # a full pipe would block the process
        try:
            yield process, url
        finally:
            if process.returncode is None:
                process.kill()
            await reading


def larger_llama(folder: Path, *, hidden: int = 512, layers: int = 4, shards: int = 3) -> dict[str, bytes | Path]:
    """A Llama that keeps Ollama busy for a while: 8 MB a layer, or 31 MB with a hidden size of 1024."""
    folder.mkdir()
    files = tiny_llama()
    config = json.loads(files["config.json"])
    feed_forward, kv, rows = 4 * hidden, hidden // 2, config["vocab_size"]
    config |= {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": kv // 64,
        "head_dim": 64,
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, hidden)}
    for layer in range(layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (hidden,),
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (kv, hidden),
                "self_attn.v_proj": (kv, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "post_attention_layernorm": (hidden,),
                "mlp.gate_proj": (feed_forward, hidden),
                "mlp.up_proj": (feed_forward, hidden),
                "mlp.down_proj": (hidden, feed_forward),
            }.items()
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (rows, hidden)}
    names = list(shapes)
    weight_map: dict[str, str] = {}
    weights: dict[str, bytes | Path] = {}
    for number in range(shards):
        some = names[len(names) * number // shards : len(names) * (number + 1) // shards]
        path = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / path, {name: shapes[name] for name in some}, seed=number)
        weights[path] = folder / path
        weight_map |= dict.fromkeys(some, path)
    index = {"metadata": {}, "weight_map": weight_map}
    small = {path: content for path, content in files.items() if not path.endswith(".safetensors")}
    small |= {"config.json": orjson.dumps(config), "model.safetensors.index.json": orjson.dumps(index)}
    return {**small, **weights}


def write_safetensors(path: Path, shapes: Mapping[str, Sequence[int]], seed: int) -> None:
    """Writes tensors in BF16: vectors of ones, matrices of normally distributed numbers."""
    generator, ends = np.random.default_rng(seed), [0]
    ends += itertools.accumulate(2 * int(np.prod(shape)) for shape in shapes.values())
    header = {
        name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        for (name, shape), start, end in zip(shapes.items(), ends, ends[1:], strict=False)
    }
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            one = np.ones(shape, np.float32)
            numbers = one if len(shape) == 1 else generator.standard_normal(shape, dtype=np.float32) * 0.03 * one
            file.write((numbers.astype(np.float32).view("<u4") >> 16).astype("<u2").tobytes())


async def reply(client: Client, name: str) -> str:
    """The model's answer to a fixed message, always the same."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "hello there"}],
        "stream": False,
        "keep_alive": 0,
        "options": {"num_predict": 12, "num_ctx": 256, "temperature": 0, "seed": 1},
    }
    status, answer = await client.post("/api/chat", body)
    if status == 500 and b"peg-native format" in answer:
        return ""  # v0.33 reads random words as an invalid tool call
    assert status == 200, answer
    return str(orjson.loads(answer)["message"]["content"])


async def own_models(ollama: RealOllama, session: aiohttp.ClientSession) -> list[str]:
    """The proxy's own models: temporary ones, and those with which it removes blobs."""
    _, tags = await Client(ollama.url, session).get("/api/tags")
    return [model["name"] for model in orjson.loads(tags)["models"] if "ollama-hf-proxy/" in model["name"]]


async def until_line(client: Client, name: str, status: str) -> None:
    """Read a pull up to a line, then disconnect."""
    async with client.session.post(f"{client.url}/api/pull", json={"model": name}) as response:
        async for line in response.content:
            if orjson.loads(line).get("status") == status:
                return
    pytest.fail(f"the pull of {name} ended before {status!r}")


@pytest.mark.parametrize("quantization", ["q4_K_M", "q8_0", "f16"])
async def test_a_pull_leaves_only_blobs_that_models_use(
    own_ollama: RealOllama, own_app: App, hub: StandInHub, session: aiohttp.ClientSession, quantization: str
) -> None:
    hub.add("acme/tiny", tiny_llama(shards=2))
    name = f"hf.co/acme/tiny:{quantization}"
    status, output = await own_ollama.cli(own_app.address.url, "pull", name)
    assert status == 0, output
    shown = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
    # The sweep that the proxy makes two seconds after its start may remove the probe before this pull does.
    if REMOVING in output:
        shown.insert(-1, REMOVING)
    assert all(text in output for text in shown), output
    assert [output.find(text) for text in shown] == sorted(output.find(text) for text in shown), output
    assert "warning" not in output, output
    assert own_ollama.orphans == {}
    assert own_ollama.used_digests <= set(own_ollama.blobs)
    assert own_ollama.partial_blobs == []
    assert await own_models(own_ollama, session) == []
    await reply(Client(own_app.address.url, session), name)
    assert own_ollama.orphans == {}


async def test_a_shared_gguf_stays_until_no_model_uses_it(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    """The proxy uploads a GGUF; then a model of the user uses it too."""
    hub.add("acme/base", tiny_llama(seed=1))
    async with App(with_reclaim(hub, own_ollama)) as app:
        assert (await Client(app.address.url, session).pull("hf.co/acme/base:q8_0"))[-1] == SUCCESS
    gguf = await own_ollama.gguf_of("hf.co/acme/base:q8_0")
    direct = Client(own_ollama.url, session)
    await remove(direct, "hf.co/acme/base:q8_0")
    hub.add("acme/ready", {"ready-q8_0.gguf": gguf})
    name = "hf.co/acme/ready:q8_0"
    async with App(with_reclaim(hub, own_ollama, pull={"gguf": "proxy"})) as app:
        client = Client(app.address.url, session)
        assert (await client.pull(name))[-1] == SUCCESS
        # From v0.30 on, a create copies the GGUF, and the copy's bytes may differ.
        used = digest_of(await own_ollama.gguf_of(name))
        assert used == digest_of(gguf) or own_ollama.rewrites_created_ggufs
        body = {"model": "other", "files": {"other.gguf": used}, "stream": False}
        status, answer = await direct.post("/api/create", body)
        assert status == 200, answer
        kept = digest_of(await own_ollama.gguf_of("other"))
        assert kept == used or own_ollama.rewrites_created_ggufs
        assert own_ollama.orphans == {}
        await remove(client, name)
        async with session.post(f"{client.url}/-/reclaim", json={}) as response:
            assert response.status == 200, await response.read()
        assert digest_of(await own_ollama.gguf_of("other")) == kept
        await reply(direct, "other")
        # At the first load of a model from its own create, 0.40 writes a new manifest and keeps the old one.
        rewritten = own_ollama.orphans
        assert all(size < 1000 for size in rewritten.values())
        await remove(client, "other")
        assert kept not in own_ollama.blobs
        assert own_ollama.orphans == rewritten


async def test_two_quantizations_are_pulled_at_once(
    own_ollama: RealOllama, own_app: App, hub: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Both models of the repository chat, and no unused blob remains."""
    hub.add("acme/tiny", larger_llama(tmp_path / "files"))
    hub.rate = 10_000_000
    names = ["hf.co/acme/tiny:q4_K_M", "hf.co/acme/tiny:q8_0"]
    pulls = await asyncio.gather(*(own_ollama.cli(own_app.address.url, "pull", name) for name in names))
    assert [status for status, _ in pulls] == [0, 0], pulls
    assert own_ollama.orphans == {}
    assert await own_models(own_ollama, session) == []
    for name in names:
        await reply(Client(own_app.address.url, session), name)


async def test_a_template_that_ollama_cannot_parse_is_refused(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    """The refusal comes before the first weight byte, and no unused blob or temporary model remains."""
    hub.add("acme/tiny", tiny_llama())
    models = {"hf.co/acme/tiny": {"template": "{{ .Broken"}}
    async with App(with_reclaim(hub, own_ollama, models=models)) as app:
        lines = await Client(app.address.url, session).pull(NAME)
        assert f"Ollama cannot use the template of {NAME}: template: " in lines[-1]["error"]
        assert fetched(hub) == []
        assert own_ollama.orphans == {}
        assert await own_models(own_ollama, session) == []


async def test_the_check_of_a_template_leaves_nothing(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/tiny", tiny_llama())
    models = {"hf.co/acme/tiny": {"template": "{{ .System }}{{ .Prompt }}"}}
    async with App(with_reclaim(hub, own_ollama, models=models)) as app:
        client = Client(app.address.url, session)
        assert (await client.pull(NAME))[-1] == SUCCESS
        assert own_ollama.orphans == {}
        assert await own_models(own_ollama, session) == []
        _, shown = await client.post("/api/show", {"model": NAME})
        assert orjson.loads(shown)["template"] == "{{ .System }}{{ .Prompt }}"
        await reply(client, NAME)


async def test_a_pull_waits_for_an_ollama_that_was_killed(
    own_ollama: RealOllama, own_client: Client, hub: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub.add("acme/tiny", larger_llama(tmp_path / "files"))
    hub.rate = 4_000_000
    pulling = asyncio.create_task(own_client.pull(NAME))
    await eventually(lambda: own_ollama.partial_blobs or len(own_ollama.blobs) > 2, 30)
    await asyncio.sleep(1)
    own_ollama.kill()
    assert not pulling.done()
    hub.rate = None
    await asyncio.to_thread(own_ollama.start)
    lines = await pulling
    assert {"status": "waiting for Ollama to come back"} in lines
    assert lines[-1] == SUCCESS
    assert own_ollama.orphans == {}
    assert await own_models(own_ollama, session) == []


async def killed_after(seconds: float, process: asyncio.subprocess.Process, client: Client, name: str) -> None:
    async def pull() -> None:
        with suppress(aiohttp.ClientError):
            await client.pull(name)

    pulling = asyncio.create_task(pull())
    await asyncio.sleep(seconds)
    process.kill()
    await process.wait()
    await pulling


@pytest.mark.timeout(600)
async def test_after_a_kill_of_the_proxy_the_next_pull_succeeds(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The kills come at any moment. Finished blobs are not uploaded again, and no unused blob remains.

    Files that Ollama itself has half written when the proxy dies stay until Ollama starts again.
    """
    hub.add("acme/tiny", larger_llama(tmp_path / "files"))
    hub.rate = 8_000_000
    chance = random.Random(SEED)
    async with own_process(hub, own_ollama) as (_, url):
        began = time.monotonic()
        assert (await Client(url, session).pull(NAME))[-1] == SUCCESS
        seconds = time.monotonic() - began
        await remove(Client(url, session), NAME)
    for number in range(KILLS):
        name = f"hf.co/acme/tiny:{('q4_K_M', 'q8_0', 'f16')[number % 3]}"
        async with own_process(hub, own_ollama) as (process, url):
            after = seconds * (number + chance.random()) / KILLS
            await killed_after(after, process, Client(url, session), name)
        finished = set(own_ollama.blobs)
        position = own_ollama.log_size
        async with own_process(hub, own_ollama) as (_, url):
            client = Client(url, session)
            assert (await client.pull(name))[-1] == SUCCESS, (number, after)
            uploaded = {
                path.removeprefix("/api/blobs/")
                for method, path in own_ollama.requests_since(position)
                if method == "POST" and path.startswith("/api/blobs/")
            }
            assert not uploaded & finished, (number, after)
            assert await own_models(own_ollama, session) == [], (number, after)
            assert own_ollama.orphans == {}, (number, after)
            await reply(client, name)
            await remove(client, name)
    print(f"Ollama left {len(own_ollama.partial_blobs)} half-written files")
    for path in own_ollama.partial_blobs:
        os.utime(path, (time.time() - 2 * 3600,) * 2)
    own_ollama.kill()
    await asyncio.to_thread(own_ollama.start)
    assert own_ollama.partial_blobs == []


async def remove(client: Client, name: str) -> None:
    async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
        assert response.status == 200, await response.read()


@pytest.mark.parametrize("quantization", ["q4_K_M", "f16"])
async def test_an_unchanged_model_is_not_pulled_again(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession, quantization: str
) -> None:
    """Nothing is fetched, uploaded or created. This also holds after a restart, and without the state file."""
    hub.add("acme/tiny", tiny_llama(shards=2))
    name, config = f"hf.co/acme/tiny:{quantization}", with_reclaim(hub, own_ollama)
    async with App(config) as app:
        assert (await Client(app.address.url, session).pull(name))[-1] == SUCCESS
        await pull_of_the_unchanged(own_ollama, hub, Client(app.address.url, session), name)
    async with App(config) as app:
        await pull_of_the_unchanged(own_ollama, hub, Client(app.address.url, session), name)
    for file in state_file(config).parent.iterdir():
        file.unlink()
    async with App(config) as app:
        await pull_of_the_unchanged(own_ollama, hub, Client(app.address.url, session), name)


async def pull_of_the_unchanged(ollama: RealOllama, hub: StandInHub, client: Client, name: str) -> None:
    hub.requests.clear()
    position, models = ollama.log_size, await client.get("/api/tags")
    began = time.monotonic()
    lines = await client.pull(name)
    print(f"pulled again in {time.monotonic() - began:.3f} s")
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-3:] == [{"status": "verifying sha256 digest"}, {"status": "writing manifest"}, SUCCESS]
    assert all(line["completed"] == line["total"] for line in lines if "digest" in line)
    assert fetched(hub) == []
    await eventually(lambda: ollama.requests_since(position))
    assert {method for method, path in ollama.requests_since(position) if path.startswith("/api/blobs/")} <= {"HEAD"}
    assert "/api/create" not in [path for _, path in ollama.requests_since(position)]
    assert await client.get("/api/tags") == models
    assert ollama.orphans == {}


@pytest.mark.parametrize("before", [None, "{{ .System }} {{ .Prompt }}"], ids=["the authors' template", "an own one"])
async def test_a_changed_template_moves_no_weights(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession, before: str | None
) -> None:
    hub.add("acme/tiny", tiny_llama())
    was: dict[str, Any] = {"hf.co/acme/tiny": {"template": before, "system": "Be long."}} if before else {}
    async with App(with_reclaim(hub, own_ollama, models=was)) as app:
        assert (await Client(app.address.url, session).pull(NAME))[-1] == SUCCESS
    hub.requests.clear()
    position = own_ollama.log_size
    changed = {"template": "Say: {{ .Prompt }}", "system": "Be terse.", "parameters": {"temperature": 0.25}}
    async with App(with_reclaim(hub, own_ollama, models={"hf.co/acme/tiny": changed})) as app:
        client = Client(app.address.url, session)
        assert (await client.pull(NAME))[-1] == SUCCESS
        _, answer = await client.post("/api/show", {"model": NAME})
        shown = orjson.loads(answer)
        assert (shown["template"], shown["system"]) == (changed["template"], changed["system"])
        assert re.search(r"^temperature +0\.25$", shown["parameters"], re.MULTILINE)
        assert shown["details"]["quantization_level"] == "Q4_K_M"
        await reply(client, NAME)
        weights = digest_of(await own_ollama.gguf_of(NAME))
    assert ("POST", f"/api/blobs/{weights}") not in own_ollama.requests_since(position)
    assert fetched(hub) == []
    assert own_ollama.orphans == {}


@pytest.mark.parametrize("update", ["tokenizer_config.json", "generation_config.json"])
async def test_a_changed_small_file_fetches_no_weights(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession, update: str
) -> None:
    """Another chat template is a new header before the data that Ollama has; sampling values are a new manifest."""
    files = tiny_llama()
    hub.add("acme/tiny", files)
    config = with_reclaim(hub, own_ollama, ollama={"models": str(own_ollama.home / "models")})
    jinja = "{{ bos_token }}{{ messages[0].content }}"
    changes = {"chat_template": jinja, "temperature": 0.25}
    async with App(config) as app:
        client = Client(app.address.url, session)
        assert (await client.pull(NAME))[-1] == SUCCESS
        before = await own_ollama.gguf_of(NAME)
        hub.repositories["acme/tiny"].update({update: json.dumps(json.loads(files[update]) | changes).encode()})
        hub.requests.clear()
        assert (await client.pull(NAME))[-1] == SUCCESS
        assert fetched(hub) == []
        after = await own_ollama.gguf_of(NAME)
        await reply(client, NAME)
        _, answer = await client.post("/api/show", {"model": NAME})
    old, new = (read_header(content) for content in (before, after))
    assert after[new.data_start :] == before[old.data_start :]
    if update == "tokenizer_config.json":
        assert str(new.get("tokenizer.chat_template", str)).endswith(jinja)
    else:
        assert after == before
        assert re.search(r"^temperature +0\.25$", orjson.loads(answer)["parameters"], re.MULTILINE)
    assert own_ollama.orphans == {}


async def test_a_model_is_the_same_with_and_without_reclaim(
    own_ollama: RealOllama, hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    hub.add("acme/tiny", tiny_llama())
    models = []
    for reclaim in (True, False):
        async with App(with_reclaim(hub, own_ollama, ollama={"reclaim": reclaim})) as app:
            client = Client(app.address.url, session)
            assert (await client.pull(NAME))[-1] == SUCCESS
            _, answer = await client.post("/api/show", {"model": NAME})
            shown = orjson.loads(answer)
            described = {key: shown.get(key) for key in ("template", "system", "license", "capabilities", "model_info")}
            parameters = sorted(shown["parameters"].splitlines())
            gguf = digest_of(await own_ollama.gguf_of(NAME))
            models.append((gguf, described, parameters, await reply(client, NAME)))
            await remove(client, NAME)
    assert models[0] == models[1]
    assert models[0][3] or own_ollama.rewrites_created_ggufs
