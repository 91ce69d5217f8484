"""The stand-in Hub answers like the Hub, to `huggingface_hub` and to raw requests, and fails as a test has set it."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from yarl import URL

from proxy.standins.hub import Fault, StandInHub

WEIGHTS = bytes(range(256)) * 8192  # 2 MiB
CONFIG = b'{"architectures": ["LlamaForCausalLM"]}\n'
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": b"# Nothing\n"}
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CONFIG_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()
IDENTITY = {"Accept-Encoding": "identity"}


@pytest.fixture
async def hub() -> AsyncIterator[StandInHub]:
    async with StandInHub() as hub:
        hub.add("org/tiny", FILES)
        yield hub


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(requote_redirect_url=False, headers=IDENTITY, timeout=timeout) as session:
        yield session


def address(hub: StandInHub, path: str, revision: str = "main") -> str:
    return f"{hub.endpoint}/org/tiny/resolve/{revision}/{path}"


async def signed(hub: StandInHub, session: aiohttp.ClientSession, path: str = "model.safetensors") -> URL:
    async with session.head(address(hub, path)) as response:
        return URL(response.headers["Location"], encoded=True)


async def test_huggingface_hub_reads_sizes_and_hashes(hub: StandInHub) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    info = await asyncio.to_thread(api.model_info, "org/tiny", files_metadata=True)
    assert info.sha == hub.repositories["org/tiny"].commit
    assert info.siblings is not None
    files = {file.rfilename: file for file in info.siblings}
    assert files.keys() == FILES.keys()
    weights, config = files["model.safetensors"], files["config.json"]
    assert weights.lfs is not None
    assert (weights.lfs.sha256, weights.lfs.size, weights.size) == (SHA256, len(WEIGHTS), len(WEIGHTS))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(WEIGHTS)}\n".encode()
    assert weights.lfs.pointer_size == len(pointer)
    assert weights.blob_id == hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    assert (config.lfs, config.blob_id, config.size) == (None, CONFIG_SHA1, len(CONFIG))


async def test_without_blobs_the_listing_has_names_only(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{hub.endpoint}/api/models/org/tiny") as response:
        described = orjson.loads(await response.read())
    assert described["siblings"] == [{"rfilename": name} for name in sorted(FILES)]
    assert (described["gated"], described["private"], described["disabled"]) == (False, False, False)


async def test_huggingface_hub_reads_the_tree_by_pages(hub: StandInHub) -> None:
    hub.add("org/tiny", {**FILES, "sub/deep/vocab.json": b"{}"})
    hub.tree_page = 2
    api = HfApi(endpoint=hub.endpoint, token=False)
    described = await asyncio.to_thread(api.model_info, "org/tiny", files_metadata=True)
    entries = await asyncio.to_thread(lambda: list(api.list_repo_tree("org/tiny", recursive=True)))
    assert [entry.path for entry in entries if isinstance(entry, RepoFolder)] == ["sub", "sub/deep"]
    listed = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    for sibling in described.siblings or ():
        entry = listed.pop(sibling.rfilename)
        assert (entry.size, entry.blob_id, entry.lfs) == (sibling.size, sibling.blob_id, sibling.lfs)
    assert not listed
    assert len([request for request in hub.requests if "/tree/" in request.path]) == 3
    [info] = await asyncio.to_thread(api.get_paths_info, "org/tiny", ["config.json"])
    assert isinstance(info, RepoFile)
    assert (info.path, info.size) == ("config.json", len(CONFIG))


async def test_huggingface_hub_finds_quantizations_of_a_model(hub: StandInHub) -> None:
    hub.token = "hf_friend"
    hub.add("org/few", {"a.gguf": b"1"}, quantized_from="org/tiny", downloads=1)
    hub.add("org/many", {"a.gguf": b"1"}, quantized_from="org/tiny", downloads=2)
    hub.add("org/own", {"a.gguf": b"1"}, quantized_from="org/tiny", private=True)
    hub.add("org/awq", {"model.safetensors": b"1"}, quantized_from="org/tiny")

    def search(*, token: str | bool = False, limit: int = 9) -> list[str]:
        api = HfApi(endpoint=hub.endpoint, token=token)
        filters = ["gguf", "base_model:quantized:org/tiny"]
        return [model.id for model in api.list_models(filter=filters, sort="downloads", limit=limit)]

    assert await asyncio.to_thread(search) == ["org/many", "org/few"]
    assert await asyncio.to_thread(lambda: search(limit=1)) == ["org/many"]
    assert "org/own" in await asyncio.to_thread(lambda: search(token="hf_friend"))


async def test_a_revoked_token_is_refused_everywhere(hub: StandInHub) -> None:
    hub.revoked.add("hf_old")
    api = HfApi(endpoint=hub.endpoint, token="hf_old")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as refused:
        await asyncio.to_thread(api.model_info, "org/tiny")
    assert not isinstance(refused.value, RepositoryNotFoundError)
    assert refused.value.response.status_code == 401


async def test_huggingface_hub_reads_a_files_address(hub: StandInHub) -> None:
    def metadata(path: str) -> tuple[str | None, str | None, int | None, str]:
        url = hf_hub_url("org/tiny", path, endpoint=hub.endpoint)
        file = get_hf_file_metadata(url, token=False, endpoint=hub.endpoint)
        return file.commit_hash, file.etag, file.size, file.location

    commit = hub.repositories["org/tiny"].commit
    *weights, location = await asyncio.to_thread(metadata, "model.safetensors")
    assert weights == [commit, SHA256, len(WEIGHTS)]
    assert location.startswith(hub.cdn)
    *config, location = await asyncio.to_thread(metadata, "config.json")
    assert config == [commit, CONFIG_SHA1, len(CONFIG)]
    assert location.startswith(f"{hub.endpoint}/api/resolve-cache/models/org/tiny/{commit}/config.json")


async def test_huggingface_hub_downloads_lfs_and_other_files(hub: StandInHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    for path, data in FILES.items():
        local = await asyncio.to_thread(api.hf_hub_download, "org/tiny", path, cache_dir=tmp_path)
        assert Path(local).read_bytes() == data


async def test_huggingface_hub_recognizes_every_refusal(hub: StandInHub) -> None:
    hub.token = "hf_friend"
    hub.add("org/gated", FILES, gated=True)
    hub.add("org/private", FILES, private=True)
    hub.add("org/disabled", FILES, disabled=True)

    def refusals() -> None:
        nobody, stranger, friend = (
            HfApi(endpoint=hub.endpoint, token=token) for token in (False, "hf_stranger", "hf_friend")
        )
        for api in (nobody, stranger):
            assert api.model_info("org/gated").gated == "manual"
            for repo_id in ("org/private", "org/missing"):
                with pytest.raises(RepositoryNotFoundError) as not_found:
                    api.model_info(repo_id)
                assert not isinstance(not_found.value, GatedRepoError)
                assert not_found.value.response.status_code == (401 if api is nobody else 404)
            with pytest.raises(GatedRepoError) as gated:
                api.auth_check("org/gated")
            assert gated.value.response.status_code == (401 if api is nobody else 403)
            with pytest.raises(GatedRepoError):
                get_hf_file_metadata(hf_hub_url("org/gated", "config.json", endpoint=hub.endpoint), token=api.token)
        friend.auth_check("org/gated")
        friend.auth_check("org/private")
        with pytest.raises(DisabledRepoError):
            nobody.model_info("org/disabled")
        with pytest.raises(RevisionNotFoundError):
            nobody.model_info("org/tiny", revision="nowhere")
        with pytest.raises(RemoteEntryNotFoundError):
            get_hf_file_metadata(hf_hub_url("org/tiny", "no.json", endpoint=hub.endpoint), token=False)

    await asyncio.to_thread(refusals)


async def test_an_update_moves_main_and_keeps_the_old_commit(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    repository = hub.repositories["org/tiny"]
    old = repository.commit
    new = repository.update({"config.json": b"{}", "README.md": None})
    assert repository.commit == new != old
    assert repository.branches == {"main": new}
    assert sorted(repository.files) == ["config.json", "model.safetensors"]
    for revision, expected in ((old, CONFIG), (new, b"{}"), ("main", b"{}")):
        async with session.get(address(hub, "config.json", revision)) as response:
            assert await response.read() == expected
            assert response.headers["X-Repo-Commit"] == (old if revision == old else new)


async def test_a_branch_may_have_a_slash_in_its_name(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    repository = hub.repositories["org/tiny"]
    repository.branches["refs/pr/1"] = repository.commit
    url = URL(address(hub, "config.json", "refs%2Fpr%2F1"), encoded=True)
    async with session.get(url) as response:
        assert await response.read() == CONFIG


async def test_the_cdn_refuses_a_requoted_address(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    url = await signed(hub, session)
    async with session.get(url) as response:
        assert response.status == 200
        assert await response.read() == WEIGHTS
        assert SHA256 not in response.headers["ETag"]
    async with session.get(URL(str(url))) as response:
        assert response.status == 403
    async with session.get(URL(f"{url}0", encoded=True)) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    ("range_header", "status", "content_range", "data"),
    [
        ("bytes=0-99", 206, f"bytes 0-99/{len(WEIGHTS)}", WEIGHTS[:100]),
        ("bytes=2097000-", 206, f"bytes 2097000-2097151/{len(WEIGHTS)}", WEIGHTS[2097000:]),
        ("bytes=2097000-9999999", 206, f"bytes 2097000-2097151/{len(WEIGHTS)}", WEIGHTS[2097000:]),
        ("bytes=2097152-", 416, f"bytes */{len(WEIGHTS)}", b""),
        ("lines=1-2", 200, None, WEIGHTS),
    ],
)
async def test_the_cdn_serves_ranges(
    hub: StandInHub,
    session: aiohttp.ClientSession,
    *,
    range_header: str,
    status: int,
    content_range: str | None,
    data: bytes,
) -> None:
    async with session.get(await signed(hub, session), headers={"Range": range_header}) as response:
        assert response.status == status
        assert response.headers.get("Content-Range") == content_range
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.content_length == len(data)
        assert await response.read() == data


async def test_a_head_of_the_cdn_has_the_length_and_no_body(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    async with session.head(await signed(hub, session)) as response:
        assert (response.status, response.content_length) == (200, len(WEIGHTS))
        assert await response.read() == b""


async def test_text_is_gzipped_if_the_client_accepts_it(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    """Like the Hub's, a gzipped response has no Content-Length and a weak ETag."""
    for encoding, packed in (("gzip, deflate", True), ("identity", False)):
        async with session.get(address(hub, "config.json"), headers={"Accept-Encoding": encoding}) as response:
            assert await response.read() == CONFIG
            assert (response.headers.get("Content-Encoding") == "gzip") is packed
            assert ("Content-Length" in response.headers) is not packed
            assert response.headers["ETag"].startswith("W/") is packed


