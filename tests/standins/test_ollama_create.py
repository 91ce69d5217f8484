"""The stand-in Ollama creates models like v0.24, and fails, waits and crashes as a test has set it."""

import asyncio

import aiohttp
import orjson
import pytest

from proxy.standins.ollama import StandInOllama
from tests.kit.support import digest_of
from tests.standins.driver import FILES, GGUF, UNKNOWN_DIGEST, Driver, statuses


async def test_a_create_applies_settings_and_show_has_them(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    answer = await client.lines(
        "/api/create",
        model="hf.co/Org/Tiny:f16",
        files=files,
        system='Be "kind".\nAlways.',
        parameters={"stop": ["<|eot_id|>"], "temperature": 0.5},
        license="Free",
    )
    assert [status.partition(" sha256:")[0] for status in statuses(answer)] == [
        "parsing GGUF",
        "using existing layer",
        "using autodetected template llama3-instruct",
        "creating new layer",
        "creating new layer",
        "creating new layer",
        "writing manifest",
        "success",
    ]
    status, shown = await client.request("POST", "/api/show", model="HF.co/org/tiny:F16")
    assert status == 200
    assert shown["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "394K",
        "quantization_level": "F16",
    }
    for part in (
        "FROM /",
        'SYSTEM """Be "kind".\nAlways."""',
        "PARAMETER stop <|eot_id|>",
        "PARAMETER temperature 0.5",
    ):
        assert part in shown["modelfile"]
    assert (shown["license"], shown["capabilities"]) == ("Free", ["completion"])
    [listed] = (await client.request("GET", "/api/tags"))[1]["models"]
    assert (listed["name"], listed["digest"]) == ("hf.co/Org/Tiny:f16", ollama.models["hf.co/org/tiny:f16"].digest)


async def test_the_same_files_make_the_same_model(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    first = await client.lines("/api/create", model="x", files=files)
    second = await client.lines("/api/create", model="y", files=files)
    assert ollama.models["x"].digest == ollama.models["y"].digest
    assert statuses(second) == [line.replace("creating new", "using existing") for line in statuses(first)]


async def test_from_shares_the_layers_of_another_model(ollama: StandInOllama, client: Driver) -> None:
    """Deleting the first model then removes only the layers that the second one does not use."""
    files = await client.upload(GGUF)
    await client.lines("/api/create", model="temporary", files=files, system="old")
    answer = await client.lines("/api/create", model="x", **{"from": "temporary"}, system="new")
    assert answer[-1] == {"status": "success"}
    kinds = {layer.kind: layer.digest for layer in ollama.models["temporary"].layers}
    before = set(ollama.blobs)
    await client.request("DELETE", "/api/delete", model="temporary")
    assert kinds["system"] not in ollama.blobs
    assert before - ollama.blobs.keys() <= {kinds["system"], kinds["config"]}
    assert all(layer.digest in ollama.blobs for layer in ollama.models["x"].layers)


@pytest.mark.parametrize("path", ["model.gguf", "other.gguf"])
async def test_a_missing_blob_is_an_error_after_the_first_line(
    ollama: StandInOllama, client: Driver, path: str
) -> None:
    files = {**await client.upload(GGUF), path: UNKNOWN_DIGEST}
    answer = await client.lines("/api/create", model="x", files=files)
    assert answer[0] == {"status": "parsing GGUF"}
    assert answer[-1] == {"error": f"open {path}: no such file or directory"}
    assert dict(ollama.models) == {}


@pytest.mark.parametrize("version", ["0.24.0", "0.40.0"])
async def test_files_that_are_not_gguf_are_refused(ollama: StandInOllama, client: Driver, version: str) -> None:
    """The stand-in does not convert safetensors: the product never asks Ollama for that."""
    ollama.version = version
    files = await client.upload(FILES)
    refusal = (400, {"error": "unknown type"})
    assert await client.request("POST", "/api/create", model="x", files=files) == refusal
    assert not ollama.models


async def test_a_gguf_becomes_a_layer_unchanged(ollama: StandInOllama, client: Driver) -> None:
    def string(text: str) -> bytes:
        return len(text).to_bytes(8, "little") + text.encode()

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "little")

    words = number(9) + number(8) + number(2, 8) + string("a") + string("b")
    gguf = b"".join(
        (
            *(b"GGUF", number(3), number(1, 8), number(3, 8)),
            *(string("general.architecture"), number(8), string("qwen3")),
            *(string("tokenizer.ggml.tokens"), words),
            *(string("general.file_type"), number(4), number(32)),
            *(string("token_embd.weight"), number(2), number(64, 8), number(50, 8), number(30), number(0, 8)),
        )
    )
    files = await client.upload({"weights": gguf})
    answer = await client.lines("/api/create", model="x", files=files)
    assert statuses(answer)[:2] == ["parsing GGUF", f"using existing layer {digest_of(gguf)}"]
    model = ollama.models["x:latest"]
    assert (model.family, model.quantization_level, model.parameter_size) == ("qwen3", "BF16", "3K")
    not_gguf = await client.upload({"a.gguf": b"{}"})
    answer = await client.lines("/api/create", model="x", files=not_gguf)
    assert answer[-1] == {"error": "supplied file was not in GGUF format"}


@pytest.mark.parametrize("stream", [True, False])
async def test_fail_create(ollama: StandInOllama, client: Driver, *, stream: bool) -> None:
    files = await client.upload(GGUF)
    ollama.fail_create = "no space left on device"
    async with client.session.post("/api/create", json={"model": "x", "files": files, "stream": stream}) as response:
        lines = (await response.read()).splitlines()
        assert orjson.loads(lines[-1]) == {"error": "no space left on device"}
        assert (response.status, len(lines)) == ((200, 2) if stream else (500, 1))
    assert dict(ollama.models) == {}


async def test_crash_create(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    ollama.crash_create = True
    ollama.hold_making = asyncio.Event()
    async with client.session.post("/api/create", json={"model": "x", "files": files}) as response:
        assert await response.content.readline() == b'{"status":"parsing GGUF"}\n'
        ollama.hold_making.set()
        with pytest.raises(aiohttp.ClientError):
            await response.content.readline()
    assert dict(ollama.models) == {}


async def test_end_create_early(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    ollama.end_create_early = True
    assert await client.lines("/api/create", model="x", files=files) == [{"status": "parsing GGUF"}]
    assert dict(ollama.models) == {}


async def test_hold_making_stops_a_create_after_its_first_line(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    ollama.hold_making = asyncio.Event()
    async with client.session.post("/api/create", json={"model": "x", "files": files}) as response:
        assert await response.content.readline() == b'{"status":"parsing GGUF"}\n'
        assert dict(ollama.models) == {}
        ollama.hold_making.set()
        assert (await response.read()).endswith(b'{"status":"success"}\n')
    assert list(ollama.models) == ["x:latest"]


async def test_a_streamed_create_ends_with_its_client(ollama: StandInOllama, client: Driver) -> None:
    """It makes no model."""
    files = await client.upload(GGUF)
    ollama.hold_making = asyncio.Event()
    response = await client.session.post("/api/create", json={"model": "x", "files": files})
    await response.content.readline()
    response.close()
    while not ollama.abandoned_creates:
        await asyncio.sleep(0)
    ollama.hold_making.set()
    assert ollama.abandoned_creates == 1
    assert dict(ollama.models) == {}


async def test_an_unstreamed_create_survives_its_client(ollama: StandInOllama, client: Driver) -> None:
    """It completes and makes its model."""
    files = await client.upload(GGUF)
    ollama.hold_making = asyncio.Event()
    body = {"model": "x", "files": files, "stream": False}
    leaving = asyncio.create_task(client.session.post("/api/create", json=body).__aenter__())
    while not ollama._unwatched:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    ollama.hold_making.set()
    while ollama._unwatched:
        await asyncio.sleep(0)
    assert list(ollama.models) == ["x:latest"]
    assert ollama.abandoned_creates == 0


async def test_replacing_a_model_removes_its_old_layers(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    await client.lines("/api/create", model="x", files=files, system="old")
    old = {layer.digest for layer in ollama.models["x"].layers if layer.kind in {"system", "config"}}
    assert old <= ollama.blobs.keys()
    await client.lines("/api/create", model="x", files=files, system="new")
    assert not old & ollama.blobs.keys()
    assert all(layer.digest in ollama.blobs for layer in ollama.models["x"].layers)


async def test_close_does_not_wait_for_creates() -> None:
    async with StandInOllama(version="0.33.0") as ollama, aiohttp.ClientSession(ollama.url) as session:
        client = Driver(session)
        assert await client.request("GET", "/api/version") == (200, {"version": "0.33.0"})
        files = await client.upload(GGUF)
        ollama.hold_making = asyncio.Event()
        bodies = [{"model": "x", "files": files, "stream": stream} for stream in (True, False)]
        waiting = [asyncio.create_task(client.session.post("/api/create", json=body).__aenter__()) for body in bodies]
        while not (ollama._unwatched and waiting[0].done()):
            await asyncio.sleep(0)
        async with asyncio.timeout(30):  # a graceful shutdown would wait for a minute
            await ollama.close()
        streamed, unstreamed = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(unstreamed, aiohttp.ClientError)
        assert isinstance(streamed, aiohttp.ClientResponse)
        with pytest.raises(aiohttp.ClientError):
            await streamed.read()
    assert dict(ollama.models) == {}


async def test_adapters_are_refused_from_0_34_1_on(ollama: StandInOllama, client: Driver) -> None:
    ollama.version = "0.40.0"
    adapters = {"a.gguf": UNKNOWN_DIGEST}
    refusal = (400, {"error": "LoRA adapters are no longer supported"})
    assert await client.request("POST", "/api/create", model="x", **{"from": "y"}, adapters=adapters) == refusal
    assert not ollama.models
