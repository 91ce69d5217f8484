"""The Hub as a source: what it lists, and what a person is told when it does not."""

from types import SimpleNamespace

import huggingface_hub
import pytest

from proxy.demo.hub import Fault, StandInHub
from proxy.errors import Refusal, SourceError
from proxy.sources import huggingface
from proxy.sources.huggingface import HuggingFace

HOSTS = ("hf.co",)


async def test_a_listing_has_sizes_and_digests_at_one_commit(hub: StandInHub) -> None:
    added = hub.add("acme/tiny", {"model.safetensors": b"weights", "config.json": b"{}"})
    repository = await HuggingFace(hub.endpoint, "", HOSTS).open("acme/tiny", None)
    files = {file.path: file for file in repository.files}
    assert repository.commit == added.commit
    assert files["model.safetensors"].size == 7
    assert files["model.safetensors"].sha256 is not None
    assert files["config.json"].sha256 is None
    assert files["config.json"].git_sha1 == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git's name of b"{}"


async def test_a_revision_is_resolved(hub: StandInHub) -> None:
    added = hub.add("acme/tiny", {"config.json": b"1"})
    old = added.commit
    added.update({"config.json": b"2"})
    source = HuggingFace(hub.endpoint, "", HOSTS)
    assert (await source.open("acme/tiny", old)).commit == old
    assert (await source.open("acme/tiny", "main")).commit == added.commit
    with pytest.raises(Refusal, match="no revision 'none'"):
        await source.open("acme/tiny", "none")


@pytest.mark.parametrize(
    ("added", "token", "message"),
    [
        ({}, "", "no repository acme/none.*set HF_TOKEN for the proxy"),
        ({}, "hf_mine", "no repository acme/none.*give the proxy a token that may read it"),
        ({"gated": True}, "", "is gated; ask for access at .*/acme/none, then set HF_TOKEN for the proxy"),
        ({"gated": True}, "hf_mine", "the proxy's token has no access to it"),
        ({"private": True}, "", "no repository acme/none"),
        ({"disabled": True}, "", "has been disabled by the Hub"),
    ],
)
async def test_what_may_not_be_read_is_told_apart(
    hub: StandInHub, added: dict[str, bool], token: str, message: str
) -> None:
    hub.token = "hf_other"
    if added:
        hub.add("acme/none", {"config.json": b"{}"}, **added)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match=message):
        await HuggingFace(hub.endpoint, token, HOSTS).open("acme/none", None)


async def test_an_impossible_name_is_refused() -> None:
    with pytest.raises(Refusal, match="cannot be a repository's name"):
        await HuggingFace("http://127.0.0.1:9", "", HOSTS).open("acme/a--b", None)


async def test_a_hub_that_hangs_is_given_up(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "METADATA_SECONDS", 0.3)
    hub.add("acme/tiny", {"config.json": b"{}"})
    hub.faults.append(Fault("api", "hang"))
    with pytest.raises(SourceError, match="did not answer within|cannot be reached"):
        await HuggingFace(hub.endpoint, "", HOSTS).open("acme/tiny", None)


async def test_a_failing_hub_is_told_with_its_status(hub: StandInHub) -> None:
    hub.add("acme/tiny", {"config.json": b"{}"})
    hub.faults.append(Fault("api", "status", status=500, times=-1))
    with pytest.raises(SourceError, match="500"):
        await HuggingFace(hub.endpoint, "", HOSTS).open("acme/tiny", None)


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
        return SimpleNamespace(id="a/b", sha="c" * 40, siblings=[], gated=False)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_login")
    await HuggingFace(endpoint, configured, HOSTS).open("a/b", None)
    assert tokens == [used]
