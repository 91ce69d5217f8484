"""Mirrors that leave out what the Hub sends: sizes, digests, trees, ranges, reasons of refusals."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import hdrs, web

from proxy.app import App
from proxy.errors import Interrupted, SourceError
from proxy.sources.base import RepositoryFile
from proxy.sources.hub_files import CONCURRENT_HEADS
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.support import Client, digest_of, listening, settings

WEIGHTS = b"weights" * 100
CONFIG = b'{"architectures": []}'
FILES = {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "tokenizer_config.json": b"{}",
    "onnx/model.onnx": b"o" * 50,
    "logo.png": b"p" * 60,
    "LICENSE": b"MIT",
    "sub/chat.jinja": b"{{ x }}",
}
EXPECTED = {
    "config.json": (len(CONFIG), None, hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()),
    "model.safetensors": (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), None),
}


@pytest.fixture
async def source(hub: StandInHub) -> AsyncIterator[HuggingFace]:
    source = HuggingFace(hub.endpoint, "", ("hf.co",))
    yield source
    await source.close()


async def opened(source: HuggingFace, name: str = "acme/tiny") -> Mapping[str, RepositoryFile]:
    return {file.path: file for file in (await source.open(name, None)).files}


def requested_paths(hub: StandInHub, what: str, method: str) -> list[str]:
    return [request.path for request in hub.requests if what in request.path and request.method == method]


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("listing", ["full", "sizes", "names"])
async def test_a_listing_is_completed(
    hub: StandInHub, source: HuggingFace, trees: bool, mirror: bool, listing: Any
) -> None:
    """From the tree, or from HEAD requests for the needed files if there is no tree."""
    hub.add("acme/tiny", FILES)
    hub.trees, hub.mirror, hub.listing = trees, mirror, listing
    files = await opened(source)
    assert files.keys() == FILES.keys()
    for path in ("model.safetensors", *(["config.json"] if trees or listing != "sizes" else [])):
        assert (files[path].size, files[path].sha256, files[path].git_sha1) == EXPECTED[path]
    assert {
        path: file.size for path, file in files.items() if path in ("config.json", "LICENSE", "sub/chat.jinja")
    } == {
        "config.json": len(CONFIG),
        "LICENSE": 3,
        "sub/chat.jinja": 7,
    }
    heads = requested_paths(hub, "/resolve/", "HEAD")
    assert not [path for path in heads if path.endswith((".png", ".onnx"))]
    assert bool(heads) is (listing != "full" and not trees)
    assert bool(requested_paths(hub, "/tree/", "GET")) is (listing != "full")
    assert not requested_paths(hub, "/resolve/", "GET")
    assert not [request for request in hub.requests if request.origin == "cdn"]


async def test_a_large_file_without_a_digest_is_asked_for_it(hub: StandInHub, source: HuggingFace) -> None:
    """The Hub has every file above 10 MiB in LFS: if a mirror does not list the digest, its HEAD answer has it."""
    large = b"x" * (10 * 1024**2 + 1)
    hub.add("acme/tiny", {"vocab.json": large, "small.json": large[:-1], "pytorch_model.bin": large})
    hub.trees, hub.listing = False, "sizes"
    files = await opened(source)
    assert files["vocab.json"].sha256 == hashlib.sha256(large).hexdigest()
    assert files["small.json"].sha256 is None
    [head] = requested_paths(hub, "/resolve/", "HEAD")
    assert head.endswith("/vocab.json")


async def test_a_tree_comes_in_pages(hub: StandInHub, source: HuggingFace) -> None:
    hub.add("acme/tiny", FILES)
    hub.listing, hub.tree_page = "names", 3
    assert (await opened(source))["model.safetensors"].sha256 == EXPECTED["model.safetensors"][1]
    assert len(requested_paths(hub, "/tree/", "GET")) == 3
    assert not requested_paths(hub, "/resolve/", "HEAD")


async def test_a_page_elsewhere_is_asked_for_without_the_token(hub: StandInHub) -> None:
    """Olah forwards the Hub's own Link header."""
    async with StandInHub() as elsewhere:
        elsewhere.add("acme/tiny", FILES)
        hub.add("acme/tiny", FILES)
        hub.listing, hub.tree_page, hub.next_pages = "names", 3, elsewhere.endpoint
        source = HuggingFace(hub.endpoint, "hf_mine", ("hf.co",))
        assert (await opened(source))["model.safetensors"].size == len(WEIGHTS)
        await source.close()
        assert len(elsewhere.requests) == 1
        assert all(hdrs.AUTHORIZATION not in request.headers for request in elsewhere.requests)
        assert all(request.headers[hdrs.AUTHORIZATION] == "Bearer hf_mine" for request in hub.requests)


