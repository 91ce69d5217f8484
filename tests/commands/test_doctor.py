"""`doctor`: a line each for what a pull needs, with the mend, and exit 1 where one would fail."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy.commands.doctor import Finding, examine
from proxy.config import Config
from proxy.gguf import engine, engine_ggml
from proxy.gguf.engine import engine_names
from proxy.gguf.engine_numpy import NumpyEngine
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.transfer.threads import cores
from tests.kit.support import serving, settings
from tests.test_cli import run


async def found(config: Config) -> list[Finding]:
    return [finding async for finding in examine(config)]


def told(findings: Sequence[Finding], verdict: str) -> str:
    return "\n".join(finding.text for finding in findings if finding.verdict == verdict)


@pytest.fixture
async def mirror() -> AsyncIterator[StandInHub]:
    async with StandInHub() as hub:
        yield hub


async def test_where_all_is_there_it_exits_0(hub: StandInHub, ollama: StandInOllama) -> None:
    status, out, err = await run("doctor", "--ollama", ollama.url, "--hub", hub.endpoint)
    assert (status, err) == (0, ""), out
    lines = out.splitlines()
    assert f"ok    Ollama 0.24.0 answers at {ollama.url}" in lines
    assert any(line.startswith("ok    Ollama reaches the proxy") for line in lines)
    assert any(line.startswith(f"ok    {hub.endpoint} answers; without a token") for line in lines)
    assert not ollama.blobs
    assert not ollama.models


async def test_where_nothing_is_there_it_exits_1_with_the_mends() -> None:
    status, out, _ = await run("doctor", "--ollama", "http://127.0.0.1:9", "--hub", "http://127.0.0.1:9")
    assert status == 1
    failed = [line for line in out.splitlines() if line.startswith("fail")]
    assert len(failed) == 2
    assert "is it running?" in failed[0]
    assert "HTTPS_PROXY" in failed[1]


async def test_a_proxy_that_is_its_own_upstream_is_seen(hub: StandInHub, ollama: StandInOllama) -> None:
    async with serving("--ollama", ollama.url, "--hub", hub.endpoint) as (_, url):
        assert "is an ollama-hf-proxy itself" in told(await found(settings(hub.endpoint, url)), "fail")


async def test_beside_a_running_proxy_that_one_is_asked(hub: StandInHub, ollama: StandInOllama, tmp_path: Path) -> None:
    async with serving("--ollama", ollama.url, "--hub", hub.endpoint):
        assert "Ollama reaches the proxy" in told(await found(settings(hub.endpoint, ollama.url)), "ok")
    assert [request.path for request in ollama.requests].count("/api/pull") == 1


async def test_an_ollama_that_does_not_reach_the_proxy_is_a_note(hub: StandInHub, ollama: StandInOllama) -> None:
    config = settings(hub.endpoint, ollama.url, ollama={"advertise_url": "http://127.0.0.1:9"})
    findings = await found(config)
    assert "set ollama.advertise_url" in told(findings, "note")
    assert not told(findings, "fail")


@pytest.mark.parametrize(("version", "said"), [("0.5.4", "is too old"), ("0.0.0", "as a build of one's own does")])
async def test_the_version_counts(hub: StandInHub, ollama: StandInOllama, version: str, said: str) -> None:
    ollama.version = version
    findings = await found(settings(hub.endpoint, ollama.url))
    assert said in told(findings, "fail" if version == "0.5.4" else "note")


async def test_a_token_is_tried(hub: StandInHub, ollama: StandInOllama) -> None:
    hub.token = "hf_good"
    good = await found(settings(hub.endpoint, ollama.url, hub={"token": "hf_good"}))
    assert "and takes the token" in told(good, "ok")
    bad = await found(settings(hub.endpoint, ollama.url, hub={"token": "hf_bad"}))
    assert f"does not take the token; make one at {hub.endpoint}/settings/tokens" in told(bad, "fail")


async def test_mirrors_are_tried_without_the_token(hub: StandInHub, mirror: StandInHub, ollama: StandInOllama) -> None:
    hub.token = "hf_good"
    mirrors = [mirror.endpoint, "http://127.0.0.1:9"]
    findings = await found(settings(hub.endpoint, ollama.url, hub={"token": "hf_good", "mirrors": mirrors}))
    assert f"{mirror.endpoint}, a mirror, answers" in told(findings, "ok")
    assert "http://127.0.0.1:9 cannot be reached" in told(findings, "fail")
    assert not any("Authorization" in request.headers for request in mirror.requests)


async def test_disk_and_an_open_door_are_notes(hub: StandInHub, ollama: StandInOllama, tmp_path: Path) -> None:
    config = settings(hub.endpoint, ollama.url, server={"listen": "0.0.0.0:0"}, ollama={"models": str(tmp_path)})
    assert "of disk left" in told(await found(config), "ok") + told(await found(config), "note")
    assert "set api_keys" in told(await found(config), "note")


@pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")
async def test_the_engines_are_named(hub: StandInHub, ollama: StandInOllama) -> None:
    ok = told(await found(settings(hub.endpoint, ollama.url, pull={"threads": 3})), "ok")
    assert f"every quantization is made here, by {engine_names()}, in 3 threads of {cores()} cores" in ok


@pytest.mark.parametrize(("there", "made"), [(True, "TQ2_0, MXFP4_MOE"), (False, "Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16, ")])
async def test_what_is_not_made_here_is_a_note_with_what_to_install(
    hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch, *, there: bool, made: str
) -> None:
    """With numpy alone, and with nothing."""
    monkeypatch.setattr(engine, "engines", lambda: (NumpyEngine(),) if there else ())
    findings = await found(settings(hub.endpoint, ollama.url))
    note = told(findings, "note")
    assert "this machine does not make " in note
    assert made in note
    assert f"(engines: {engine_names()}); `pip install libggml-python`" in note
    assert ("Q8_0" in note) is not there
    assert not told(findings, "fail")
