"""`doctor`: one line for each thing that a pull needs, and exit 1 if a pull would fail."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy.commands.doctor import Finding, examine
from proxy.config.sections import Config
from proxy.gguf import engine, engine_ggml
from proxy.gguf.engine import engine_names
from proxy.gguf.engine_numpy import NumpyEngine
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.transfer.threads import cores
from tests.kit.forked import serving_forked
from tests.kit.support import settings
from tests.test_cli import run


async def findings_of(config: Config) -> list[Finding]:
    return [finding async for finding in examine(config)]


def texts(findings: Sequence[Finding], verdict: str) -> str:
    return "\n".join(finding.text for finding in findings if finding.verdict == verdict)


@pytest.fixture
async def mirror() -> AsyncIterator[StandInHub]:
    async with StandInHub() as hub:
        yield hub


async def test_a_healthy_machine_exits_0(hub: StandInHub, ollama: StandInOllama) -> None:
    status, out, err = await run("doctor", "--ollama", ollama.url, "--hub", hub.endpoint)
    assert (status, err) == (0, ""), out
    lines = out.splitlines()
    assert f"ok    Ollama 0.24.0 answers at {ollama.url}" in lines
    assert any(line.startswith("ok    Ollama reaches the proxy") for line in lines)
    assert any(line.startswith(f"ok    {hub.endpoint} answers; gated and private") for line in lines)
    assert not ollama.blobs
    assert not ollama.models


async def test_an_unreachable_ollama_and_hub_exit_1_with_advice() -> None:
    status, out, _ = await run("doctor", "--ollama", "http://127.0.0.1:9", "--hub", "http://127.0.0.1:9")
    assert status == 1
    failed = [line for line in out.splitlines() if line.startswith("fail")]
    assert len(failed) == 2
    assert "is it running?" in failed[0]
    assert "HTTPS_PROXY" in failed[1]


async def test_a_proxy_as_ollama_url_fails(hub: StandInHub, ollama: StandInOllama) -> None:
    async with serving_forked("--ollama", ollama.url, "--hub", hub.endpoint) as (_, url):
        assert "is an ollama-hf-proxy itself" in texts(await findings_of(settings(hub.endpoint, url)), "fail")


async def test_a_running_proxy_does_the_check(hub: StandInHub, ollama: StandInOllama, tmp_path: Path) -> None:
    async with serving_forked("--ollama", ollama.url, "--hub", hub.endpoint):
        assert "Ollama reaches the proxy" in texts(await findings_of(settings(hub.endpoint, ollama.url)), "ok")
    assert [request.path for request in ollama.requests].count("/api/pull") == 1


async def test_an_ollama_that_cannot_reach_the_proxy_is_a_note(hub: StandInHub, ollama: StandInOllama) -> None:
    config = settings(hub.endpoint, ollama.url, ollama={"advertise_url": "http://127.0.0.1:9"})
    findings = await findings_of(config)
    assert "set ollama.advertise_url" in texts(findings, "note")
    assert not texts(findings, "fail")


@pytest.mark.parametrize(("version", "text"), [("0.5.4", "is too old"), ("0.0.0", "as a development build does")])
async def test_old_and_unknown_versions_are_reported(
    hub: StandInHub, ollama: StandInOllama, version: str, text: str
) -> None:
    ollama.version = version
    findings = await findings_of(settings(hub.endpoint, ollama.url))
    assert text in texts(findings, "fail" if version == "0.5.4" else "note")


async def test_the_token_is_checked(hub: StandInHub, ollama: StandInOllama) -> None:
    hub.token = "hf_good"
    good = await findings_of(settings(hub.endpoint, ollama.url, hub={"token": "hf_good"}))
    assert "answers and accepts the token" in texts(good, "ok")
    bad = await findings_of(settings(hub.endpoint, ollama.url, hub={"token": "hf_bad"}))
    assert f"rejects the token; create a new one at {hub.endpoint}/settings/tokens" in texts(bad, "fail")


async def test_mirrors_are_checked_without_the_token(
    hub: StandInHub, mirror: StandInHub, ollama: StandInOllama
) -> None:
    hub.token = "hf_good"
    mirrors = [mirror.endpoint, "http://127.0.0.1:9"]
    findings = await findings_of(settings(hub.endpoint, ollama.url, hub={"token": "hf_good", "mirrors": mirrors}))
    assert f"the mirror {mirror.endpoint} answers" in texts(findings, "ok")
    assert "http://127.0.0.1:9 cannot be reached" in texts(findings, "fail")
    assert not any("Authorization" in request.headers for request in mirror.requests)


async def test_disk_and_an_open_network_are_notes(hub: StandInHub, ollama: StandInOllama, tmp_path: Path) -> None:
    config = settings(hub.endpoint, ollama.url, server={"listen": "0.0.0.0:0"}, ollama={"models": str(tmp_path)})
    assert "of disk left" in texts(await findings_of(config), "ok") + texts(await findings_of(config), "note")
    assert "set api_keys" in texts(await findings_of(config), "note")


@pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")
async def test_the_engines_are_listed(hub: StandInHub, ollama: StandInOllama) -> None:
    ok = texts(await findings_of(settings(hub.endpoint, ollama.url, pull={"threads": 3})), "ok")
    assert f"this machine can quantize to every type, with {engine_names()} and 3 threads on {cores()} cores" in ok


@pytest.mark.parametrize(
    ("has_numpy", "missing"), [(True, "TQ2_0, MXFP4_MOE"), (False, "Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16, ")]
)
async def test_missing_quantizations_are_a_note_with_advice(
    hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch, *, has_numpy: bool, missing: str
) -> None:
    """With numpy only, and without any engine."""
    monkeypatch.setattr(engine, "engines", lambda: (NumpyEngine(),) if has_numpy else ())
    findings = await findings_of(settings(hub.endpoint, ollama.url))
    note = texts(findings, "note")
    assert "this machine cannot quantize to " in note
    assert missing in note
    assert f"(engines: {engine_names()}); `pip install libggml-python`" in note
    assert ("Q8_0" in note) is not has_numpy
    assert not texts(findings, "fail")