async def test_a_tree_that_leads_back_to_its_own_page_ends(hub: StandInHub, source: HuggingFace) -> None:
    requested: list[str] = []

    async def mirror(request: web.BaseRequest) -> web.Response:
        requested.append(request.path)
        if "/tree/" in request.path:
            entry = {"type": "file", "path": "config.json", "oid": "0" * 40, "size": 7}
            link = f'<{request.url}>; rel="next"'
            return web.json_response([entry], headers={"Link": link})
        siblings = [{"rfilename": "config.json"}]
        return web.json_response({"id": "acme/tiny", "sha": "c" * 40, "siblings": siblings})

    async with listening(mirror) as url:
        source = HuggingFace(url, "", ("hf.co",))
        assert (await opened(source))["config.json"].size == 7
        await source.close()
    assert len(requested) == 2


@pytest.mark.parametrize(
    ("headers", "sha256", "git_sha1"),
    [
        ({"ETag": f'"{"a" * 64}"'}, "a" * 64, None),
        ({"ETag": f'W/"{"b" * 40}"'}, None, "b" * 40),
        ({"ETag": '"0123456789abcdef0123456789abcdef-3"'}, None, None),
        ({"ETag": f'"{"b" * 40}"', "X-Linked-Etag": f'"{"a" * 64}"'}, "a" * 64, None),
        ({}, None, None),
    ],
)
@pytest.mark.parametrize("redirected", ["", "/elsewhere", "absolute"])
async def test_only_what_can_be_a_digest_is_taken_for_one(
    headers: dict[str, str], sha256: str | None, git_sha1: str | None, redirected: str
) -> None:
    """KohakuHub: the ETag of its redirect is the SHA-256; the store behind it has another ETag."""

    async def store(request: web.BaseRequest) -> web.Response:
        assert hdrs.AUTHORIZATION not in request.headers
        return web.Response(body=WEIGHTS, headers={"ETag": f'"{"f" * 64}"'})

    async def mirror(request: web.BaseRequest) -> web.Response:
        if request.path.startswith("/api/models/acme/tiny/tree"):
            return web.Response(status=404)
        if request.path.startswith("/api/"):
            siblings = [{"rfilename": "model.safetensors"}]
            return web.json_response({"id": "acme/tiny", "sha": "c" * 40, "siblings": siblings})
        if redirected and request.path != redirected:
            location = f"{elsewhere}/file" if redirected == "absolute" else redirected
            return web.Response(status=302, headers={**headers, hdrs.LOCATION: location})
        return web.Response(body=WEIGHTS, headers=headers)

    async with listening(store) as elsewhere, listening(mirror) as url:
        source = HuggingFace(url, "hf_mine", ("hf.co",))
        file = (await opened(source))["model.safetensors"]
        await source.close()
    assert (file.size, file.sha256, file.git_sha1) == (len(WEIGHTS), sha256, git_sha1)


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_file_whose_size_nothing_tells_is_named(hub: StandInHub, source: HuggingFace, status: int) -> None:
    hub.add("acme/tiny", FILES)
    hub.trees, hub.listing = False, "names"
    hub.faults.append(Fault("model.safetensors", "status", status=status, at="resolve", times=-1))
    named = rf"acme/tiny/model.safetensors: .* does not report its size.*answered {status}"
    with pytest.raises(SourceError, match=named) as failure:
        await source.open("acme/tiny", None)
    assert not isinstance(failure.value, Interrupted)


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_digest_that_cannot_be_had_is_no_failure(hub: StandInHub, source: HuggingFace, status: int) -> None:
    hub.add("acme/tiny", FILES)
    hub.trees, hub.listing = False, "sizes"
    hub.faults.append(Fault("model.safetensors", "status", status=status, at="resolve", times=-1))
    file = (await opened(source))["model.safetensors"]
    assert (file.size, file.sha256) == (len(WEIGHTS), None)


