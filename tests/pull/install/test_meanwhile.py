"""Sweeps, clients that leave, removals and other pulls while a model is installed."""

import asyncio
import random
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.conversions import gguf_digest, weights_of
from tests.kit.interrupted_installs import (
    COPIES,
    NAME,
    NEW,
    OLD,
    QUANTIZED,
    SUCCESS,
    Script,
    check_clean,
    proxy,
    replace,
    sweep,
    weights_digest,
)
from tests.kit.support import Client, eventually, fetched, settings
from tests.kit.tiny_gguf import tiny_gguf

HELD = [("POST /api/pull", 1), *COPIES]


@pytest.mark.parametrize(("step", "number"), HELD)
async def test_a_sweep_leaves_a_running_install_alone(
    client: Client, hub: StandInHub, ollama: StandInOllama, step: str, number: int
) -> None:
    """A dry run names nothing of it either."""
    await replace(client, hub, NAME)
    script = Script(ollama, step, number)
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(script.held.is_set)
    before = set(ollama.blobs), set(ollama.models)
    for dry_run in (True, False):
        reclaimed = await sweep(client, dry_run=dry_run)
        # The sweep may remove what no model needs: the probe for mismatched digests.
        assert reclaimed["models"] == []
        assert not {blob["digest"] for blob in reclaimed["blobs"]} & (
            {gguf_digest(NEW, NAME)} | ollama.models.used_digests()
        )
        assert (set(ollama.blobs), set(ollama.models)) == before
    script.go.set()
    assert (await pulling)[-1] == SUCCESS
    assert weights_digest(ollama, NAME) == gguf_digest(NEW, NAME)
    check_clean(ollama, NAME)