async def test_a_file_on_disk_with_a_digest_is_not_hashed(
    hub: StandInHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A sparse file of many gigabytes can be served: only the requested range is read, nothing is hashed."""
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    repository = hub.add("org/tiny", {"huge.safetensors": path}, digests={"huge.safetensors": "a" * 64})
    async with session.get(f"{hub.endpoint}/api/models/org/tiny?blobs=true") as response:
        [sibling] = orjson.loads(await response.read())["siblings"]
    assert sibling["lfs"] == {"sha256": "a" * 64, "size": 1 << 40, "pointerSize": 138}
    url = await signed(hub, session, "huge.safetensors")
    async with session.get(url, headers={"Range": "bytes=1000000000000-1000000000009"}) as response:
        assert await response.read() == bytes(10)
    assert repository.files["huge.safetensors"].size == 1 << 40


async def test_a_file_on_disk_without_a_digest_is_hashed(hub: StandInHub, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(WEIGHTS)
    stored = hub.add("org/disk", {"a.bin": path}).files["a.bin"]
    assert await stored.sha256() == SHA256
    plain = hub.add("org/disk", {"a.bin": path}, lfs=lambda _: False).files["a.bin"]
    assert await plain.blob_id() == hashlib.sha1(b"blob %d\0" % len(WEIGHTS) + WEIGHTS).hexdigest()


async def test_the_log_has_requests_and_sent_bytes(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    hub.requests.clear()
    url = await signed(hub, session)
    async with session.get(url, headers={"Range": "bytes=5-9"}) as response:
        await response.read()
    resolve, download = hub.requests
    assert (resolve.origin, resolve.method, resolve.path) == (
        "hub",
        "HEAD",
        "/org/tiny/resolve/main/model.safetensors",
    )
    assert (resolve.status, resolve.body_bytes) == (302, 0)
    assert (download.origin, download.method, download.status, download.body_bytes) == ("cdn", "GET", 206, 5)
    assert download.path == url.raw_path_qs
    assert download.headers["range"] == "bytes=5-9"


async def raw_body(url: URL) -> tuple[bytes, str]:
    """The body's bytes that reach a socket, and how the connection ends. HTTP clients lose the last of these bytes."""
    loop = asyncio.get_running_loop()
    received, end = bytearray(), "closed"
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, (url.host, url.port))
        await loop.sock_sendall(connection, f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: cdn\r\n\r\n".encode())
        try:
            while chunk := await loop.sock_recv(connection, 1 << 16):
                received += chunk
        except ConnectionResetError:
            end = "reset"
    headers, _, body = bytes(received).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(WEIGHTS)}".encode() in headers
    return body, end