@pytest.mark.parametrize("listing", ["sizes", "names"])
async def test_a_retry_asks_only_for_what_is_missing(hub: StandInHub, source: HuggingFace, listing: Any) -> None:
    """Of 40 files, 20 fail once: that is one retry, not twenty."""
    files = FILES | {f"extra-{number:02}.safetensors": bytes([number]) * 9 for number in range(40)}
    hub.add("acme/tiny", files)
    hub.trees, hub.listing = False, listing
    hub.faults += [Fault(f"extra-{number:02}.safetensors", "status", at="resolve") for number in range(20)]
    with pytest.raises(Interrupted, match=r"acme/tiny/extra-\d\d.safetensors: ") as failure:
        await source.open("acme/tiny", None)
    assert failure.value.wait is None
    before = len(requested_paths(hub, "/resolve/", "HEAD"))
    assert {path: file.sha256 for path, file in (await opened(source)).items() if path.startswith("extra-")} == {
        path: hashlib.sha256(content).hexdigest() for path, content in files.items() if path.startswith("extra-")
    }
    assert len(requested_paths(hub, "/resolve/", "HEAD")) - before == 20


async def test_after_a_throttle_no_more_files_are_asked_for(hub: StandInHub, source: HuggingFace) -> None:
    """Whatever else goes wrong with the requests that are under way."""
    hub.add("acme/tiny", FILES | {f"extra-{number:02}.safetensors": b"x" for number in range(40)})
    hub.trees, hub.listing = False, "names"
    hub.faults += [
        Fault("config.json", "status", status=429, headers={"Retry-After": "7"}, at="resolve"),
        Fault("*", "status", status=502, at="resolve", times=-1),
    ]
    with pytest.raises(Interrupted) as failure:
        await source.open("acme/tiny", None)
    assert failure.value.wait == 7
    assert len(requested_paths(hub, "/resolve/", "HEAD")) <= 2 * CONCURRENT_HEADS


async def test_a_mirror_that_hangs_at_sizes_is_given_up(
    hub: StandInHub, source: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.sources.huggingface.METADATA_SECONDS", 1)
    hub.add("acme/tiny", FILES)
    hub.trees, hub.listing = False, "names"
    hub.faults.append(Fault("config.json", "hang", at="resolve", times=-1))
    with pytest.raises(SourceError, match="did not answer within 1 s"):
        await source.open("acme/tiny", None)


async def test_another_api_is_recognised() -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>Welcome</html>")

    async with listening(answer) as url:
        with pytest.raises(SourceError, match="does not answer as the Hub does.*hub.endpoint"):
            await HuggingFace(url, "", ("hf.co",)).open("acme/tiny", None)


@pytest.mark.parametrize("trees", [True, False])
async def test_a_repository_of_olahs_own_is_pulled(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, trees: bool
) -> None:
    """Olah 0.5.4, mirrors-path: needs a branch, lists names only, sends whole files without a length, 401 for 404."""
    files = tiny_llama(shards=2)
    hub.add("acme/tiny", files)
    hub.mirror, hub.branches_only, hub.listing, hub.trees = True, True, "names", trees
    async with App(settings(hub.endpoint, ollama.url)) as app:
        client = Client(app.address.url, session)
        assert (await client.pull("hf.co/acme/tiny:q4_K_M"))[-1] == {"status": "success"}
        assert "there is no repository acme/none" in (await client.pull("hf.co/acme/none"))[-1]["error"]
    gguf = converted(files, quantization="Q4_K_M")
    assert ollama.blobs[digest_of(gguf)] == len(gguf)
