"""ModelScope as a source: its lists, the requests for bytes, where the token goes, and the errors."""

import asyncio
import hashlib
import importlib.metadata
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import hdrs, web

from proxy.app import App
from proxy.errors import Refusal, SourceError
from proxy.sources import modelscope
from proxy.sources.base import RepositoryFile
from proxy.sources.modelscope import ModelScope, ModelScopeRepository
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.listener import LoggedRequest
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.pauses import use_spans, use_timings
from tests.kit.stand_in_modelscope import StandInModelScope
from tests.kit.support import PATIENCE, Client, digest_of, listening, own_entry_points, settings
from tests.kit.tiny_gguf import tiny_gguf

NAME = "modelscope.cn/acme/tiny:q4_K_M"
SPAN = 64 * 1024
SUCCESS = {"status": "success"}
FILES = tiny_llama(shards=2)
MADE = converted(FILES, quantization="Q4_K_M")
WEIGHTS = [path for path in FILES if path.endswith(".safetensors")]
FIRST = WEIGHTS[0]


@pytest.fixture
async def scope() -> AsyncIterator[StandInModelScope]:
    async with StandInModelScope() as scope:
        scope.add("acme/tiny", FILES)
        yield scope


@pytest.fixture
async def source(scope: StandInModelScope) -> AsyncIterator[ModelScope]:
    source = ModelScope(scope.endpoint)
    yield source
    await source.close()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: own_entry_points().select(group=group))
    use_timings(monkeypatch, first_retry_pause=0.001, longest_retry_pause=0.01)
    use_spans(monkeypatch, SPAN)


@pytest.fixture
async def client(
    scope: StandInModelScope, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> AsyncIterator[Client]:
    """A proxy whose ModelScope is the stand-in; the Hub must get no request."""
    tables = {"modelscope": {"endpoint": scope.endpoint}}
    async with App(settings(hub.endpoint, ollama.url, sources=tables)) as app:
        yield Client(app.address.url, session)
    assert not hub.requests


async def content(repository: ModelScopeRepository, path: str, start: int = 0, stop: int | None = None) -> bytes:
    [file] = [file for file in repository.files if file.path == path]
    async with repository.stream(file, start, stop) as chunks:
        return b"".join([chunk async for chunk in chunks])


def requests_for(scope: StandInModelScope, what: str, origin: str = "api") -> list[LoggedRequest]:
    return [request for request in scope.requests if what in request.path and request.origin == origin]


def check_blobs(ollama: StandInOllama, files: list[bytes]) -> None:
    assert {digest_of(content) for content in files} <= set(ollama.blobs)


async def test_a_list_has_sizes_and_digests_at_any_depth(scope: StandInModelScope, source: ModelScope) -> None:
    added = scope.add("acme/deep", {"config.json": b"{}", "a/b/model.safetensors": b"weights"})
    repository = await source.open("acme/deep", None)
    assert repository.commit == added.commit
    assert set(repository.files) == {
        RepositoryFile(path, len(data), hashlib.sha256(data).hexdigest())
        for path, data in (("config.json", b"{}"), ("a/b/model.safetensors", b"weights"))
    }
    assert len(scope.requests) == 1
    assert not repository.public
    assert list(await repository.gguf_repositories()) == []


async def test_a_revision_is_resolved(scope: StandInModelScope, source: ModelScope) -> None:
    added = scope.repositories["acme/tiny"]
    old = added.commit
    added.update({"config.json": b"2"})
    assert (await source.open("acme/tiny", old)).commit == old
    assert (await source.open("acme/tiny", "master")).commit == added.commit != old
    for name in ("none", "main"):
        with pytest.raises(Refusal, match=f"no repository acme/tiny at .* the revision '{name}': it answered 404"):
            await source.open("acme/tiny", name)


async def test_every_change_of_the_files_is_another_commit(scope: StandInModelScope, source: ModelScope) -> None:
    """The list has only the first digits of the newest commit, and no file has that commit if it only removed files."""
    added = scope.repositories["acme/tiny"]
    commits = [(await source.open("acme/tiny", None)).commit]
    for change in ({"config.json": b"2"}, {"config.json": None}, {"tokenizer.json": None}):
        added.update(change)
        commits.append((await source.open("acme/tiny", None)).commit)
    scope.overrides["LatestCommitter"] = None
    added.update({FIRST: b"other"})
    commits.append((await source.open("acme/tiny", None)).commit)
    assert len(set(commits)) == 5
    assert commits[1] in added.commits
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)


