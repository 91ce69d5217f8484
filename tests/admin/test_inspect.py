"""`GET /-/inspect`: the plan of a name, and the tags that it offers."""

import aiohttp
import orjson
import pytest

from proxy.config.values import Quantization
from proxy.gguf import engine_ggml
from proxy.inspection import inspect
from proxy.planning.capabilities import UNSUPPORTED
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.administration import call
from tests.kit.proxying import proxying
from tests.kit.support import Client, settings
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf

MARKUP = "<img src=x onerror=alert(1)>"


async def test_the_plan_is_the_commands(
    client: Client, hub: StandInHub, ollama: StandInOllama, files: dict[str, bytes]
) -> None:
    status, inspection = await call(client, "GET", "inspect", params={"name": " hf.co/acme/tiny "})
    assert status == 200
    assert inspection == (await inspect(settings(hub.endpoint, ollama.url), "hf.co/acme/tiny")).to_json()
    assert inspection["refusal"] is None
    assert not [request for request in ollama.requests if request.method == "POST"]


USUAL = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16"]

# An MXFP4_MOE without experts would be a Q8_0.
QUANTIZATIONS = [one for one in Quantization if one not in (*UNSUPPORTED, "MXFP4_MOE")]

needs_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


@needs_ggml
async def test_every_offer_has_the_size_of_its_own_plan(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: dict[str, bytes],
) -> None:
    async with proxying(hub, ollama, session) as (_, client):
        offers = (await call(client, "GET", "inspect?name=hf.co/acme/tiny"))[1]["offers"]
        assert [offer["quantization"] for offer in offers] == QUANTIZATIONS
        for offer in offers:
            own = (await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{offer['quantization']}"))[1]
            assert own["result_size"] == offer["size"], offer


@needs_ggml
async def test_the_usual_quantizations_come_first_and_say_so(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    async with proxying(hub, ollama, session) as (_, client):
        offers = (await call(client, "GET", "inspect?name=hf.co/acme/tiny:q3_k_s"))[1]["offers"]
    assert [offer["quantization"] for offer in offers[:6]] == USUAL
    assert [offer["usual"] for offer in offers] == [True] * 6 + [False] * (len(QUANTIZATIONS) - 6)
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
        *(one for one in QUANTIZATIONS if one not in ("Q5_K_M", "Q8_0")),
    ]
    assert offers[1]["size"] == len(gguf)


@needs_ggml
async def test_converted_offers_follow_the_gguf_ones(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, files: dict[str, bytes]
) -> None:
    """No tag is offered twice."""
    gguf = tiny_gguf("Q8_0")
    hub.add("acme/both", files | {"tiny.Q8_0.gguf": gguf, "tiny.Q3_K_S.gguf": gguf})
    async with proxying(hub, ollama, session) as (_, client):
        offers = (await call(client, "GET", "inspect?name=hf.co/acme/both"))[1]["offers"]
    converted = [one for one in QUANTIZATIONS if one not in ("Q8_0", "Q3_K_S")]
    assert [offer["quantization"] for offer in offers] == ["Q3_K_S", "Q8_0", *converted]
    assert [offer["usual"] for offer in offers[:2]] == [True, True]  # a GGUF that exists is always offered first


async def test_an_adapter_is_offered_in_the_quantizations_of_its_base(client: Client, hub: StandInHub) -> None:
    hub.add("acme/tiny", tiny_llama())
    hub.add("acme/adapter", tiny_adapter("acme/tiny"))
    inspection = (await call(client, "GET", "inspect?name=hf.co/acme/adapter:q8_0"))[1]
    assert inspection["refusal"] is None
    assert "Q4_K_M" in [offer["quantization"] for offer in inspection["offers"]]


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
    async with proxying(hub, ollama, session) as (_, client):
        inspection = (await call(client, "GET", f"inspect?name=hf.co/acme/tiny:{tag}"))[1]
    assert message in inspection["refusal"]
    assert [offer["quantization"] for offer in inspection["offers"]] == QUANTIZATIONS


@pytest.mark.parametrize("name", ["", "llama3.2", MARKUP, "registry.example/a/b"])
async def test_an_invalid_name_is_refused(client: Client, hub: StandInHub, name: str) -> None:
    async with client.session.get(f"{client.url}/-/inspect", params={"name": name} if name else {}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        inspection = orjson.loads(await response.read())
    assert inspection["name"] == name
    assert "is not a name of the form hf.co/ORG/REPO[:TAG]" in inspection["refusal"]
    assert not hub.requests
