"""The page at `/-/`, and who may use what it calls."""

import asyncio
import base64
import hashlib
import re
import sys
import zipfile
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.kit.administration import NAME, call
from tests.kit.proxying import proxying
from tests.kit.support import Client

KEY = "sk-own"

MIN_SETUPTOOLS = 77

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

# GET /-/


class Document(HTMLParser):
    """The parts that a browser would hash, and those that it would load."""

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
    document = Document(text)
    hashes = {}
    for tag, contents in document.contents.items():
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
    assert (document.loads, document.inline) == ([], [])
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
    """It is built from a copy of git's files, so that no build folder is used or left."""
    known = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = await asyncio.create_subprocess_exec(*known, stdout=asyncio.subprocess.PIPE)
    names = (await listed.communicate())[0].decode().splitlines()
    for name in names:
        if name.startswith(("proxy/", "pyproject", "README", "LICENSE")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(Path(name).read_bytes())
    if int(version("setuptools").partition(".")[0]) < MIN_SETUPTOOLS:
        pytest.skip(f"a wheel is built by setuptools {MIN_SETUPTOOLS} or newer, which is not installed")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "."]
    built = await asyncio.create_subprocess_exec(*build, cwd=tmp_path)
    assert await built.wait() == 0
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("proxy/server/page.html") == Path("proxy/server/page.html").read_bytes()


# Access


READS = [("GET", "events"), ("GET", "inspect?name=hf.co/acme/tiny"), ("GET", "models"), ("GET", "pulls"), ("GET", "")]

CHANGES = [("POST", "pulls"), ("DELETE", "pulls/1")]


@pytest.mark.parametrize(("method", "path"), READS + CHANGES)
async def test_without_a_key_nothing_is_shown(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, method: str, path: str
) -> None:
    server = {"listen": "127.0.0.1:0", "api_keys": [KEY]}
    async with proxying(hub, ollama, session, server=server) as (_, client):
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
    async with proxying(hub, ollama, session, server=server) as (_, client):
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


@pytest.mark.parametrize(("method", "path"), READS + CHANGES)
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
