"""A folder of this machine as the source: the digests of its files are unknown before they are read."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.inspection import inspect
from proxy.sources import folder
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.ollama_log import last_bars, uploads
from tests.kit.support import MAKING, PLAIN, Client, digest_of, eventually, making, settings
from tests.kit.tiny_gguf import tiny_gguf

NAME = "home/acme/tiny:q4_K_M"
WEIGHTS = "model.safetensors"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


def put(home: Path, files: dict[str, bytes], repository: str = "acme/tiny") -> dict[str, bytes]:
    for path, content in files.items():
        place = home / repository / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return files


def sources(home: Path) -> dict[str, Any]:
    home.mkdir(parents=True, exist_ok=True)
    return {"home": {"type": "folder", "path": str(home)}}


@pytest.fixture
async def client(home: Path, ollama: StandInOllama, session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with App(settings("http://127.0.0.1:9", ollama.url, sources=sources(home))) as app:
        yield Client(app.address.url, session)


def weights(ollama: StandInOllama, name: str = NAME) -> str:
    """The digest of a model's weights."""
    [layer] = [layer for layer in ollama.models[name].layers if layer.kind == "model"]
    return layer.digest


def making_bodies(ollama: StandInOllama) -> list[dict[str, Any]]:
    return [orjson.loads(request.body or b"{}") for request in ollama.requests if request.path in MAKING]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("keeps", [True, False])
async def test_a_result_is_uploaded_before_its_digest_is_known(
    client: Client, home: Path, ollama: StandInOllama, shards: int, keeps: bool
) -> None:
    """Under another digest if Ollama keeps such uploads, else through a spool."""
    ollama.keeps_mismatched = keeps
    files = put(home, tiny_llama(shards=shards))
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    gguf = converted(files, quantization="Q4_K_M")
    assert weights(ollama) == digest_of(gguf)
    assert ollama.blobs[digest_of(gguf)] == len(gguf)
    expected = {path: content for path, content in files.items() if path.endswith(".safetensors")}
    bars = last_bars(lines)
    assert sorted(bars.values()) == sorted((len(content), len(content)) for content in expected.values())
    assert not bars.keys() & {digest_of(content) for content in expected.values()}


async def test_a_second_pull_ends_well_with_the_same_blobs_and_bars(
    client: Client, home: Path, ollama: StandInOllama
) -> None:
    put(home, tiny_llama())
    first = await client.pull(NAME)
    blobs, making_before = dict(ollama.blobs), len(making(ollama.requests))
    second = await client.pull(NAME)
    assert second[-1] == {"status": "success"}
    assert ollama.blobs == blobs
    assert last_bars(first) == last_bars(second)
    assert len(making(ollama.requests)) == making_before


async def test_a_file_that_was_changed_is_another_to_the_next_pull(
    client: Client, home: Path, ollama: StandInOllama
) -> None:
    files = put(home, tiny_llama())
    first = await client.pull(NAME)
    other = put(home, {WEIGHTS: tiny_llama(seed=1)[WEIGHTS]})[WEIGHTS]
    second = await client.pull(NAME)
    assert second[-1] == {"status": "success"}
    assert weights(ollama) == digest_of(converted(files | {WEIGHTS: other}, quantization="Q4_K_M"))
    assert not last_bars(first).keys() & last_bars(second).keys()


