"""The conversion of SmolLM2 on a real Ollama: the disk space that it needs, and when a model is replaced."""

import time
from collections.abc import Mapping
from itertools import pairwise

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.real_ollama import RealOllama, measured_usage
from tests.kit.smollm2 import Smollm2
from tests.kit.support import Client, settings
from tests.real.test_lifecycle import reply

pytestmark = pytest.mark.timeout(300)

MAX_SILENT = 10
"""The longest allowed time without a line, in seconds: that of the contract."""


@pytest.fixture(scope="module")
def repositories(real_ollama: RealOllama, smollm2: Smollm2) -> Mapping[str, dict[str, bytes]]:
    """The repository's files by the type of the weights."""
    chat = {"tokenizer_config.json": smollm2.tokenizer_config(chat_template=smollm2.jinja)}
    return {dtype: smollm2.files(dtype) | chat for dtype in ("BF16", "F16")}


async def lines_of(client: Client, name: str) -> list[tuple[float, str]]:
    """The lines of a pull with the times of their arrival. The first entry is the time of the request."""
    lines = [(time.monotonic(), "request")]
    async with client.session.post(f"{client.url}/api/pull", json={"model": name}) as response:
        async for line in response.content:
            fields = orjson.loads(line)
            lines.append((time.monotonic(), fields.get("error") or fields["status"]))
    return lines


async def test_the_store_grows_only_by_the_result(
    real_ollama: RealOllama,
    hub: StandInHub,
    session: aiohttp.ClientSession,
    repositories: Mapping[str, dict[str, bytes]],
) -> None:
    """At no time does it hold more than the finished model and small files. The stream is never silent for long."""
    hub.add("acme/peak-SmolLM2", repositories["BF16"])
    name = "hf.co/acme/peak-SmolLM2:q4_K_M"
    before = set(real_ollama.orphans)
    config = settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        with measured_usage(real_ollama.home / "models" / "blobs") as sizes:
            lines = await lines_of(Client(app.address.url, session), name)
        assert lines[-1][1] == "success"
        result = (await real_ollama.gguf_file(name)).stat().st_size
        assert (await real_ollama.cli(app.address.url, "rm", name))[0] == 0
    peak = max(sizes) - sizes[0]
    silence, where = max(
        (later - earlier, f"{one!r} and {other!r}") for (earlier, one), (later, other) in pairwise(lines)
    )
    print(f"the store needs {peak / result:.2f} times the result; longest silence: {silence:.1f} s between {where}")
    assert result <= peak < result + 100_000
    assert silence <= MAX_SILENT
    assert set(real_ollama.orphans) <= before


@pytest.mark.parametrize("tag", ["bf16", "q4_K_M"])
async def test_a_model_that_cannot_be_loaded_replaces_nothing(
    real_ollama: RealOllama,
    hub: StandInHub,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
) -> None:
    """`pull.verify` makes the proxy load the model before it replaces the old one."""
    monkeypatch.setattr("proxy.gguf.conversion.check_loadable", lambda *_: None)
    files, name = REPOSITORIES["llama"].files(), f"hf.co/acme/verified:{tag}"
    config = settings(hub.endpoint, real_ollama.url, ollama={"reclaim": True}, pull={"verify": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        repository = hub.add("acme/verified", files)
        status, shown = await real_ollama.cli(app.address.url, "pull", name)
        assert status == 0, shown
        assert "verifying conversion" in shown
        first = await real_ollama.gguf_file(name), await reply(client, name)

        wrong = orjson.loads(files["config.json"])
        wrong["intermediate_size"] *= 2
        repository.update({"config.json": orjson.dumps(wrong)})
        status, shown = await real_ollama.cli(app.address.url, "pull", name)
        assert status == 1, shown
        assert f"{name} is made, but Ollama cannot load it" in shown
        assert "nothing was replaced" in shown
        assert "writing manifest" not in shown
        assert (await real_ollama.gguf_file(name), await reply(client, name)) == first