async def test_a_branch_that_moves_in_mid_pull_changes_no_byte(scope: StandInModelScope, source: ModelScope) -> None:
    repository = await source.open("acme/tiny", None)
    scope.repositories["acme/tiny"].update({"config.json": b"later", FIRST: b"later"})
    assert await content(repository, "config.json") == FILES["config.json"]
    assert await content(repository, FIRST, 5, 500) == FILES[FIRST][5:500]


@pytest.mark.parametrize("range_status", [200, 206])
@pytest.mark.parametrize("path", ["sub dir/a+b&c#ü%2F.json", "sub dir/a+b&c#ü%2F.gguf"])
async def test_a_path_arrives_as_it_is(
    scope: StandInModelScope, source: ModelScope, path: str, range_status: int
) -> None:
    scope.range_status = range_status
    scope.add("acme/odd", {path: bytes(range(256))})
    repository = await source.open("acme/odd", None)
    assert await content(repository, path) == bytes(range(256))
    assert await content(repository, path, 100, 103) == b"def"
    assert scope.requests[-1].headers[hdrs.RANGE] == "bytes=100-102"
    assert scope.requests[-1].body_bytes == 3


@pytest.mark.parametrize("token", ["", "ms_mine"])
@pytest.mark.parametrize("status", [404, 401, 403])
@pytest.mark.parametrize("name", ["acme/none", "acme/secret"])
async def test_what_is_missing_or_private_is_refused_with_what_to_do(
    scope: StandInModelScope, name: str, status: int, token: str
) -> None:
    scope.token, scope.refusal = "ms_other", status
    scope.add("acme/secret", FILES, private=True)
    source = ModelScope(scope.endpoint, token)
    kind = "there is no repository" if status == 404 else "may not be read"
    what_to_do = "account of the `token` in" if token else r"then set `token` in \[sources.modelscope\]"
    with pytest.raises(Refusal, match=f"{kind}.*it answered {status} the stand-in knows.*{what_to_do}") as refusal:
        await source.open(name, None)
    await source.close()
    assert f"{scope.endpoint}/models/{name}" in str(refusal.value)
    assert "ms_mine" not in str(refusal.value)


async def test_a_refusal_inside_of_a_200_is_one(scope: StandInModelScope, source: ModelScope) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        body = {"Code": 10010101004, "Message": "unauthorized permission", "Success": False, "Data": {"Files": []}}
        return web.json_response(body)

    async with listening(answer) as url:
        source = ModelScope(url)
        with pytest.raises(Refusal, match="there is no repository.*unauthorized permission.*if it is private"):
            await source.open("acme/tiny", None)
        await source.close()


async def test_a_gated_repository_is_refused_before_a_weight_byte(
    scope: StandInModelScope, client: Client, ollama: StandInOllama
) -> None:
    """Its list may be public."""
    scope.add("acme/gated", FILES, gated=True)
    scope.refusal = 403
    error = (await client.pull("modelscope.cn/acme/gated"))[-1]["error"]
    assert "127.0.0.1 answered 403" in error
    assert f"ask for access at {scope.endpoint}/models/acme/gated, then set `token` in [sources.modelscope]" in error
    assert not requests_for(scope, "", "cdn")
    assert not [request for request in ollama.requests if request.method == "POST" and "/blobs/" in request.path]


