"""The stand-in Ollama answers like v0.24. If a real one is available, its refusals are compared with the stand-in's."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import ollama as ollama_client
import orjson
import pytest
from aiohttp import web
from yarl import URL

from proxy.ollama.registry import Blob, Layer, manifest
from proxy.standins.ollama import StandInOllama
from tests.kit.real_ollama import RealOllama
from tests.kit.support import digest_of
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector
from tests.standins.driver import GGUF, UNKNOWN_DIGEST, Driver, statuses

JSON = "application/json; charset=utf-8"


@pytest.fixture(params=["stand-in", "real"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession]:
    if request.param == "stand-in":
        async with StandInOllama() as ollama, aiohttp.ClientSession(ollama.url) as session:
            yield session
        return
    real: RealOllama = request.getfixturevalue("real_ollama")
    async with aiohttp.ClientSession(real.url) as session:
        async with session.get("/api/version") as response:
            version = orjson.loads(await response.read())["version"]
        if not version.startswith("0.24."):
            pytest.skip(f"{real.binary} is Ollama {version}; these texts are those of v0.24")
        yield session


REFUSALS = [
    ("POST", "show", None, 400, JSON, "missing request body"),
    ("POST", "show", "  ", 400, JSON, "missing request body"),
    ("POST", "show", '{"model":', 400, JSON, "unexpected EOF"),
    ("POST", "show", "x", 400, JSON, "invalid character 'x' looking for beginning of value"),
    ("POST", "show", "[1]", 400, JSON, "json: cannot unmarshal array into Go value of type api.ShowRequest"),
    ("POST", "show", "{}", 400, JSON, "model is required"),
    ("POST", "show", '{"model":"a b"}', 400, JSON, "invalid model name"),
    ("POST", "show", '{"model":"nope"} and more', 404, JSON, "model 'nope' not found"),
    ("POST", "create", None, 400, JSON, "missing request body"),
    ("POST", "create", "{}", 400, JSON, "invalid model name"),
    ("POST", "create", '{"model":"x!"}', 400, JSON, "invalid model name"),
    (
        "POST",
        "create",
        '{"model":"x","from":5}',
        400,
        JSON,
        "json: cannot unmarshal number into Go struct field CreateRequest.from of type string",
    ),
    ("POST", "create", '{"model":"x"}', 400, None, "neither 'from' or 'files' was specified"),
    ("POST", "create", '{"model":"x","stream":false}', 400, None, "neither 'from' or 'files' was specified"),
    ("POST", "create", '{"model":"x","files":{}}', 400, None, "unknown type"),
    ("POST", "create", '{"model":"x","files":{"/a":"sha256:1"}}', 400, JSON, "file path must be relative"),
    ("POST", "create", '{"model":"x","files":{"b/../a":"sha256:1"}}', 400, JSON, "file path must be relative"),
    ("POST", "create", '{"model":"x","files":{"a":""}}', 400, JSON, "invalid digest format"),
    ("POST", "create", f'{{"model":"x","files":{{"a":"{UNKNOWN_DIGEST}"}}}}', 400, None, "unknown type"),
    ("POST", "create", '{"model":"x","from":"x!"}', 400, None, "invalid model name"),
    ("POST", "pull", None, 400, JSON, "missing request body"),
    ("POST", "pull", "{}", 400, JSON, "invalid model name"),
    ("POST", "pull", '{"model":"","name":"x!"}', 400, JSON, "invalid model name"),
    ("DELETE", "delete", None, 400, JSON, "missing request body"),
    ("DELETE", "delete", "{}", 400, JSON, "model is required"),
    ("DELETE", "delete", '{"model":"x!"}', 400, JSON, 'name "x!" is invalid'),
    ("DELETE", "delete", '{"name":"nope"}', 404, JSON, "model 'nope' not found"),
    ("POST", "copy", '{"source":"no pe","destination":"b"}', 400, JSON, 'source "no pe" is invalid'),
    ("POST", "copy", '{"source":"nope"}', 400, JSON, 'destination "" is invalid'),
    ("POST", "copy", '{"source":"nope","destination":"b"}', 404, JSON, 'model "nope" not found'),
    ("POST", "generate", '{"model":"nope"}', 404, JSON, "model 'nope' not found"),
    ("POST", "generate", "{}", 404, JSON, "model '' not found"),
    ("POST", "chat", '{"model":"hf.co/a/B:c"}', 404, JSON, "model 'hf.co/a/B:c' not found"),
    ("POST", "chat", "{}", 400, JSON, "model is required"),
    ("POST", "embed", '{"model":"nope"}', 404, JSON, 'model "nope" not found, try pulling it first'),
    ("POST", "blobs/xx", "data", 400, JSON, "invalid digest format"),
    (
        "POST",
        f"blobs/{UNKNOWN_DIGEST}",
        "data",
        400,
        JSON,
        f'digest mismatch, expected "{UNKNOWN_DIGEST}", got "{digest_of(b"data")}"',
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "kind", "text"), REFUSALS)
async def test_refusals_have_ollamas_status_and_text(
    either: aiohttp.ClientSession,
    *,
    method: str,
    path: str,
    body: str | None,
    status: int,
    kind: str | None,
    text: str,
) -> None:
    async with either.request(method, f"/api/{path}", data=body) as response:
        assert (response.status, orjson.loads(await response.read())) == (status, {"error": text})
        assert response.headers["Content-Type"] == (kind or "application/json")


async def test_unknown_paths_are_answered_like_ollama(either: aiohttp.ClientSession) -> None:
    for method, path, status, text in (
        ("GET", "/", 200, "Ollama is running"),
        ("HEAD", "/", 200, ""),
        ("GET", "/api/nope", 404, "404 page not found"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
        ("HEAD", "/api/blobs/xx", 400, ""),
        ("HEAD", f"/api/blobs/{UNKNOWN_DIGEST}", 404, ""),
    ):
        async with either.request(method, path) as response:
            assert (response.status, await response.text()) == (status, text)


async def test_a_native_pull_without_a_manifest_fails(ollama: StandInOllama, client: Driver) -> None:
    missing = {"error": "pull model manifest: file does not exist"}
    assert await client.lines("/api/pull", model="hf.co/a/b") == [{"status": "pulling manifest"}, missing]
    assert await client.request("POST", "/api/pull", model="hf.co/a/b", stream=False) == (500, missing)
    assert dict(ollama.models) == {}


async def test_a_native_pull_shows_progress_and_installs(ollama: StandInOllama, client: Driver) -> None:
    ollama.native["hf.co/Org/Repo:Q4_K_M"] = 4_000_000
    answer = await client.lines("/api/pull", name="hf.co/org/repo:q4_k_m", model="")
    steps = list(dict.fromkeys(statuses(answer)))
    assert (steps[0], steps[3:]) == (
        "pulling manifest",
        ["verifying sha256 digest", "writing manifest", "success"],
    )
    weights = [line for line in answer if line.get("total") == 4_000_000]
    assert [line.get("completed", 0) for line in weights] == [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000]
    assert weights[0]["status"] == f"pulling {weights[0]['digest'][7:19]}"
    assert list(ollama.models) == ["hf.co/org/repo:q4_k_m"]
    again = await client.lines("/api/pull", model="hf.co/org/repo:q4_k_m")
    assert [line["completed"] for line in again if "digest" in line] == [4_000_000, 487]
    assert await client.request("POST", "/api/pull", model="hf.co/org/repo:Q4_K_M", stream=False) == (
        200,
        {"status": "success"},
    )


async def test_deleting_a_pulled_manifest_deletes_its_blobs(ollama: StandInOllama, client: Driver) -> None:
    """In this way, a client can remove blobs that it uploaded: a local registry lists them in a manifest."""
    files = await client.upload({"a": b"aaa", "b": b"bb"})

    async def manifest(_: web.Request) -> web.Response:
        layers = [{"mediaType": "x.license", "digest": digest, "size": 3} for digest in files.values()]
        return web.json_response({"layers": layers[:1], "config": layers[1]})

    app = web.Application()
    app.add_routes([web.get("/v2/leftover/x/manifests/y", manifest)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    name = f"http://127.0.0.1:{runner.addresses[0][1]}/leftover/x:y"
    answer = await client.lines("/api/pull", model=name, insecure=True)
    await runner.cleanup()
    assert answer[-1] == {"status": "success"}
    assert ollama.blobs.keys() == set(files.values())
    assert (await client.request("DELETE", "/api/delete", model=name))[0] == 200
    assert ollama.blobs == {}


@asynccontextmanager
async def offering(config: bytes, layers: dict[str, bytes], sizes: int) -> AsyncIterator[str]:
    """The name of a model with these layers. Its manifest has the same size for each layer."""

    async def answer(_: web.Request) -> web.Response:
        descriptors = [Layer(kind, Blob(digest_of(content), sizes)) for kind, content in layers.items()]
        return web.Response(body=manifest(Blob(digest_of(config), sizes), descriptors))

    app = web.Application()
    app.add_routes([web.get("/v2/acme/x/manifests/y", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/acme/x:y"
    await runner.cleanup()


async def test_a_pulled_manifest_becomes_a_model(ollama: StandInOllama, client: Driver) -> None:
    """The model has all layers and the manifest's sizes. The progress lines have the blobs' true sizes."""
    image = "application/vnd.ollama.image."
    weights = {f"{image}model": tiny_gguf(), f"{image}projector": tiny_projector(), f"{image}adapter": b"GGUF adapter"}
    layers = weights | {"application/vnd.ollama-hf-proxy.blob": b"x", f"{image}system": b"Be terse."}
    config = b'{"model_family":"llama","model_families":["llama"],"file_type":"Q4_K_M"}'
    await client.upload({**layers, "config": config})
    async with offering(config, layers, 7) as name:
        lines = await client.lines("/api/pull", model=name, insecure=True)
    assert lines[-1] == {"status": "success"}
    totals = {line["digest"]: line["total"] for line in lines if "digest" in line}
    assert totals == {digest_of(content): len(content) for content in (*layers.values(), config)}
    [model] = ollama.models.values()
    assert model.size == 7 * 6
    assert (model.runner, model.system, model.parameter_count) == ("llamacpp", "Be terse.", 394_496)
    _, shown = await client.request("POST", "/api/show", model=name)
    commands = [line.split(" ")[0] for line in shown["modelfile"].splitlines() if "/blobs/sha256-" in line]
    assert commands == ["FROM", "ADAPTER", "FROM"]
    assert shown["capabilities"] == ["completion", "vision"]


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (b"{}", None),
        (b'{"os":"x","other":1}', None),
        (b"no JSON", "line 1 column 1"),
        (b"[]", "cannot unmarshal list"),
        (b'{"model_type":5}', "Go struct field ConfigV2.model_type"),
    ],
)
@pytest.mark.parametrize("version", ["0.24.0", "0.34.0", "0.34.1", "0.40.0"])
async def test_invalid_configs_are_refused_from_0_34_1_on(
    ollama: StandInOllama, client: Driver, version: str, config: bytes, error: str | None
) -> None:
    ollama.version = version
    await client.upload({"config": config})
    async with offering(config, {}, 1) as name:
        status, answer = await client.request("POST", "/api/pull", model=name, insecure=True, stream=False)
    if error is None or version < "0.34.1":
        assert (status, len(ollama.models)) == (200, 1)
    else:
        assert (status, len(ollama.models)) == (500, 0)
        assert error in answer["error"]


async def test_names_ignore_case_and_keep_the_first_one(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    await client.lines("/api/create", model="Org/Tiny:Q8_0", files=files)
    await client.lines("/api/create", model="org/tiny:q8_0", files=files)
    assert list(ollama.models) == ["Org/Tiny:Q8_0"]
    # v0.24 takes the case of each part from any installed model.
    await client.lines("/api/create", model="https://hf.co/other/thing:q8_0", files=files)
    assert "hf.co/other/thing:Q8_0" in list(ollama.models)
    assert (await client.request("POST", "/api/copy", source="ORG/TINY:q8_0", destination="copy"))[0] == 200
    assert list(ollama.models)[-1] == "copy:latest"


async def test_a_blob_is_stored_once_under_its_true_digest(ollama: StandInOllama, client: Driver) -> None:
    data = os.urandom(3 << 20)
    digest = digest_of(data)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1 << 18):
            yield data[start : start + (1 << 18)]

    async with client.session.post(f"/api/blobs/{UNKNOWN_DIGEST}", data=chunks()) as response:
        assert response.status == 400
    assert ollama.blobs == {digest: len(data)}
    async with client.session.head(f"/api/blobs/{digest}") as response:
        assert response.status == 200
    assert ollama.requests[0].received == len(data)


async def test_an_existing_blobs_upload_is_not_read(ollama: StandInOllama, client: Driver) -> None:
    digest = digest_of(b"data")
    ollama.blobs[digest] = 4
    headers = {"Expect": "100-continue"}
    async with client.session.post(f"/api/blobs/{digest}", data=b"data", headers=headers) as response:
        assert response.status == 200
    assert ollama.requests[-1].received == 0
    async with client.session.post(f"/api/blobs/{digest_of(b'new')}", data=b"new", headers=headers) as response:
        assert response.status == 201


async def test_an_upload_that_breaks_off_leaves_nothing(ollama: StandInOllama, client: Driver) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"some"
        while not (ollama.requests and ollama.requests[-1].received):
            await asyncio.sleep(0)
        raise OSError("the source is gone")

    with pytest.raises(aiohttp.ClientOSError):
        await client.session.post(f"/api/blobs/{UNKNOWN_DIGEST}", data=chunks())
    ollama.fail_upload_after = 1000
    with pytest.raises(aiohttp.ClientError):
        await client.session.post(f"/api/blobs/{UNKNOWN_DIGEST}", data=bytes(5000))
    ollama.upload_status = 507
    async with client.session.post(f"/api/blobs/{UNKNOWN_DIGEST}", data=b"data") as response:
        assert response.status == 507
    assert ollama.blobs == {}


async def test_the_python_client_pulls_shows_chats_and_deletes(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(GGUF)
    async with ollama_client.AsyncClient(ollama.url) as theirs:
        progress = [step.status async for step in await theirs.create("x", files=files, stream=True)]
        assert progress[-1] == "success"
        message = {"role": "user", "content": "hello"}
        whole = await theirs.chat("x", [message])
        parts = [part async for part in await theirs.chat("x", [message], stream=True)]
        assert "".join(part.message.content or "" for part in parts) == whole.message.content
        assert (parts[-1].done, parts[-1].done_reason, whole.done) == (True, "stop", True)
        assert (await theirs.generate("x", "hello")).response == whole.message.content
        assert len((await theirs.embed("x", ["a", "b"])).embeddings) == 2
        assert [model.name for model in (await theirs.ps()).models] == ["x:latest"]
        assert (await theirs.generate("x", keep_alive=0)).done_reason == "unload"
        assert list((await theirs.ps()).models) == []
        details = (await theirs.show("x")).details
        assert details is not None
        assert details.quantization_level == "F16"
        await theirs.delete("x")
        assert list((await theirs.list()).models) == []


async def test_the_log_has_raw_paths_bodies_and_statuses(ollama: StandInOllama, client: Driver) -> None:
    await client.request("POST", URL("/api/show?a=%41", encoded=True), model="x")
    [logged] = ollama.requests
    assert (logged.method, logged.path, logged.status) == ("POST", "/api/show?a=%41", 404)
    assert orjson.loads(logged.body or b"") == {"model": "x"}
    assert logged.headers["content-type"] == "application/json"