async def test_a_drop_resets_the_connection(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    """The client receives all bytes before the reset. The next answer is complete."""
    hub.faults.append(Fault("model.safetensors", "drop", after=1_500_000))
    url = await signed(hub, session)
    assert await raw_body(url) == (WEIGHTS[:1_500_000], "reset")
    async with session.get(url) as response:
        assert await response.read() == WEIGHTS


async def test_a_drop_at_zero_comes_before_the_headers(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    hub.faults.append(Fault("*", "drop", times=2))  # aiohttp itself repeats a GET once
    url = await signed(hub, session)
    with pytest.raises(aiohttp.ClientConnectionError):
        await session.get(url)
    assert [logged.status for logged in hub.requests] == [302, None, None]


async def test_a_short_answer_ends_cleanly_below_its_length(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    hub.faults += [Fault("*", "short", after=1000), Fault("*", "short", after=1000)]
    url = await signed(hub, session)
    assert await raw_body(url) == (WEIGHTS[:1000], "closed")
    async with session.get(url, headers={"Range": "bytes=10-"}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert hub.requests[-1].body_bytes == 1000


async def test_corruption_changes_one_byte_in_one_range(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    hub.faults.append(Fault("model.safetensors", "corrupt", after=1_500_000, times=-1))
    url = await signed(hub, session)
    for part in (slice(0, 1_000_000), slice(1_000_000, 2_000_000)):
        async with session.get(url, headers={"Range": f"bytes={part.start}-{part.stop - 1}"}) as response:
            data = await response.read()
        wrong = [n for n, (a, b) in enumerate(zip(data, WEIGHTS[part], strict=True), part.start) if a != b]
        assert wrong == ([1_500_000] if part.start else [])


async def test_a_status_fault_has_headers_and_a_count(hub: StandInHub, session: aiohttp.ClientSession) -> None:
    limit = {"RateLimit": '"resolvers";r=0;t=55'}
    hub.faults += [
        Fault("model.safetensors", "status", status=429, headers=limit, at="resolve", times=2),
        Fault("api", "status", status=502),
    ]
    answers = []
    for _ in range(3):
        async with session.head(address(hub, "model.safetensors")) as response:
            answers.append((response.status, response.headers.get("RateLimit")))
    assert answers == [(429, limit["RateLimit"])] * 2 + [(302, None)]
    api = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(HfHubHTTPError, match="502"):
        await asyncio.to_thread(api.model_info, "org/tiny")
    assert (await asyncio.to_thread(api.model_info, "org/tiny")).id == "org/tiny"


@pytest.mark.parametrize("after", [0, 1000])
async def test_close_does_not_wait_for_a_hanging_answer(after: int) -> None:
    hub = StandInHub()
    await hub.start()
    hub.add("org/tiny", FILES)
    hub.faults.append(Fault("model.safetensors", "hang", after=after))
    async with aiohttp.ClientSession(requote_redirect_url=False) as session:
        url = await signed(hub, session)
        hanging = asyncio.create_task(_read(session, url))
        while not any(logged.origin == "cdn" and logged.body_bytes == after for logged in hub.requests):
            await asyncio.sleep(0)
        assert not hanging.done()
        async with asyncio.timeout(30):  # a graceful shutdown would wait for a minute
            await hub.close()
        with pytest.raises(aiohttp.ClientError):
            await hanging


async def _read(session: aiohttp.ClientSession, url: URL) -> bytes:
    async with session.get(url) as response:
        return await response.read()


async def test_a_rate_slows_the_cdn_only(
    hub: StandInHub, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("proxy.standins.delivery.asyncio.sleep", sleep)
    hub.rate = 1 << 20
    assert await _read(session, await signed(hub, session)) == WEIGHTS
    assert sum(slept) == pytest.approx(2)
    async with session.get(address(hub, "config.json")) as response:
        assert await response.read() == CONFIG
    assert sum(slept) == pytest.approx(2)
