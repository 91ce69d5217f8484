"""GGUF repositories: whether Ollama or the proxy pulls, and which files."""

from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.gguf.splitting import split
from tests.kit.conversions import converted
from tests.kit.gguf_pulls import FLOATS, NAME, PRIVATE, REPOSITORY, WHOLE, gguf_layers, pull, weight_bytes
from tests.kit.ollama_log import bodies, created, last_bars
from tests.kit.support import NO_TEMPLATE, PLAIN, Client, digest_of
from tests.kit.tiny_gguf import tiny_gguf, tiny_projector


def files_of(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: digest_of(content) for path, content in files.items()}


# ---- Ollama or the proxy


async def test_ollama_pulls_one_public_file_without_insecure(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, public_hub: None
) -> None:
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": tiny_projector()})
    ollama.native[NAME] = 1000
    lines = await pull(hub, ollama, session)
    assert lines[-1] == {"status": "success"}
    assert bodies(ollama, "/api/pull") == [{"model": NAME}]
    assert not created(ollama)
    assert not weight_bytes(hub)


@pytest.mark.parametrize(
    ("files", "flags", "sections"),
    [
        (split(WHOLE, 2, prefix="m-Q4_K_M"), {}, {}),
        ({"m-F16.gguf": FLOATS}, {}, {}),
        ({"m-Q4_K_M.gguf": WHOLE}, {"private": True}, PRIVATE),
        ({"m-Q4_K_M.gguf": WHOLE}, {"gated": True}, PRIVATE),
        ({"m-Q4_K_M.gguf": WHOLE}, {}, {"models": {f"HF.co/{REPOSITORY}": {"system": "Be terse."}}}),
        ({"m-Q4_K_M.gguf": WHOLE}, {}, {"pull": {"gguf": "proxy"}}),
    ],
    ids=["split", "to quantize", "private", "gated", "settings", "proxy"],
)
async def test_the_proxy_pulls_what_ollama_cannot(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    public_hub: None,
    files: dict[str, bytes],
    flags: dict[str, bool],
    sections: dict[str, Any],
) -> None:
    """Each reason by itself is enough."""
    hub.add(REPOSITORY, files, **flags)  # type: ignore[arg-type]
    hub.token = "hf_secret"
    ollama.native[NAME] = 1000
    lines = await pull(hub, ollama, session, **sections)
    assert lines[-1] == {"status": "success"}
    assert not [body for body in bodies(ollama, "/api/pull") if body["model"] == NAME]
    assert ollama.models[NAME].system == ("Be terse." if "models" in sections else "")


async def test_the_proxy_pulls_from_any_other_hub(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE})
    lines = await pull(hub, ollama, session)
    assert [line["status"] for line in lines if "digest" not in line] == [
        "pulling manifest",
        NO_TEMPLATE,
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert last_bars(lines) == {digest_of(WHOLE): (len(WHOLE), len(WHOLE))}
    assert not created(ollama)
    assert gguf_layers(ollama, NAME) == [("model", digest_of(WHOLE))]
    model = ollama.models[NAME]
    assert (model.template, model.runner) == (PLAIN["template"], "llamacpp")
    assert (model.family, model.parameter_size, model.quantization_level) == ("llama", "394K", "Q4_K_M")
    assert model.size == sum(ollama.blobs[layer.digest] for layer in model.layers)


async def test_an_unreached_proxy_creates_a_gguf_as_it_is(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    projector = tiny_projector()
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": projector})
    lines = await pull(hub, ollama, session, ollama={"advertise_url": "http://127.0.0.1:9"})
    assert lines[-1] == {"status": "success"}
    files = files_of({"m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": projector})
    assert created(ollama) == [{"model": NAME, "files": files, "stream": False, **PLAIN}]
    assert gguf_layers(ollama, NAME) == [("model", digest_of(WHOLE)), ("projector", digest_of(projector))]


@pytest.mark.parametrize(("tag", "default", "native"), [("latest", "Q8_0", False), ("latest", "Q4_K_M", True)])
async def test_with_another_default_the_proxy_pulls_latest(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    public_hub: None,
    tag: str,
    default: str,
    native: bool,
) -> None:
    small = tiny_gguf("Q8_0")
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE, "m-Q8_0.gguf": small})
    name = f"hf.co/{REPOSITORY}:{tag}"
    ollama.native[name] = 1000
    await pull(hub, ollama, session, name, pull={"default_quantization": default})
    assert bool([body for body in bodies(ollama, "/api/pull") if body["model"] == name]) == native
    assert (digest_of(small) in ollama.blobs) != native


