"""The page at `/-/` and what it asks for: the plan, pulls of the proxy's own, their stream, and the models."""

import asyncio
import base64
import hashlib
import re
import socket
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from proxy.admin import events, models
from proxy.app import App
from proxy.config import Quantization
from proxy.gguf import engine_ggml
from proxy.inspection import inspect
from proxy.planning.capabilities import NOT_RUN
from proxy.sources import huggingface
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInModel, StandInOllama
from proxy.standins.repository import tiny_llama
from proxy.transfer import retry, window
from tests.kit.support import PATIENCE, Client, eventually, settings, settled
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf

NAME = "hf.co/acme/tiny:f16"
KEY = "sk-own"
LEAST_SETUPTOOLS = 77
SLOW = 300_000
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(window, "BATCH_SECONDS", 0.01)


@pytest.fixture
def files(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama(shards=3)
    hub.add("acme/tiny", files)
    return files


@asynccontextmanager
async def proxying(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, /, **sections: dict[str, Any]
) -> AsyncIterator[Client]:
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        yield Client(app.address.url, session)


async def call(client: Client, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.session.request(method, f"{client.url}/-/{path}", **options) as response:
        return response.status, orjson.loads(await response.read())


async def start(client: Client, name: str) -> dict[str, Any]:
    status, job = await call(client, "POST", "pulls", json={"name": name})
    assert status == 202, job
    assert isinstance(job, dict)
    return job


async def seen(client: Client, **fields: Any) -> dict[str, Any]:
    """The newest pull, once these fields of it are so."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = (await call(client, "GET", "pulls"))[1]
            if shown and all(shown[0][field] == value for field, value in fields.items()):
                return dict(shown[0])
            await asyncio.sleep(0.01)


# GET /-/


class Document(HTMLParser):
    """What a browser would hash, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inside = ""
        self.contents: dict[str, list[str]] = {"script": [], "style": []}
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for name, value in attributes:
            if name in ("src", "href", "action", "data", "poster", "srcset") and not (value or "").startswith("data:"):
                self.loads.append(f"{tag} {value}")
            if name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, _: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.contents:
            self.contents[self.inside].append(data)


def policy_of(response: aiohttp.ClientResponse) -> dict[str, list[str]]:
    rules = [rule.split() for rule in response.headers["Content-Security-Policy"].split(";")]
    return {name: values for name, *values in rules}


async def test_the_page_allows_only_its_own_content(client: Client) -> None:
    async with client.session.get(f"{client.url}/-/", headers=BROWSER) as response:
        text = (await response.read()).decode()
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        policy = policy_of(response)
    found = Document(text)
    hashes = {}
    for tag, contents in found.contents.items():
        hashed = hashlib.sha256("".join(contents).encode()).digest()
        hashes[tag] = [f"'sha256-{base64.b64encode(hashed).decode()}'"]
        assert "".join(contents).strip()
    assert policy == {
        "default-src": ["'none'"],
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "img-src": ["data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["'none'"],
    }
    assert (found.loads, found.inline) == ([], [])
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    assert len(text.encode()) < 40_000


def test_the_script_makes_no_markup_from_text() -> None:
    script = Path("proxy/server/page.html").read_text(encoding="utf-8")
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\(", script)


async def test_the_page_has_a_head_of_its_own(client: Client) -> None:
    async with client.session.head(f"{client.url}/-/") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_a_wheel_holds_the_page(tmp_path: Path) -> None:
    """Built of what git knows, so that no build folder is left or used."""
    known = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = await asyncio.create_subprocess_exec(*known, stdout=asyncio.subprocess.PIPE)
    names = (await listed.communicate())[0].decode().splitlines()
    for name in names:
        if name.startswith(("proxy/", "pyproject", "README", "LICENSE")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(Path(name).read_bytes())
    if int(version("setuptools").partition(".")[0]) < LEAST_SETUPTOOLS:
        pytest.skip(f"a wheel is built by setuptools {LEAST_SETUPTOOLS} or newer, which is not installed")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "."]
    built = await asyncio.create_subprocess_exec(*build, cwd=tmp_path)
    assert await built.wait() == 0
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("proxy/server/page.html") == Path("proxy/server/page.html").read_bytes()


# Who may


ASKED = [("GET", "events"), ("GET", "inspect?name=hf.co/acme/tiny"), ("GET", "models"), ("GET", "pulls"), ("GET", "")]
CHANGES = [("POST", "pulls"), ("DELETE", "pulls/1")]


@pytest.mark.parametrize(("method", "path"), ASKED + CHANGES)
async def test_without_a_key_nothing_is_shown(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, method: str, path: str
) -> None:
    server = {"listen": "127.0.0.1:0", "api_keys": [KEY]}
    async with proxying(hub, ollama, session, server=server) as client:
        for prefix in ("", "key/wrong/-/", "key/-/"):
            status, answer = await call(client, method, prefix + path, json={"name": NAME})
            assert (status, list(answer)) == (401, ["error"])
        assert not hub.requests
        async with session.request(method, f"{client.url}/-/key/{KEY}/-/{path}", json={"name": NAME}) as response:
            assert response.status != 401


async def test_a_page_without_a_key_explains_how_to_send_one(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    server = {"listen": "127.0.0.1:0", "api_keys": [KEY]}
    async with proxying(hub, ollama, session, server=server) as client:
        async with session.get(f"{client.url}/-/", headers=BROWSER) as response:
            text = (await response.read()).decode()
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
            assert policy_of(response)["default-src"] == ["'none'"]
            assert "script-src" not in policy_of(response)
        assert "/-/key/<b>KEY</b>/-/" in text
        assert "<script" not in text
        assert len(text) < 1000
        async with session.get(f"{client.url}/-/key/{KEY}/-/", headers=BROWSER) as response:
            assert "<script>" in await response.text()
        status, answer = await call(client, "GET", "pulls", headers=BROWSER)
        assert (status, list(answer)) == (401, ["error"])


@pytest.mark.parametrize(("method", "path"), ASKED + CHANGES)
async def test_another_sites_page_gets_nothing(client: Client, hub: StandInHub, method: str, path: str) -> None:
    status, answer = await call(client, method, path, json={"name": NAME}, headers={"Origin": "https://evil.example"})
    assert (status, list(answer)) == (403, ["error"])
    assert not hub.requests


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_form_of_another_site_starts_nothing(client: Client, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    status, _ = await call(client, "POST", "pulls", data=b'{"name": "hf.co/acme/tiny"}', headers=headers)
    assert status == 415
    assert (await call(client, "GET", "pulls"))[1] == []


# GET /-/inspect


async def test_the_plan_is_the_commands(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    status, found = await call(client, "GET", "inspect", params={"name": " hf.co/acme/tiny "})
    assert status == 200
    assert found == (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/tiny")).to_json()
    assert found["refusal"] is None
    assert not [request for request in ollama.requests if request.method == "POST"]


USUAL = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16"]
# An MXFP4_MOE without experts would be a Q8_0.
OURS = [one for one in Quantization if one not in (*NOT_RUN, "MXFP4_MOE")]

needs_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


@needs_ggml
async def test_every_offer_has_the_size_of_its_own_plan(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
) -> None:
    async with proxying(hub, ollama, session) as client:
        offers = (await call(client, "GET", "inspect?name=hf.co/acme/tiny"))[1]["offers"]
        assert [offer["quantization"] for offer in offers] == OURS
        for offer in offers:
            own = (await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{offer['quantization']}"))[1]
            assert own["result_size"] == offer["size"], offer


@needs_ggml
async def test_the_usual_quantizations_come_first_and_say_so(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxying(hub, ollama, session) as client:
        offers = (await call(client, "GET", "inspect?name=hf.co/acme/tiny:q3_k_s"))[1]["offers"]
    assert [offer["quantization"] for offer in offers[:6]] == USUAL
    assert [offer["usual"] for offer in offers] == [True] * 6 + [False] * (len(OURS) - 6)
    assert all(offer.keys() == {"quantization", "size", "usual"} for offer in offers)


async def test_the_gguf_of_a_repository_are_offered_with_their_sizes(client: Client, hub: StandInHub) -> None:
    small, large, shard = tiny_gguf("Q4_K_M"), tiny_gguf("Q8_0"), tiny_gguf("F16")
    files = {"a.Q4_K_M.gguf": small, "b.Q4_K_M.gguf": small, "a.Q8_0.gguf": large, "mmproj-a.gguf": b"12345"}
    files |= {f"a.F16-0000{number}-of-00002.gguf": shard for number in (1, 2)}
    hub.add("acme/tiny-gguf", files)
    offers = (await call(client, "GET", "inspect?name=hf.co/acme/tiny-gguf"))[1]["offers"]
    assert {offer["quantization"]: offer["size"] for offer in offers} == {
        "Q4_K_M": len(small) + 5,
        "b.Q4_K_M.gguf": len(small) + 5,
        "Q8_0": len(large) + 5,
        "F16": 2 * len(shard) + 5,
    }


@needs_ggml
async def test_a_gguf_wins_the_tag_over_the_safetensors(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    gguf = tiny_gguf("Q8_0")
    hub.add("acme/both", files | {"tiny.Q8_0.gguf": gguf, "tiny.Q5_K_M.gguf": gguf})
    offers = (await call(client, "GET", "inspect?name=hf.co/acme/both"))[1]["offers"]
    assert [offer["quantization"] for offer in offers] == [
        *("Q5_K_M", "Q8_0"),
        *(one for one in OURS if one not in ("Q5_K_M", "Q8_0")),
    ]
    assert offers[1]["size"] == len(gguf)


@needs_ggml
async def test_converted_offers_follow_the_gguf_ones(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    """No tag is offered twice."""
    gguf = tiny_gguf("Q8_0")
    hub.add("acme/both", files | {"tiny.Q8_0.gguf": gguf, "tiny.Q3_K_S.gguf": gguf})
    async with proxying(hub, ollama, session) as client:
        offers = (await call(client, "GET", "inspect?name=hf.co/acme/both"))[1]["offers"]
    made = [one for one in OURS if one not in ("Q8_0", "Q3_K_S")]
    assert [offer["quantization"] for offer in offers] == ["Q3_K_S", "Q8_0", *made]
    assert [offer["usual"] for offer in offers[:2]] == [True, True]  # whatever it is, it is there


async def test_an_adapter_is_offered_in_the_quantizations_of_its_base(client: Client, hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_llama())
    hub.add("acme/adapter", tiny_adapter("acme/tiny"))
    found = (await call(client, "GET", "inspect?name=hf.co/acme/adapter:q8_0"))[1]
    assert found["refusal"] is None
    assert "Q4_K_M" in [offer["quantization"] for offer in found["offers"]]


async def test_a_tag_that_is_refused_gets_the_tags_that_are_not(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    hub.add("acme/tiny-gguf", {"a.Q4_K_M.gguf": tiny_gguf()})
    safetensors = (await call(client, "GET", "inspect?name=hf.co/acme/tiny:iq1_s"))[1]
    gguf = (await call(client, "GET", "inspect?name=hf.co/acme/tiny-gguf:q3_k_m"))[1]
    assert "IQ1_S needs an importance matrix" in safetensors["refusal"]
    assert {"F16", "BF16", "F32"} <= {offer["quantization"] for offer in safetensors["offers"]}
    assert "no GGUF for the tag" in gguf["refusal"]
    assert [offer["quantization"] for offer in gguf["offers"]] == ["Q4_K_M"]


@needs_ggml
@pytest.mark.parametrize(
    ("tag", "message"),
    [("q9", "there is no quantization 'q9'"), ("iq1_s", "IQ1_S needs an importance matrix"), ("tq1_0", "does not run")],
)
async def test_a_tag_that_the_proxy_refuses_gets_those_that_it_makes(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
    tag: str,
    message: str,
) -> None:
    async with proxying(hub, ollama, session) as client:
        found = (await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{tag}"))[1]
    assert message in found["refusal"]
    assert [offer["quantization"] for offer in found["offers"]] == OURS


@pytest.mark.parametrize("name", ["", "llama3.2", MARKUP, "registry.example/a/b"])
async def test_an_invalid_name_is_refused(client: Client, hub: StandInHub, name: str) -> None:
    async with client.session.get(f"{client.url}/-/inspect", params={"name": name} if name else {}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        found = orjson.loads(await response.read())
    assert found["name"] == name
    assert "is not a name of the form hf.co/ORG/REPO[:TAG]" in found["refusal"]
    assert not hub.requests


# POST /-/pulls


async def test_a_started_pull_needs_no_client(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxying(hub, ollama, session, pull={"linger": "0s"}) as client:
        hub.line = SLOW
        job = await start(client, f"https://{NAME} ")
        assert (job["id"], job["name"], job["state"], job["clients"]) == ("1", NAME, "planning", 0)
        assert (await start(client, NAME.upper().replace("HF.CO", "hf.co")))["id"] == "1"
        visitor = asyncio.create_task(client.pull(NAME))
        await seen(client, clients=1)
        visitor.cancel()
        await seen(client, clients=0, state="transferring")
        await asyncio.sleep(0.1)
        hub.line = None
        done = await seen(client, state="done")
        assert (done["id"], done["error"]) == ("1", None)
        assert NAME in ollama.models


async def test_a_clients_pull_can_be_kept_without_it(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxying(hub, ollama, session, pull={"linger": "2s"}) as client:
        hub.line = SLOW
        visitor = asyncio.create_task(client.pull(NAME))
        await seen(client, state="transferring")
        visitor.cancel()
        await seen(client, clients=0)
        assert (await start(client, NAME))["id"] == "1"
        await asyncio.sleep(2.2)
        hub.line = None
        assert (await seen(client, state="done"))["id"] == "1"


async def test_a_refused_pull_is_shown_as_failed(client: Client, hub: StandInHub) -> None:
    await start(client, "hf.co/acme/none")
    assert "acme/none" in (await seen(client, state="failed"))["error"]


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

    async def slowly(self: StandInOllama, asked: str, lines: Any, **options: Any) -> None:
        said = lines.say

        async def say(line: dict[str, Any]) -> None:
            await said(line)
            if line.get("completed") == 2_000_000:
                await go_on.wait()

        monkeypatch.setattr(lines, "say", say)
        await pull(self, asked, lines, **options)

    monkeypatch.setattr(StandInOllama, "_pull_natively", slowly)
    await start(client, GGUF)
    visitor = asyncio.create_task(client.pull(GGUF))
    on_its_way = await seen(client, clients=1, state="transferring", completed=2_000_000)
    assert (on_its_way["total"], on_its_way["rate"] > 0) == (4_000_000, True)
    async with listening(client) as stream:
        [job] = await stream.until("running")
    assert job["files"]["moving"] == [{"path": file, "total": 4_000_000, "completed": 2_000_000}]
    go_on.set()
    done = await seen(client, state="done")
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
    assert (await seen(client, state="failed"))["error"] == "pull model manifest: file does not exist"


async def test_a_client_still_gets_ollamas_own_pull(
    client: Client, hub: StandInHub, ollama: StandInOllama, public_hub: None
) -> None:
    """Where nobody has made it the proxy's."""
    hub.add("acme/tiny-gguf", {"tiny.Q4_K_M.gguf": b"GGUF"})
    ollama.native[GGUF] = 4
    assert (await client.pull(GGUF))[-1] == {"status": "success"}
    assert (await call(client, "GET", "pulls"))[1] == []


# GET /-/events


class Stream:
    """What an EventSource would make of it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[str] = []
        self.comments: list[str] = []

    async def next(self) -> tuple[str, list[dict[str, Any]]]:
        """The next event and its data."""
        while True:
            name, data = "message", []
            while line := (await self.response.content.readline()).decode().rstrip("\n"):
                field, _, value = line.partition(":")
                if not field:
                    self.comments.append(value)
                elif field == "event":
                    name = value.strip()
                elif field == "data":
                    data.append(value.strip())
                else:
                    assert line == "retry: 1000"
            if data:
                self.events.append(name)
                return name, orjson.loads("\n".join(data))
            assert not self.response.content.at_eof(), "the stream has ended"

    async def until(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """An event of this name whose first pull has these fields."""
        async with asyncio.timeout(PATIENCE):
            while True:
                said, pulls = await self.next()
                if said == name and pulls and all(pulls[0][field] == value for field, value in fields.items()):
                    return pulls


@asynccontextmanager
async def listening(client: Client) -> AsyncIterator[Stream]:
    async with client.session.get(f"{client.url}/-/events") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Stream(response)


async def test_the_stream_begins_with_all_pulls(client: Client, files: dict[str, bytes]) -> None:
    await client.pull_at_once("hf.co/acme/none")
    await client.pull(NAME)
    async with listening(client) as stream:
        assert await stream.next() == ("running", [])
        name, ended = await stream.next()
    assert name == "ended"
    listed = (await call(client, "GET", "pulls"))[1]
    assert [{key: pull[key] for key in listed[0]} for pull in ended] == listed


async def test_the_stream_shows_a_pull_from_begin_to_end(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    hub.line = SLOW
    async with listening(client) as stream:
        await start(client, NAME)
        [pull] = await stream.until("running", state="transferring")
        while not pull["files"]["moving"]:
            [pull] = await stream.until("running")
        assert pull["cancelled"] is False
        assert (pull["files"]["count"], pull["files"]["done"]) == (3, 0)
        [part, *_] = pull["files"]["moving"]
        assert part["total"] == len(files[part["path"]])
        assert 0 < part["completed"] < part["total"]
        hub.line = None
        [pull] = await stream.until("ended", state="done")
        assert (pull["files"], pull["status"]) == ({"count": 3, "done": 3, "moving": []}, "writing manifest")


async def test_the_stream_shows_a_quantization_and_a_cancel(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    async with listening(client) as stream:
        await start(client, "hf.co/acme/tiny:q8_0")
        [done] = await stream.until("ended", state="done")
        assert done["completed"] == done["total"] > 0
        hub.line = SLOW
        hub.add("acme/other", tiny_llama(seed=1))
        await start(client, "hf.co/acme/other")
        await stream.until("running", state="transferring")
        await call(client, "DELETE", "pulls/2", json={})
        [failed, _] = await stream.until("ended", state="failed")
        assert failed["cancelled"] is True


async def test_the_stream_writes_at_most_four_times_a_second(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    assert events.PAUSE_SECONDS == 0.25
    hub.line = SLOW
    began = time.monotonic()  # before anything is said: what is said may lie here for any time before it is read
    async with listening(client) as stream:
        await start(client, NAME)
        await stream.until("running", state="transferring")
        for _ in range(6):
            assert (await stream.next())[0] == "running"
        pauses = stream.events.count("running") - 1
        # uvloop counts whole milliseconds: each pause may be one shorter.
        assert time.monotonic() - began > pauses * (0.25 - 0.002)
    hub.line = None


async def test_a_silent_stream_sends_keep_alives(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events.SILENCE_SECONDS == 15
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(events, "SILENCE_SECONDS", 0.05)
    began = time.monotonic()  # before the stream can be silent
    async with listening(client) as stream:
        assert [await stream.next(), await stream.next()] == [("running", []), ("ended", [])]
        waiting = asyncio.create_task(stream.next())
        await eventually(lambda: len(stream.comments) >= 3)
        assert len(stream.comments) <= (time.monotonic() - began) / 0.05 + 1
        assert not waiting.done()
        waiting.cancel()


async def test_a_slow_reader_gets_the_newest_state(
    client: Client, app: App, hub: StandInHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no backlog."""
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.0)
    hub.line = SLOW
    await start(client, NAME)
    [job] = app.jobs.all()
    await seen(client, state="transferring")
    address = URL(client.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (str(address.host), address.port))
        await loop.sock_sendall(connection, b"GET /-/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = 0

        def next_details() -> dict[str, Any]:
            nonlocal said
            said += 1
            return {"number": said, "filler": "x" * 50_000}

        monkeypatch.setattr(job, "details", next_details)
        stuck_at = await settled(lambda: min(said, 2000))  # nothing more fits between the two
        assert stuck_at < 2000
        monkeypatch.setattr(job, "details", lambda: {"newest": True})
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b'"newest":true' not in received[-1000:]:
                received += await loop.sock_recv(connection, 1 << 20)
        assert len(received) < (stuck_at + 2) * 51_000
    hub.line = None


async def test_a_stream_ends_with_the_proxy_at_once(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.app.FAREWELL_SECONDS", 3600)
    async with asyncio.timeout(PATIENCE), proxying(hub, ollama, session) as client:
        response = await session.get(f"{client.url}/-/events")
        assert await response.content.readline() == b"retry: 1000\n"
    await response.read()


async def test_a_head_request_of_the_stream_ends(client: Client) -> None:
    async with client.session.head(f"{client.url}/-/events") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.read() == b""


# GET /-/models


async def models_shown(client: Client, query: str = "") -> dict[str, dict[str, Any]]:
    status, found = await call(client, "GET", f"models{query}")
    assert status == 200
    return {model["name"]: model for model in found}


def asked_for(hub: StandInHub, repository: str) -> int:
    return len([request for request in hub.requests if request.path.startswith(f"/api/models/{repository}")])


async def test_a_model_has_its_commit_and_whether_it_changed(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    repository = hub.repositories["acme/tiny"]
    commit = repository.commit
    await client.pull(NAME)
    listed = ollama.models[NAME]
    assert await models_shown(client) == {
        NAME: {
            "name": NAME,
            "repository": "acme/tiny",
            "commit": commit,
            "digest": listed.digest,
            "size": listed.size,
            "when": listed.modified_at.isoformat(),
            "changed": False,
            "outdated": None,
        }
    }
    repository.update({"README.md": b"another"})
    assert (await models_shown(client, "?ask=no"))[NAME]["changed"] is False
    assert (await models_shown(client))[NAME]["changed"] is True
    assert (await models_shown(client, "?ask=no"))[NAME]["changed"] is True
    await start(client, NAME)
    await seen(client, id="2", state="done")
    assert (await models_shown(client, "?ask=no"))[NAME] | {"changed": None} == (await models_shown(client, "?ask=no"))[
        NAME
    ]
    assert (await models_shown(client))[NAME]["changed"] is False
    assert (await models_shown(client))[NAME]["commit"] == repository.commit


async def test_models_without_a_source_are_not_shown(client: Client, ollama: StandInOllama) -> None:
    ollama.models["llama3.2:latest"] = StandInModel()
    ollama.models["registry.example/acme/tiny:latest"] = StandInModel()
    ollama.models["hf.co/acme/by-hand:latest"] = StandInModel()
    found = await models_shown(client)
    assert list(found) == ["hf.co/acme/by-hand:latest"]
    [model] = found.values()
    assert (model["repository"], model["commit"], model["changed"]) == ("acme/by-hand", None, None)


async def test_a_model_made_by_others_has_no_commit(
    client: Client, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    await client.pull(NAME)
    ollama.models[NAME] = StandInModel(digest="f" * 64)
    assert (await models_shown(client))[NAME]["commit"] is None


async def test_a_repository_is_asked_once_and_only_on_request(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    for tag in ("f16", "q8_0"):
        await client.pull(f"hf.co/acme/tiny:{tag}")
    hub.requests.clear()
    assert [model["changed"] for model in (await models_shown(client, "?ask=no")).values()] == [None, None]
    assert not hub.requests
    assert [model["changed"] for model in (await models_shown(client)).values()] == [False, False]
    assert asked_for(hub, "acme/tiny?") + asked_for(hub, "acme/tiny") == 2


async def test_a_lost_or_silent_repository_does_not_hurt_others(
    client: Client,
    hub: StandInHub,
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "proxy.admin.models")
    for name in ("gone", "moved"):
        hub.add(f"acme/{name}", tiny_llama())
        await client.pull(f"hf.co/acme/{name}:f16")
    del hub.repositories["acme/gone"]
    hub.repositories["acme/moved"].update({"README.md": b""})
    found = await models_shown(client)
    assert {name: model["changed"] for name, model in found.items()} == {
        "hf.co/acme/gone:f16": None,
        "hf.co/acme/moved:f16": True,
    }
    [said] = caplog.messages
    assert said.startswith("it is unknown whether hf.co/acme/gone:f16 has changed: there is no repository acme/gone")
    hub.faults.append(Fault("api", "hang", times=-1))
    monkeypatch.setattr(models, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr(huggingface, "METADATA_SECONDS", 3600)
    async with asyncio.timeout(PATIENCE):
        found = await models_shown(client)
    assert {model["changed"] for model in found.values()} == {None}
    assert found["hf.co/acme/moved:f16"]["commit"] is not None


async def test_at_most_four_repositories_are_asked_at_once(
    client: Client, hub: StandInHub, ollama: StandInOllama, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny_llama()
    for number in range(6):
        hub.add(f"acme/tiny-{number}", files)
        await client.pull(f"hf.co/acme/tiny-{number}:f16")
    asking, most = 0, 0

    async def commit(*_: object) -> str:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.02)
        asking -= 1
        return "another"

    monkeypatch.setattr(app.backend.planner, "commit", commit)
    assert {model["changed"] for model in (await models_shown(client)).values()} == {True}
    assert most == 4


async def test_without_ollama_there_are_no_models_and_the_reason(
    hub: StandInHub, session: aiohttp.ClientSession
) -> None:
    async with App(settings(hub.endpoint, "http://127.0.0.1:9")) as app:
        status, answer = await call(Client(app.address.url, session), "GET", "models")
    assert status == 502
    assert "cannot be reached" in answer["error"]
