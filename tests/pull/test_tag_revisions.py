"""`HOST/ORG/REPO:REVISION--QUANTIZATION`: a branch, a tag or a commit in the tag."""

import aiohttp
import pytest

from proxy.app import App
from proxy.inspection import inspect
from proxy.standins.hub import StandInHub, StandInRepository
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.adapter_pulls import layer_of
from tests.kit.administration import call
from tests.kit.conversions import converted
from tests.kit.gguf_pulls import FLOATS, WHOLE
from tests.kit.ollama_log import bodies
from tests.kit.proxying import proxying
from tests.kit.support import Client, digest_of, fetched, settings
from tests.kit.tiny_adapter import tiny_adapter
from tests.kit.tiny_gguf import tiny_gguf

REPOSITORY = "hf.co/acme/tiny"
SUCCESS = {"status": "success"}
OLD, NEW = tiny_llama(), tiny_llama(seed=5)


@pytest.fixture
def repository(hub: StandInHub) -> StandInRepository:
    """Its branch v1 is older than main."""
    repository = hub.add("acme/tiny", OLD)
    repository.branches["v1"] = repository.commit
    repository.update(NEW)
    return repository


def model_of(ollama: StandInOllama, tag: str) -> str:
    return layer_of(ollama, f"{REPOSITORY}:{tag}", "model").digest


def made(files: dict[str, bytes], quantization: str = "Q8_0") -> str:
    return digest_of(converted(files, quantization=quantization))


@pytest.mark.parametrize(
    ("tag", "quantization"),
    [
        ("v1--q8_0", "Q8_0"),
        ("V1--Q8_0", "Q8_0"),
        ("v1--latest", "Q4_K_M"),
        ("COMMIT--f16", "F16"),
        ("PREFIX--f16", "F16"),
    ],
)
async def test_the_tag_names_the_revision(
    client: Client, ollama: StandInOllama, repository: StandInRepository, tag: str, quantization: str
) -> None:
    """The model has the name that the client sent."""
    commit = repository.branches["v1"]
    tag = tag.replace("COMMIT", commit).replace("PREFIX", commit[:7].upper())
    assert (await client.pull(f"{REPOSITORY}:{tag}"))[-1] == SUCCESS
    assert list(ollama.models) == [f"{REPOSITORY}:{tag}"]
    assert model_of(ollama, tag) == made(OLD, quantization)
    [shown] = (await call(client, "GET", "models"))[1]
    assert (shown["repository"], shown["commit"], shown["changed"]) == ("acme/tiny", commit, False)


async def test_models_of_two_revisions_are_two_models(
    client: Client, hub: StandInHub, ollama: StandInOllama, repository: StandInRepository
) -> None:
    for tag in ("v1--q8_0", "main--q8_0", "q8_0"):
        assert (await client.pull(f"{REPOSITORY}:{tag}"))[-1] == SUCCESS
    assert model_of(ollama, "v1--q8_0") == made(OLD)
    assert model_of(ollama, "main--q8_0") == model_of(ollama, "q8_0") == made(NEW)
    hub.requests.clear()
    repository.update({"README.md": b"another"})
    shown = {model["name"]: model["changed"] for model in (await call(client, "GET", "models"))[1]}
    changed = {"v1--q8_0": False, "main--q8_0": True, "q8_0": True}
    assert shown == {f"{REPOSITORY}:{tag}": value for tag, value in changed.items()}
    assert (await client.pull(f"{REPOSITORY}:v1--q8_0"))[-1] == SUCCESS
    assert not fetched(hub)
    repository.branches["v1"] = repository.commit
    assert (await client.pull(f"{REPOSITORY}:v1--q8_0"))[-1] == SUCCESS
    assert model_of(ollama, "v1--q8_0") == made(NEW | {"README.md": b"another"})


async def test_the_tags_revision_wins_over_that_of_the_settings(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, repository: StandInRepository
) -> None:
    models = {REPOSITORY: {"revision": "v1"}}
    async with proxying(hub, ollama, session, models=models) as (_, client):
        for tag in ("q8_0", "main--q8_0"):
            assert (await client.pull(f"{REPOSITORY}:{tag}"))[-1] == SUCCESS
    assert (model_of(ollama, "q8_0"), model_of(ollama, "main--q8_0")) == (made(OLD), made(NEW))