async def test_native_forces_ollama_to_answer_for_everything(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    hub.add(REPOSITORY, split(WHOLE, 2, prefix="m-Q4_K_M"), private=True)
    hub.token = "hf_secret"
    models = {f"hf.co/{REPOSITORY}": {"system": "Be terse."}}
    lines = await pull(hub, ollama, session, pull={"gguf": "native"}, models=models, **PRIVATE)
    assert lines == [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
    assert bodies(ollama, "/api/pull") == [{"model": NAME}]


async def test_the_native_pull_of_a_client_without_a_stream(
    hub: StandInHub, client: Client, ollama: StandInOllama, public_hub: None
) -> None:
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE})
    ollama.native[NAME] = 1000
    assert await client.pull_at_once(NAME) == (200, {"status": "success"})
    assert bodies(ollama, "/api/pull") == [{"model": NAME, "stream": False}]


# ---- which files


@pytest.fixture
def mixed(hub: StandInHub) -> dict[str, bytes]:
    files = tiny_llama() | {
        "tiny-Q8_0.gguf": tiny_gguf("Q8_0"),
        "sub/Tiny-IQ4_XS.gguf": tiny_gguf(seed=3),
        "imatrix.gguf": b"imatrix",
    }
    hub.add("acme/mixed", files)
    return files


@pytest.mark.parametrize(
    ("tag", "path"),
    [("q8_0", "tiny-Q8_0.gguf"), ("iq4_xs", "sub/Tiny-IQ4_XS.gguf"), ("TINY-q8_0.gguf", "tiny-Q8_0.gguf")],
)
async def test_beside_safetensors_a_gguf_wins_for_its_own_tag(
    client: Client, ollama: StandInOllama, mixed: dict[str, bytes], tag: str, path: str
) -> None:
    assert (await client.pull(f"hf.co/acme/mixed:{tag}"))[-1] == {"status": "success"}
    assert gguf_layers(ollama, f"hf.co/acme/mixed:{tag}") == [("model", digest_of(mixed[path]))]
    assert not created(ollama)


@pytest.mark.parametrize(("tag", "quantization"), [("latest", "Q4_K_M"), ("q4_k_s", "Q4_K_S"), ("bf16", "BF16")])
async def test_for_every_other_tag_the_safetensors_win(
    client: Client, ollama: StandInOllama, mixed: dict[str, bytes], tag: str, quantization: str
) -> None:
    assert (await client.pull(f"hf.co/acme/mixed:{tag}"))[-1] == {"status": "success"}
    gguf = converted(mixed, "mixed", quantization=quantization)
    assert gguf_layers(ollama, f"hf.co/acme/mixed:{tag}") == [("model", digest_of(gguf))]


async def test_a_folder_for_each_quantization(hub: StandInHub, client: Client, ollama: StandInOllama) -> None:
    other = tiny_gguf("Q8_0")
    hub.add(REPOSITORY, {"Q8_0/model.gguf": other, "Q4_K_M/model.gguf": WHOLE})
    assert (await client.pull(f"hf.co/{REPOSITORY}:q8_0"))[-1] == {"status": "success"}
    assert gguf_layers(ollama, f"hf.co/{REPOSITORY}:q8_0") == [("model", digest_of(other))]
    assert digest_of(WHOLE) not in ollama.blobs


async def test_a_projector_comes_along_but_no_other_companion(
    hub: StandInHub, client: Client, ollama: StandInOllama
) -> None:
    """Importance matrices and draft models stay in the repository."""
    projector = tiny_projector()
    companions = ("imatrix.gguf", "m-imatrix.gguf", "mtp-m-Q4_K_M.gguf", "eagle3-m-Q4_K_M.gguf", "m-draft-Q4_K_M.gguf")
    hub.add(
        REPOSITORY,
        {
            "m-Q4_K_M.gguf": WHOLE,
            "m-Q8_0.gguf": tiny_gguf("Q8_0"),
            "mmproj-F16.gguf": projector,
            "mmproj-BF16.gguf": tiny_projector(seed=1),
            **dict.fromkeys(companions, b"not for Ollama"),
        },
    )
    lines = await client.pull(f"hf.co/{REPOSITORY}")
    assert lines[-1] == {"status": "success"}
    name = f"hf.co/{REPOSITORY}"
    assert gguf_layers(ollama, name) == [("model", digest_of(WHOLE)), ("projector", digest_of(projector))]
    assert set(last_bars(lines)) == {digest_of(WHOLE), digest_of(projector)}
    details = ollama.models[name].layers[-1]
    assert orjson.loads(ollama.beginning(details.digest))["model_families"] == ["llama", "clip"]
    for path in (*companions, "m-Q8_0.gguf", "mmproj-BF16.gguf"):
        assert not weight_bytes(hub, f"/{path}?")


async def test_an_unknown_tag_is_refused_with_the_known_ones(
    hub: StandInHub, client: Client, ollama: StandInOllama
) -> None:
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE, "m-IQ2_M.gguf": WHOLE})
    [line] = (await client.pull(f"hf.co/{REPOSITORY}:q5_k_m"))[-1:]
    assert line["error"].endswith("has no GGUF for the tag 'q5_k_m'; pull with one of these: IQ2_M, Q4_K_M")
    assert not weight_bytes(hub)
