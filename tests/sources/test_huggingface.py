"""The Hub as a source: its listings, and the errors if it has none."""

import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import huggingface_hub.errors
import pytest
from aiohttp import web
from huggingface_hub.hf_api import BlobLfsInfo, RepoSibling
from huggingface_hub.utils._http import hf_raise_for_status

from proxy.errors import Refusal
from proxy.sources import huggingface
from proxy.sources.hub_errors import explain
from proxy.sources.hub_files import PUBLIC_ENDPOINT
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import Fault, StandInHub
from tests.kit.support import listening

HOSTS = ("hf.co",)
WHOLE = [
    RepoSibling(rfilename=path, size=1, blob_id="0" * 40, lfs=BlobLfsInfo(size=1, sha256="0" * 64, pointer_size=1))
    for path in ("config.json", "model.safetensors", "tokenizer_config.json")
]
"""A list of files that needs no further request."""


@pytest.fixture
async def source(hub: StandInHub) -> AsyncIterator[HuggingFace]:
    """The stand-in, without a token."""
    source = HuggingFace(hub.endpoint, "", HOSTS)
    yield source
    await source.close()


async def test_a_listing_has_sizes_and_digests_at_one_commit(hub: StandInHub, source: HuggingFace) -> None:
    small = {"config.json": b"{}", "tokenizer_config.json": b"{}"}
    added = hub.add("acme/tiny", {"model.safetensors": b"weights", **small})
    repository = await source.open("acme/tiny", None)
    files = {file.path: file for file in repository.files}
    assert repository.commit == added.commit
    assert files["model.safetensors"].size == 7
    assert files["model.safetensors"].sha256 is not None
    assert files["config.json"].sha256 is None
    assert files["config.json"].git_sha1 == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git's name of b"{}"


async def test_a_revision_is_resolved(hub: StandInHub, source: HuggingFace) -> None:
    added = hub.add("acme/tiny", {"tiny.gguf": b"1"})
    old = added.commit
    added.update({"tiny.gguf": b"2"})
    assert (await source.open("acme/tiny", old)).commit == old
    assert (await source.open("acme/tiny", "main")).commit == added.commit
    with pytest.raises(Refusal, match="no revision 'none'"):
        await source.open("acme/tiny", "none")


async def test_the_first_digits_of_a_commit_are_enough(hub: StandInHub, source: HuggingFace) -> None:
    """The Hub takes only whole commits. A commit may be of a branch that the list of commits does not show."""
    added = hub.add("acme/tiny", {"config.json": b"1"})
    assert (await source.open("acme/tiny", added.commit[:7])).commit == added.commit
    assert (await source.open("acme/tiny", added.commit[:39].upper())).commit == added.commit
    with pytest.raises(Refusal, match=f"no revision '{added.commit[:6]}'; use a commit, or one of .*: main$"):
        await source.open("acme/tiny", added.commit[:6])


async def test_digits_of_two_commits_are_refused_with_both(hub: StandInHub, source: HuggingFace) -> None:
    added = hub.add("acme/tiny", {"config.json": b"1"})
    twin = added.commit[:8] + "0" * 32
    added.commits[twin], added.dates[twin] = added.files, added.dates[added.commit]
    both = ", ".join(sorted((twin, added.commit)))
    with pytest.raises(Refusal, match=f"no revision '{twin[:8]}'; it may be one of these: {both}"):
        await source.open("acme/tiny", twin[:8])