@pytest.mark.parametrize(
    ("tag", "texts"),
    [
        (
            "none--q8_0",
            ("acme/tiny at ", "has no revision 'none'; use a commit, or one of these branches and tags: main, v1"),
        ),
        ("0000000--q8_0", ("has no revision '0000000'; use a commit",)),
        ("v1--", ("names the revision 'v1' and no quantization; pull with v1--Q4_K_M, or v1--latest",)),
        (
            "v1--q9",
            (
                "there is no quantization 'q9'; pull with one of these tags: Q4_K_M, ",
                "The tag 'v1--q9' is the revision 'v1' and the quantization 'q9'; put v1-- before another quantization",
            ),
        ),
        ("v1--iq2_xs", ("IQ2_XS needs an importance matrix", "put v1-- before another quantization")),
    ],
)
async def test_a_refusal_names_the_part_that_is_wrong(
    client: Client, hub: StandInHub, repository: StandInRepository, tag: str, texts: tuple[str, ...]
) -> None:
    error = (await client.pull(f"{REPOSITORY}:{tag}"))[-1]["error"]
    assert all(text in error for text in texts), error
    assert not fetched(hub)


async def test_offers_keep_the_revision(hub: StandInHub, ollama: StandInOllama, repository: StandInRepository) -> None:
    config = settings(hub.endpoint, ollama.url)
    for tag in ("v1--q8_0", "v1--q9"):
        inspection = (await inspect(config, f"{REPOSITORY}:{tag}")).to_json()
        assert inspection["commit"] == repository.branches["v1"]
        tags = [offer["quantization"] for offer in inspection["offers"]]
        assert tags[:2] == ["v1--Q4_K_M", "v1--Q5_K_M"]
        assert all(offer.startswith("v1--") for offer in tags)


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        ("v1--q4_K_M", WHOLE),
        ("v1--latest", WHOLE),
        ("v1--tiny-Q4_K_M.gguf", WHOLE),
        ("v1--tiny--F16.gguf", FLOATS),
        ("tiny--f16.gguf", FLOATS),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "native"])
async def test_the_proxy_pulls_a_gguf_of_a_revision(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    public_hub: None,
    tag: str,
    content: bytes,
    mode: str,
) -> None:
    """Ollama's own pull knows no revisions. A tag that is the name of a file is no revision."""
    repository = hub.add("acme/tiny", {"tiny-Q4_K_M.gguf": WHOLE, "folder/tiny--F16.gguf": FLOATS})
    repository.branches["v1"] = repository.commit
    repository.update({"tiny-Q4_K_M.gguf": tiny_gguf(seed=8)} if "--" in tag[:4] else {})
    name = f"{REPOSITORY}:{tag}"
    is_native = tag == "tiny--f16.gguf"
    if is_native:
        ollama.native[name] = len(content)
    async with App(settings(hub.endpoint, ollama.url, pull={"gguf": mode})) as app:
        assert (await Client(app.address.url, session).pull(name))[-1] == SUCCESS
    assert ({"model": name} in bodies(ollama, "/api/pull")) is is_native
    if not is_native:
        assert model_of(ollama, tag) == digest_of(content)


async def test_an_unknown_gguf_of_a_revision_names_both_parts(client: Client, hub: StandInHub) -> None:
    repository = hub.add("acme/tiny", {"tiny-Q4_K_M.gguf": WHOLE})
    repository.branches["v1"] = repository.commit
    error = (await client.pull(f"{REPOSITORY}:v1--q5_0"))[-1]["error"]
    assert "acme/tiny has no GGUF for the tag 'q5_0'; pull with one of these: Q4_K_M" in error
    assert "The tag 'v1--q5_0' is the revision 'v1' and the quantization 'q5_0'; put v1-- before" in error


async def test_the_revision_of_an_adapter_is_not_that_of_its_base(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    hub.add("acme/base", OLD)
    repository = hub.add("acme/tiny", tiny_adapter("acme/base"))
    repository.branches["v1"] = repository.commit
    repository.update(dict.fromkeys(tiny_adapter("acme/base")) | dict(NEW))
    assert (await client.pull(f"{REPOSITORY}:v1--q8_0"))[-1] == SUCCESS
    assert sorted(ollama.models) == ["hf.co/acme/base:q8_0", f"{REPOSITORY}:v1--q8_0"]