@pytest.mark.parametrize(("step", "number"), HELD)
async def test_a_cancelled_install_ends_and_leaves_nothing(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, step: str, number: int
) -> None:
    await replace(client, hub, NAME)
    script = Script(ollama, step, number)
    pulling = asyncio.create_task(client.pull(NAME))
    await eventually(script.held.is_set)
    job = app.jobs.all()[0]
    async with client.session.delete(
        f"{client.url}/-/pulls/{job.id}", headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 200
    assert "was cancelled" in (await pulling)[-1]["error"]
    script.go.set()
    await eventually(lambda: job.ended)
    assert weights_digest(ollama, NAME) == gguf_digest(NEW, NAME)
    await sweep(client)
    check_clean(ollama, NAME)
    hub.requests.clear()
    assert (await client.pull(NAME))[-1] == SUCCESS
    assert not fetched(hub)


@pytest.mark.parametrize("name", [NAME, QUANTIZED])
@pytest.mark.parametrize("in_transfer", [True, False])
async def test_removing_a_model_during_its_install_removes_all(
    app: App, client: Client, hub: StandInHub, ollama: StandInOllama, name: str, in_transfer: bool
) -> None:
    """The next pull makes it again."""
    hub.add("acme/tiny", OLD)
    if in_transfer:
        ollama.hold_upload = asyncio.Event()
    script = Script(ollama, "POST /api/copy" if name == NAME else "POST /api/pull", 1)
    pulling = asyncio.create_task(client.pull(name))
    if in_transfer:
        await eventually(lambda: any(one.path.startswith("/api/blobs/") for one in ollama.requests))
        await eventually(lambda: app.jobs.all()[0].state == "transferring")
    else:
        await eventually(script.held.is_set)

    async def remove() -> int:
        async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
            return response.status

    removing = asyncio.create_task(remove())
    assert "was removed while it was pulled" in (await pulling)[-1]["error"]
    script.go.set()
    if ollama.hold_upload is not None:
        ollama.hold_upload.set()
    assert await removing == 200
    assert not ollama.models
    ollama.hold_upload = None
    assert (await client.pull(name))[-1] == SUCCESS
    check_clean(ollama, name)
    async with client.session.delete(f"{client.url}/api/delete", json={"model": name}) as response:
        assert response.status == 200
    check_clean(ollama)


@pytest.mark.parametrize("tag", ["bf16", "q8_0"])
async def test_two_names_share_a_transfer_and_are_two_models(
    client: Client, hub: StandInHub, ollama: StandInOllama, tag: str
) -> None:
    hub.add("acme/tiny", NEW)
    names = [f"{host}/acme/tiny:{tag}" for host in ("hf.co", "huggingface.co")]
    answers = await asyncio.gather(*(client.pull(name) for name in names))
    assert [lines[-1] for lines in answers] == [SUCCESS, SUCCESS]
    assert sum(one.body_bytes for one in fetched(hub)) == sum(weights_of(NEW).values())
    of = gguf_digest(NEW, names[0])
    assert [weights_digest(ollama, name) for name in names] == [of] * 2
    check_clean(ollama, *names)
    for gone, left in ((names[0], names[1:]), (names[1], [])):
        async with client.session.delete(f"{client.url}/api/delete", json={"model": gone}) as response:
            assert response.status == 200
        check_clean(ollama, *left)
        assert all(weights_digest(ollama, name) == of for name in left)


@pytest.mark.parametrize("linger", ["5m", "0s"])
async def test_thirty_clients_share_three_quantizations(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, linger: str
) -> None:
    """The clients come and go at random."""
    hub.add("acme/tiny", NEW)
    hub.rate = 3_000_000
    names = [f"hf.co/acme/tiny:{tag}" for tag in ("bf16", "q8_0", "q4_K_M")]
    chance = random.Random(3)
    async with proxy(hub, ollama, session, linger=linger) as (app, client):

        async def visit(name: str, stays: list[int]) -> dict[str, Any]:
            last: dict[str, Any] = {}
            for count in stays:
                async with session.post(f"{client.url}/api/pull", json={"model": name}) as response:
                    for _ in range(count):
                        if not (line := await response.content.readline()):
                            break
                        last = orjson.loads(line)
                    response.close()
                if last == SUCCESS:
                    return last
            return (await client.pull(name))[-1]

        visits = [(name, [chance.randrange(1, 8) for _ in range(2)]) for name in names * 10]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(visit(name, stays) for name, stays in visits))
        assert answers == [SUCCESS] * 30
        await eventually(lambda: all(job.ended for job in app.jobs.all()))
        await sweep(client)
        assert app.backend.streams.idle
        assert weights_digest(ollama, names[0]) == gguf_digest(NEW, NAME)
        assert weights_digest(ollama, names[1]) == gguf_digest(NEW, names[1])
        assert weights_digest(ollama, names[2]) == gguf_digest(NEW, names[2])
        check_clean(ollama, *names)
        if linger == "5m":
            assert sum(one.body_bytes for one in fetched(hub)) == 3 * sum(weights_of(NEW).values())


async def test_an_unusable_template_is_refused(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """Before a weight byte."""
    async with proxy(hub, ollama, session) as (_, client):
        await replace(client, hub, NAME)
    models = {"hf.co/acme/tiny": {"template": "{{ .Prompt"}}
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, models=models)
    async with App(config) as app:
        client = Client(app.address.url, session)
        error = (await client.pull(NAME))[-1]["error"]
        assert error == f"Ollama cannot use the template of {NAME}: template: :1: unclosed action"
        assert not fetched(hub)
        assert weights_digest(ollama, NAME) == gguf_digest(OLD, NAME)
        await sweep(client)
        check_clean(ollama, NAME)


async def test_a_template_check_survives_another_create(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """A pull that makes a model removes unneeded temporary models, but not the one of a running template check."""
    hub.add("acme/tiny", NEW)
    hub.add("acme/other", {"m-Q4_K_M.gguf": tiny_gguf()})
    models = {"hf.co/acme/tiny": {"template": "{{ .Prompt"}}
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True}, models=models)
    async with App(config) as app:
        client = Client(app.address.url, session)
        script = Script(ollama, "POST /api/show", 1)
        trying = asyncio.create_task(client.pull(NAME))
        await eventually(script.held.is_set)
        other = asyncio.create_task(client.pull("hf.co/acme/other:q4_K_M"))
        await asyncio.wait([other], timeout=2)
        script.go.set()
        assert "unclosed action" in (await trying)[-1]["error"]
        assert (await other)[-1] == SUCCESS
        await sweep(client)
    check_clean(ollama, "hf.co/acme/other:q4_K_M")