async def test_a_file_that_changes_while_it_is_pulled_ends_the_pull(
    client: Client, home: Path, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = put(home, tiny_llama())
    other = tiny_llama(seed=1)[WEIGHTS]
    read, count = folder._read, 0

    def change(*arguments: Any) -> Any:
        nonlocal count
        count += arguments[1] == folder.CHUNK_BYTES
        if count == 2:
            (home / "acme/tiny" / WEIGHTS).write_bytes(other)
        return read(*arguments)

    monkeypatch.setattr(folder, "_read", change)
    lines = await client.pull(NAME)
    assert lines[-1] == {
        "error": f"acme/tiny/{WEIGHTS} has changed since the pull began; pull again when it no longer changes"
    }
    assert all(size < 1_000_000 for size in ollama.blobs.values())
    assert not making(ollama.requests)
    monkeypatch.undo()
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert weights(ollama) == digest_of(converted(files | {WEIGHTS: other}, quantization="Q4_K_M"))


async def test_a_held_result_is_not_uploaded_again(client: Client, home: Path, ollama: StandInOllama) -> None:
    """When the digest of the result is known."""
    files = put(home, tiny_llama())
    await client.pull(NAME)
    before = uploads(ollama)
    del ollama.models[NAME]
    second = await client.pull(NAME)
    assert uploads(ollama) == before
    assert weights(ollama) == digest_of(converted(files, quantization="Q4_K_M"))
    assert [total == done for total, done in last_bars(second).values()] == [True]


async def test_a_gguf_of_a_folder_is_never_ollamas_own_pull(
    client: Client, home: Path, ollama: StandInOllama, public_hub: None
) -> None:
    whole = tiny_gguf()
    put(home, {"Tiny-Q4_K_M.gguf": whole})
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert weights(ollama) == digest_of(whole)
    model = ollama.models[NAME]
    assert not [body for body in making_bodies(ollama) if body["model"] == NAME]
    assert model.template == PLAIN["template"]
    [bar] = last_bars(lines).values()
    assert bar == (len(whole), len(whole))


async def test_a_cache_of_huggingface_hub_knows_the_digests(client: Client, home: Path, ollama: StandInOllama) -> None:
    """So that blobs that Ollama holds do not move."""
    files = tiny_llama() | {"tiny-Q8_0.gguf": tiny_gguf("Q8_0")}
    cache = home / "models--acme--tiny"
    snapshot = cache / "snapshots" / ("c" * 40)
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("c" * 40)
    snapshot.mkdir(parents=True)
    for path, content in files.items():
        blob = hashlib.sha256(content).hexdigest()
        (cache / "blobs" / blob).write_bytes(content)
        (snapshot / path).symlink_to(f"../../blobs/{blob}")
    lines = await client.pull(NAME)
    assert last_bars(lines) == {digest_of(files[WEIGHTS]): (len(files[WEIGHTS]),) * 2}
    whole = files["tiny-Q8_0.gguf"]
    ollama._store.keep(whole)
    before = len(ollama.requests)
    lines = await client.pull("home/acme/tiny:q8_0")
    assert lines[-1] == {"status": "success"}
    assert last_bars(lines) == {digest_of(whole): (len(whole),) * 2}
    assert weights(ollama, "home/acme/tiny:q8_0") == digest_of(whole)
    assert all(request.received < 1000 for request in ollama.requests[before:])


async def test_inspect_of_a_folder(home: Path, ollama: StandInOllama) -> None:
    files = put(home, tiny_llama())
    inspection = (await inspect(settings("http://127.0.0.1:9", ollama.url, sources=sources(home)), NAME)).to_json()
    by_path = {file["path"]: file for file in inspection["files"]}
    size = len(converted(files, quantization="Q4_K_M"))
    assert by_path["model.gguf"] == {"path": "model.gguf", "size": size, "digest": None, "held": False}
    assert inspection["refusal"] is None
    assert not ollama.blobs


async def test_leaving_ends_an_upload_without_a_digest(
    home: Path, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    files = put(home, tiny_llama())
    config = settings("http://127.0.0.1:9", ollama.url, sources=sources(home), pull={"linger": "0s"})
    async with App(config) as app:
        client = Client(app.address.url, session)
        await client.pull("home/acme/tiny:f16")  # now the proxy knows that Ollama keeps mismatched uploads
        ollama.blobs.clear()
        ollama.requests.clear()
        ollama.hold_upload = asyncio.Event()
        pulling = asyncio.create_task(client.post("/api/pull", {"model": NAME}))
        await eventually(lambda: any(one.method == "POST" and "/api/blobs/" in one.path for one in ollama.requests))
        pulling.cancel()
        await eventually(lambda: all(job.ended for job in app.jobs.all()))
        ollama.hold_upload.set()
    assert digest_of(converted(files, quantization="Q4_K_M")) not in ollama.blobs
    assert not making(ollama.requests)