async def test_a_name_in_another_case_is_one_only_if_there_is_no_other(hub: StandInHub, source: HuggingFace) -> None:
    """Ollama gives a tag the case of another model's."""
    added = hub.add("acme/tiny", {"config.json": b"1"})
    old = added.commit
    added.update({"config.json": b"2"})
    added.branches |= {"V1": old, "v2": old, "V2": added.commit}
    assert (await source.open("acme/tiny", "v1")).commit == old
    assert [(await source.open("acme/tiny", name)).commit for name in ("v2", "V2")] == [old, added.commit]
    added.branches |= {"Dev": old, "DEV": old}
    with pytest.raises(Refusal, match="no revision 'dev'; it may be one of these: DEV, Dev"):
        await source.open("acme/tiny", "dev")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (False, "has no revision 'none'; check the spelling"),
        (True, "no repository acme/tiny at .* with the revision 'none'"),
    ],
)
async def test_a_mirror_without_a_list_of_branches_refuses_a_revision_too(
    hub: StandInHub, source: HuggingFace, plain: bool, message: str
) -> None:
    hub.add("acme/tiny", {"config.json": b"1"})
    hub.mirror, hub.plain_errors = True, plain
    with pytest.raises(Refusal, match=message):
        await source.open("acme/tiny", "none")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("added", "token", "message"),
    [
        ({}, "", "no repository acme/none.*set HF_TOKEN for the proxy"),
        ({}, "hf_mine", "no repository acme/none.*give the proxy a token that may read it"),
        ({"gated": True}, "", "is gated; ask for access at .*/acme/none.*then set HF_TOKEN for the proxy"),
        ({"gated": True}, "hf_mine", "the proxy's token has no access to it; ask for access at .*/acme/none"),
        ({"private": True}, "", "no repository acme/none.*if it is private, set HF_TOKEN for the proxy"),
        ({"private": True}, "hf_mine", "no repository acme/none.*give the proxy a token that may read it"),
        ({"disabled": True}, "", "has been disabled by the Hub|may not be read: it answered 403.*set HF_TOKEN"),
        (
            {},
            "hf_revoked",
            "does not know the proxy's token|there is no repository .* or the proxy's token is not valid",
        ),
        ({"gated": False}, "hf_revoked", "does not know the proxy's token|or the proxy's token is not valid there"),
    ],
)
async def test_each_refusal_of_the_hub_is_explained(
    hub: StandInHub, added: dict[str, bool], token: str, message: str, plain: bool
) -> None:
    """At the Hub, and at a mirror whose errors have no codes."""
    hub.token, hub.revoked, hub.plain_errors = "hf_other", {"hf_revoked"}, plain
    if added:
        hub.add("acme/none", {"config.json": b"{}", "model.safetensors": b"weights"}, **added)  # type: ignore[arg-type]
    source = HuggingFace(hub.endpoint, token, HOSTS)
    with pytest.raises(Refusal, match=message) as refusal:
        await source.open("acme/none", None)
    await source.close()
    assert "hf_mine" not in str(refusal.value)
    assert not [request for request in hub.requests if "/resolve/" in request.path and request.method == "GET"]
    assert not [request for request in hub.requests if request.origin == "cdn"]


@pytest.mark.parametrize(
    ("status", "message", "token", "expected"),
    [
        (401, "Invalid credentials in Authorization header", "hf_mine", "does not know the proxy's token"),
        (401, "Invalid username or password.", "hf_mine", "does not know the proxy's token"),
        (404, "Repository not found", "hf_mine", "there is no repository .*give the proxy a token that may read it"),
        (401, "Invalid username or password.", "", "there is no repository .*set HF_TOKEN for the proxy"),
        (403, "Forbidden: you need a finer token", "hf_mine", "you need a finer token; check what the proxy's token"),
    ],
)
def test_the_hubs_own_401_with_a_token_is_about_the_token(status: int, message: str, token: str, expected: str) -> None:
    """With a valid token the Hub answers 404."""
    request = httpx2.Request("GET", f"{PUBLIC_ENDPOINT}/api/models/acme/none")
    response = httpx2.Response(status, headers={"X-Error-Message": message}, request=request)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as raised:
        hf_raise_for_status(response)
    error = explain(raised.value, PUBLIC_ENDPOINT, "acme/none", None, with_token=bool(token))
    assert isinstance(error, Refusal)
    assert re.search(expected, str(error))
    assert "a mirror" not in str(error)


