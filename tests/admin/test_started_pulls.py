"""`POST /-/pulls`: pulls that need no client."""

import asyncio
import hashlib
from typing import Any

import aiohttp
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.administration import NAME, SLOW, call, event_stream, start, wait_for_pull
from tests.kit.proxying import proxying
from tests.kit.support import Client


async def test_a_started_pull_needs_no_client(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxying(hub, ollama, session, pull={"linger": "0s"}) as (_, client):
        hub.line = SLOW
        job = await start(client, f"https://{NAME} ")
        assert (job["id"], job["name"], job["state"], job["clients"]) == ("1", NAME, "planning", 0)
        assert (await start(client, NAME.upper().replace("HF.CO", "hf.co")))["id"] == "1"
        visitor = asyncio.create_task(client.pull(NAME))
        await wait_for_pull(client, clients=1)
        visitor.cancel()
        await wait_for_pull(client, clients=0, state="transferring")
        await asyncio.sleep(0.1)
        hub.line = None
        done = await wait_for_pull(client, state="done")
        assert (done["id"], done["error"]) == ("1", None)
        assert NAME in ollama.models


async def test_a_clients_pull_can_be_kept_without_it(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxying(hub, ollama, session, pull={"linger": "2s"}) as (_, client):
        hub.line = SLOW
        visitor = asyncio.create_task(client.pull(NAME))
        await wait_for_pull(client, state="transferring")
        visitor.cancel()
        await wait_for_pull(client, clients=0)
        assert (await start(client, NAME))["id"] == "1"
        await asyncio.sleep(2.2)
        hub.line = None
        assert (await wait_for_pull(client, state="done"))["id"] == "1"


async def test_a_refused_pull_is_shown_as_failed(client: Client, hub: StandInHub) -> None:
    await start(client, "hf.co/acme/none")
    assert "acme/none" in (await wait_for_pull(client, state="failed"))["error"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"name": 1}', b'{"name": null}', b'{"name": "llama3.2"}', b'{"model": "hf.co/a/b"}']
)
async def test_an_invalid_name_starts_nothing(client: Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    status, answer = await call(client, "POST", "pulls", data=body, headers=headers)
    assert (status, list(answer)) == (400, ["error"])
    assert (await call(client, "GET", "pulls"))[1] == []


GGUF = "hf.co/acme/tiny-gguf:Q4_K_M"


async def test_ollamas_own_pull_is_followed(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(f"{GGUF.lower()} 0".encode()).hexdigest()
    file = "tiny.Q4_K_M.gguf"
    repository = hub.add("acme/tiny-gguf", {file: b"GGUF"}, digests={file: digest})
    ollama.native[GGUF] = 4_000_000
    go_on = asyncio.Event()
    pull = StandInOllama._pull_natively

    async def slowly(self: StandInOllama, name: str, lines: Any, **options: Any) -> None:
        write_line = lines.send

        async def send(line: dict[str, Any]) -> None:
            await write_line(line)
            if line.get("completed") == 2_000_000:
                await go_on.wait()

        monkeypatch.setattr(lines, "send", send)
        await pull(self, name, lines, **options)

    monkeypatch.setattr(StandInOllama, "_pull_natively", slowly)
    await start(client, GGUF)
    visitor = asyncio.create_task(client.pull(GGUF))
    on_its_way = await wait_for_pull(client, clients=1, state="transferring", completed=2_000_000)
    assert (on_its_way["total"], on_its_way["rate"] > 0) == (4_000_000, True)
    async with event_stream(client) as stream:
        [job] = await stream.until("running")
    assert job["files"]["moving"] == [{"path": file, "total": 4_000_000, "completed": 2_000_000}]
    go_on.set()
    done = await wait_for_pull(client, state="done")
    assert done["completed"] == done["total"] == 4_000_487
    lines = await visitor
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    assert {line["total"] for line in lines if "digest" in line} == {4_000_000, 487}
    assert len([request for request in ollama.requests if request.path == "/api/pull"]) == 1
    [model] = (await call(client, "GET", "models"))[1]
    assert (model["name"], model["commit"], model["changed"]) == (GGUF, repository.commit, False)


async def test_a_native_pull_that_fails_says_why(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF"})
    await start(client, GGUF)
    assert (await wait_for_pull(client, state="failed"))["error"] == "pull model manifest: file does not exist"


async def test_a_client_still_gets_ollamas_own_pull(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    """If nobody has started the pull through `/-/pulls`."""
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF"})
    ollama.native[GGUF] = 4
    assert (await client.pull(GGUF))[-1] == {"status": "success"}
    assert (await call(client, "GET", "pulls"))[1] == []