async def test_the_token_opens_what_is_private_and_goes_nowhere_else(
    scope: StandInModelScope, hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    scope.token = "ms_mine"
    scope.add("acme/secret", FILES, private=True)
    tables = {"modelscope": {"endpoint": scope.endpoint, "token": " ms_mine\n"}}
    async with App(settings(hub.endpoint, ollama.url, hub={"token": "hf_mine"}, sources=tables)) as app:
        lines = await Client(app.address.url, session).pull("modelscope.cn/acme/secret")
    assert lines[-1] == SUCCESS
    expected = {hdrs.AUTHORIZATION: "Bearer ms_mine", hdrs.COOKIE: "m_session_id=ms_mine"}
    assert requests_for(scope, "/api/")
    assert requests_for(scope, "", "cdn")
    for request in scope.requests:
        sent = {name: request.headers[name] for name in expected if name in request.headers}
        assert sent == (expected if request.origin == "api" else {})


@pytest.mark.parametrize("range_status", [200, 206])
async def test_ranges_cover_each_file_once(
    scope: StandInModelScope, client: Client, ollama: StandInOllama, range_status: int
) -> None:
    """ModelScope answers 200 although it sends the requested range."""
    scope.range_status = range_status
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_blobs(ollama, [MADE])
    for path in WEIGHTS:
        size = len(FILES[path])
        ranges = [
            request.headers[hdrs.RANGE].removeprefix("bytes=").split("-")
            for request in requests_for(scope, path, "cdn")
        ]
        spans = sorted((int(first), int(last) + 1) for first, last in ranges)
        # Its header is read before, for the plan.
        assert [span for span in spans if span[0] % SPAN == 0 and span[1] - span[0] > 8][-1][1] == size
        assert {(start, min(start + SPAN, size)) for start in range(0, size, SPAN)} <= set(spans)
        assert sum(stop - start for start, stop in spans) < size + 16 * 1024
        assert len(requests_for(scope, path)) == 1
    assert len(requests_for(scope, "/files?")) == 1


async def test_only_the_chosen_gguf_is_pulled(scope: StandInModelScope, client: Client, ollama: StandInOllama) -> None:
    files = {f"tiny-{label}.gguf": tiny_gguf(label, seed=seed) for seed, label in enumerate(("Q4_K_M", "Q8_0", "F16"))}
    scope.add("acme/tiny-GGUF", {**files, "README.md": b"# tiny"})
    assert (await client.pull("modelscope.cn/acme/tiny-GGUF:Q8_0"))[-1] == SUCCESS
    check_blobs(ollama, [files["tiny-Q8_0.gguf"]])
    assert not requests_for(scope, "Q4_K_M") + requests_for(scope, "F16")
    assert "modelscope.cn/acme/tiny-GGUF:Q8_0" in ollama.models


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FIRST, "drop", after=20_000, times=3),
        Fault(FIRST, "short", after=20_000, times=3),
        Fault(FIRST, "cut", after=20_000, times=3),
        Fault(FIRST, "whole", after=20_000),
        Fault(FIRST, "status", status=502, times=3),
        Fault(FIRST, "corrupt", after=100_000),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_pull_survives_faults_of_the_line(
    scope: StandInModelScope, client: Client, ollama: StandInOllama, fault: Fault
) -> None:
    scope.faults.append(fault)
    assert (await client.pull(NAME))[-1] == SUCCESS
    check_blobs(ollama, [MADE])
    assert scope._delivery.faults._fired[fault] == fault.times


async def test_a_throttled_pull_waits_as_requested(
    scope: StandInModelScope, client: Client, ollama: StandInOllama
) -> None:
    scope.faults.append(Fault(FIRST, "status", status=429, headers={"Retry-After": "1"}))
    lines = await client.pull(NAME)
    assert lines[-1] == SUCCESS
    assert [line for line in lines if line.get("status", "").startswith(f"waiting 1 s: acme/tiny/{FIRST}: ")]