async def test_without_an_access_check_a_file_is_tried(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Olah describes a gated repository but has no auth-check: its 404 must not mean that there is no repository."""
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", no_such_page)
    hub.token = "hf_other"
    hub.add("acme/gated", {"config.json": b"{}", "logo.png": b"png"}, gated=True)
    for token, message in (("", "set HF_TOKEN"), ("hf_mine", "the proxy's token has no access to it")):
        source = HuggingFace(hub.endpoint, token, HOSTS)
        with pytest.raises(Refusal, match=f"is gated.*{message}"):
            await source.open("acme/gated", None)
        await source.close()
    source = HuggingFace(hub.endpoint, "hf_other", HOSTS)
    assert (await source.open("acme/gated", None)).id == "acme/gated"
    await source.close()
    assert {request.method for request in hub.requests if "/resolve/" in request.path} == {"HEAD"}


def no_such_page(*_: object) -> None:
    response = httpx2.Response(404, request=httpx2.Request("GET", "http://mirror"))
    raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)


@pytest.mark.parametrize(
    ("endpoint", "described", "public"),
    [
        ("https://huggingface.co", {}, True),
        ("https://huggingface.co", {"private": True}, False),
        ("https://huggingface.co", {"gated": "auto"}, False),
        ("https://hf-mirror.com", {}, False),
        ("http://127.0.0.1:1", {}, False),
    ],
)
async def test_public_is_what_anybody_gets_at_huggingface_co(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, described: dict[str, object], public: bool
) -> None:
    fields = {
        "id": "a/b",
        "sha": "c" * 40,
        "siblings": WHOLE,
        "gated": False,
        "private": False,
        "last_modified": None,
        "tags": None,
    }
    fields |= described
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(**fields))
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", lambda *_: None)
    assert (await HuggingFace(endpoint, "", HOSTS).open("a/b", None)).public is public


async def test_ggufs_of_the_same_model_are_the_three_most_downloaded(hub: StandInHub) -> None:
    hub.add("acme/tiny", {"model.safetensors": b"weights"})
    for downloads, name in enumerate(("low", "third", "second", "first"), 1):
        hub.add(f"acme/{name}-GGUF", {"a.gguf": b"g"}, quantized_from="acme/tiny", downloads=downloads)
    hub.add("acme/awq", {"model.safetensors": b"w"}, quantized_from="acme/tiny", downloads=99)
    hub.add("acme/other-GGUF", {"a.gguf": b"g"}, quantized_from="acme/other", downloads=99)
    source = HuggingFace(hub.endpoint, "", HOSTS)
    repository = await source.open("acme/tiny", None)
    assert list(await repository.gguf_repositories()) == ["acme/first-GGUF", "acme/second-GGUF", "acme/third-GGUF"]
    await source.close()


@pytest.mark.parametrize("kind", ["status", "hang", "drop"])
async def test_without_an_answer_there_are_no_gguf_hints(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    assert huggingface.HINT_SECONDS <= 3
    monkeypatch.setattr(huggingface, "HINT_SECONDS", 0.3)
    hub.add("acme/tiny", {"model.safetensors": b"weights"})
    source = HuggingFace(hub.endpoint, "", HOSTS)
    repository = await source.open("acme/tiny", None)
    hub.faults.append(Fault("api", kind, status=500, times=-1))
    assert list(await repository.gguf_repositories()) == []
    await source.close()


async def test_a_description_elsewhere_is_asked_for_without_the_token(hub: StandInHub) -> None:
    """hf-mirror.com redirects some requests to huggingface.co."""
    hub.add("acme/tiny", {"tiny.gguf": b"GGUF"})
    seen: list[str | None] = []

    async def mirror(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=308, headers={"Location": f"{hub.endpoint}{request.path_qs}"})

    async with listening(mirror) as url:
        assert (await HuggingFace(url, "hf_mine", HOSTS).open("acme/tiny", None)).id == "acme/tiny"
    assert seen == ["Bearer hf_mine"]
    assert hub.requests
    assert not [request for request in hub.requests if "Authorization" in request.headers]


async def test_an_impossible_name_is_refused() -> None:
    with pytest.raises(Refusal, match="cannot be a repository's name"):
        await HuggingFace("http://127.0.0.1:9", "", HOSTS).open("acme/a--b", None)


async def test_the_waiting_limits_keep_the_promise_of_fifteen_seconds() -> None:
    assert huggingface.METADATA_SECONDS <= 15


@pytest.mark.parametrize(
    ("endpoint", "configured", "used"),
    [
        ("https://huggingface.co", "", "hf_login"),
        ("https://huggingface.co", "hf_own", "hf_own"),
        ("https://mirror.example", "", False),
        ("https://mirror.example", "hf_own", "hf_own"),
    ],
)
async def test_the_token_of_the_login_goes_to_huggingface_co_only(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, configured: str, used: str | bool
) -> None:
    tokens: list[str | bool | None] = []

    def answer(api: huggingface_hub.HfApi, *_: object, **__: object) -> SimpleNamespace:
        tokens.append(api.token)
        return SimpleNamespace(
            id="a/b", sha="c" * 40, siblings=WHOLE, gated=False, private=False, last_modified=None, tags=None
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_login")
    await HuggingFace(endpoint, configured, HOSTS).open("a/b", None)
    assert tokens == [used]