async def test_an_address_that_expires_is_renewed(scope: StandInModelScope, source: ModelScope) -> None:
    repository = await source.open("acme/tiny", None)
    assert await content(repository, FIRST, 0, 10) == FILES[FIRST][:10]
    scope.expire()
    assert await content(repository, FIRST, 10, 20) == FILES[FIRST][10:20]
    assert len(requests_for(scope, FIRST)) == 2


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(FIRST, "status", status=404, times=-1), f"acme/tiny/{FIRST}: 127.0.0.1 answered 404 .*cannot be read"),
        (Fault(FIRST, "corrupt", after=100_000, times=-1), f"acme/tiny/{FIRST} arrived damaged"),
        (Fault(FIRST, "drop", times=-1), f"acme/tiny/{FIRST}: the connection to 127.0.0.1 failed .*given up after"),
        (
            Fault("api", "status", status=429, times=-1),
            "acme/tiny at .*it answered 429.*given up after 10 tries; pull again",
        ),
        (
            Fault("api", "status", status=502, times=-1),
            "acme/tiny at .*it answered 502.*given up after 10 tries; pull again",
        ),
        (Fault("api", "drop", times=-1), "acme/tiny at .*the connection failed .*given up after 10 tries; pull again"),
        (Fault("api", "hang", times=-1), "did not answer within 0 s to a request for acme/tiny"),
    ],
    ids=lambda value: f"{value.path}-{value.kind}" if isinstance(value, Fault) else "",
)
async def test_a_lasting_fault_is_explained(
    scope: StandInModelScope,
    client: Client,
    ollama: StandInOllama,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    expected: str,
) -> None:
    assert modelscope.LIST_SECONDS <= 15
    if fault.kind == "hang":
        monkeypatch.setattr(modelscope, "LIST_SECONDS", 0.3)
    scope.faults.append(fault)
    async with asyncio.timeout(PATIENCE):
        assert re.search(expected, (await client.pull(NAME))[-1]["error"])
    assert digest_of(FILES[FIRST]) not in ollama.blobs


@pytest.mark.parametrize(
    "body", ["<html>Welcome</html>", "[]", '{"Code": 200}', '{"Code": 200, "Data": {"Files": [1]}}']
)
async def test_another_api_is_recognised(body: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=body)

    async with listening(answer) as url:
        source = ModelScope(url, name="mine")
        with pytest.raises(SourceError, match=r"does not answer as ModelScope does.*endpoint in \[sources.mine\]"):
            await source.open("acme/tiny", None)
        await source.close()


async def test_a_list_that_may_be_cut_off_is_refused(
    scope: StandInModelScope, source: ModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert modelscope.MAX_ENTRIES == 3000
    monkeypatch.setattr(modelscope, "MAX_ENTRIES", len(FILES))
    with pytest.raises(Refusal, match="has more than the .* files that ModelScope lists"):
        await source.open("acme/tiny", None)


async def test_a_digest_that_is_none_is_not_taken_for_one(scope: StandInModelScope, source: ModelScope) -> None:
    entries = [
        {"Path": "a.json", "Type": "blob", "Size": 1, "Sha256": None},
        {"Path": "b.json", "Type": "blob", "Size": 1, "Sha256": "pending"},
        {"Path": "c.json", "Type": "blob", "Size": 1, "Sha256": "AB" * 32},
    ]
    scope.overrides["Files"] = entries
    repository = await source.open("acme/tiny", None)
    assert [file.sha256 for file in repository.files] == [None, None, "ab" * 32]
    assert set(repository.revisions.values()) == {"master"}


async def test_without_a_table_only_modelscope_cn_is_asked(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[str] = []

    async def resolve(_: object, host: str, port: int = 0, **__: Any) -> list[Any]:
        dialled.append(f"{host}:{port}")
        raise OSError(None, "no names here")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    async with App(settings(hub.endpoint, ollama.url)) as app:
        client = Client(app.address.url, session)
        errors = await asyncio.gather(*(client.pull(f"{host}/acme/tiny") for host in modelscope.HOSTS))
    assert all("https://modelscope.cn cannot be reached" in lines[-1]["error"] for lines in errors)
    assert set(dialled) == {"modelscope.cn:443"}
    assert not hub.requests
