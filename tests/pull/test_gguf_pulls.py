"""GGUF repositories on the wire: who pulls them, what becomes a blob, and what is refused by the header alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.gguf.header import Field, ValueType, read_header
from proxy.gguf.requantize import Changed, requantize
from proxy.inspection import inspect
from proxy.ollama.client import PROBE_DIGEST
from proxy.pull import reading
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.repository import tiny_llama
from tests.gguf.splitting import split
from tests.kit.conversions import converted
from tests.kit.ollama_log import Lines, bodies, created, last_bars
from tests.kit.support import NO_TEMPLATE, PLAIN, Client, digest_of, settings
from tests.kit.tiny_gguf import finite, tiny_gguf, tiny_projector

WHOLE = tiny_gguf()
FLOATS = finite(tiny_gguf("F16"))
REPOSITORY = "acme/tiny-gguf"
NAME = f"hf.co/{REPOSITORY}:q4_K_M"
HEADER_BYTES = 4096


@pytest.fixture(autouse=True)
def short_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of a tiny file first is not most of it."""
    monkeypatch.setattr(reading, "GGUF_BYTES", HEADER_BYTES)


def weights(ollama: StandInOllama, name: str) -> list[tuple[str, str]]:
    """ValueType and digest of the layers that are GGUFs."""
    kinds = ("model", "projector", "adapter")
    return [(layer.kind, layer.digest) for layer in ollama.models[name].layers if layer.kind in kinds]


def files_of(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: digest_of(content) for path, content in files.items()}


def weight_bytes(hub: StandInHub, path: str = ".gguf") -> int:
    return sum(request.body_bytes for request in hub.requests if request.origin == "cdn" and path in request.path)


async def pull(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, name: str = NAME, /, **sections: Any
) -> Lines:
    """As `Client.pull`, through a proxy with settings of its own."""
    async with App(settings(hub.endpoint, ollama.url, **sections)) as app:
        return await Client(app.address.url, session).pull(name, insecure=True)


# ---- who pulls


async def test_ollama_pulls_what_it_can_without_insecure(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, public_hub: None
) -> None:
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": tiny_projector()})
    ollama.native[NAME] = 1000
    lines = await pull(hub, ollama, session)
    assert lines[-1] == {"status": "success"}
    assert bodies(ollama, "/api/pull") == [{"model": NAME}]
    assert not created(ollama)
    assert not weight_bytes(hub)


PRIVATE: dict[str, Any] = {"hub": {"token": "hf_secret"}}


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
async def test_what_ollama_cannot_pull_alone_the_proxy_pulls(
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
    assert weights(ollama, NAME) == [("model", digest_of(WHOLE))]
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
    assert weights(ollama, NAME) == [("model", digest_of(WHOLE)), ("projector", digest_of(projector))]


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
    assert weights(ollama, f"hf.co/acme/mixed:{tag}") == [("model", digest_of(mixed[path]))]
    assert not created(ollama)


@pytest.mark.parametrize(("tag", "quantization"), [("latest", "Q4_K_M"), ("q4_k_s", "Q4_K_S"), ("bf16", "BF16")])
async def test_for_every_other_tag_the_safetensors_win(
    client: Client, ollama: StandInOllama, mixed: dict[str, bytes], tag: str, quantization: str
) -> None:
    assert (await client.pull(f"hf.co/acme/mixed:{tag}"))[-1] == {"status": "success"}
    made = converted(mixed, "mixed", quantization=quantization)
    assert weights(ollama, f"hf.co/acme/mixed:{tag}") == [("model", digest_of(made))]


async def test_a_folder_for_each_quantization(hub: StandInHub, client: Client, ollama: StandInOllama) -> None:
    other = tiny_gguf("Q8_0")
    hub.add(REPOSITORY, {"Q8_0/model.gguf": other, "Q4_K_M/model.gguf": WHOLE})
    assert (await client.pull(f"hf.co/{REPOSITORY}:q8_0"))[-1] == {"status": "success"}
    assert weights(ollama, f"hf.co/{REPOSITORY}:q8_0") == [("model", digest_of(other))]
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
    assert weights(ollama, name) == [("model", digest_of(WHOLE)), ("projector", digest_of(projector))]
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


# ---- splits


@pytest.fixture
def shards(hub: StandInHub) -> dict[str, bytes]:
    parts = split(FLOATS, 3, prefix="F16/Tiny-F16")
    hub.add(REPOSITORY, parts)
    return parts


F16_NAME = f"hf.co/{REPOSITORY}:f16"


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.40.0"])
async def test_shards_become_one_blob_that_is_the_unsplit_file(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes], version: str
) -> None:
    ollama.version = version
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert weights(ollama, F16_NAME) == [("model", digest_of(FLOATS))]
    assert ollama.blobs[digest_of(FLOATS)] == len(FLOATS)
    assert ollama.models[F16_NAME].quantization_level == "F16"
    bars = last_bars(lines)
    assert list(bars) == [digest_of(part) for part in shards.values()]
    assert bars == {digest_of(part): (len(part), len(part)) for part in shards.values()}


async def test_each_shards_bar_moves_with_its_own_bytes(
    client: Client, hub: StandInHub, ollama: StandInOllama, shards: dict[str, bytes], small_spans: int
) -> None:
    hub.line = 1_500_000
    lines = await client.pull(F16_NAME)
    order = [digest_of(part) for part in shards.values()]
    now = dict.fromkeys(order, (1, 0))
    seen = set()
    for line in lines:
        if line.get("digest") in now:
            now[line["digest"]] = line["total"], line.get("completed", 0)
            seen.add((line["digest"], line.get("completed", 0)))
            # Bytes reach Ollama in the file's order, so no bar moves before the one above it is full.
            full = [total == completed for total, completed in now.values()]
            begun = [completed > 0 for _, completed in now.values()]
            assert all(full[place] or not any(begun[place + 1 :]) for place in range(len(order)))
    assert len(seen) > 2 * len(order)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop", "after": 100_000, "times": 2},
        {"kind": "short", "after": 100_000, "times": 2},
        {"kind": "status", "status": 503, "times": 2},
        {"kind": "cut"},
        {"kind": "corrupt", "after": 150_000},
    ],
    ids=lambda fault: fault["kind"],
)
async def test_a_fault_in_a_shard_costs_only_missing_bytes(
    hub: StandInHub,
    ollama: StandInOllama,
    client: Client,
    shards: dict[str, bytes],
    small_spans: int,
    fault: dict[str, Any],
) -> None:
    hub.faults.append(Fault(list(shards)[1], **fault))
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert all(total == completed for total, completed in last_bars(lines).values())
    assert digest_of(FLOATS) in ollama.blobs
    assert weight_bytes(hub) < (2.5 if fault["kind"] == "corrupt" else 1.5) * len(FLOATS)


async def test_a_shard_that_stays_damaged_becomes_no_blob_and_is_named(
    hub: StandInHub, ollama: StandInOllama, client: Client, shards: dict[str, bytes]
) -> None:
    path = list(shards)[2]
    hub.faults.append(Fault(path, "corrupt", after=200_000, times=-1))
    lines = await client.pull(F16_NAME)
    assert lines[-1]["error"].startswith(f"{REPOSITORY}/{path} arrived damaged: its digest is ")
    assert all(size < 1000 for size in ollama.blobs.values())


async def test_a_source_without_ranges_gives_whole_shards(
    hub: StandInHub, ollama: StandInOllama, client: Client, shards: dict[str, bytes]
) -> None:
    hub.faults.append(Fault("*", "whole", times=-1))
    assert (await client.pull(F16_NAME))[-1] == {"status": "success"}
    assert digest_of(FLOATS) in ollama.blobs


async def test_an_upload_that_breaks_takes_its_bars_back(
    client: Client, hub: StandInHub, ollama: StandInOllama, shards: dict[str, bytes], small_spans: int
) -> None:
    hub.line = 3_000_000
    ollama.fail_upload_after = 500_000
    pulled = await client.pull(F16_NAME)
    assert "broke off the upload" in pulled[-1]["error"]
    completed = [
        line.get("completed", 0) for line in pulled if line.get("digest") == digest_of(next(iter(shards.values())))
    ]
    assert completed != sorted(completed)
    ollama.fail_upload_after = None
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert all(total == done for total, done in last_bars(lines).values())


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
async def test_a_split_of_f16_is_quantized(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes], version: str
) -> None:
    ollama.version = version
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert not created(ollama)
    assert ollama.models[NAME].quantization_level == "Q4_K_M"


async def test_a_merged_split_is_stored_only_once(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes]
) -> None:
    """A second pull may move it again."""
    await client.pull(F16_NAME)
    before = dict(ollama.blobs)
    assert (await client.pull(F16_NAME))[-1] == {"status": "success"}
    assert ollama.blobs == before


async def test_without_mismatched_digests_shards_use_a_spool(
    client: Client, ollama: StandInOllama, shards: dict[str, bytes]
) -> None:
    """Without mismatched digests, Ollama keeps no blob that was uploaded under another digest."""
    ollama.keeps_mismatched = False
    lines = await client.pull(F16_NAME)
    assert lines[-1] == {"status": "success"}
    assert digest_of(FLOATS) in ollama.blobs
    assert all(total == done for total, done in last_bars(lines).values())


# ---- quantized


@pytest.mark.parametrize("label", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
async def test_unquantized_weights_are_quantized_to_the_tag(
    hub: StandInHub, client: Client, ollama: StandInOllama, label: str, version: str
) -> None:
    ollama.version = version
    content = finite(tiny_gguf(label))
    hub.add(REPOSITORY, {f"m-{label}.gguf": content, "m-Q2_K.gguf": WHOLE})
    lines = await client.pull(NAME)
    assert lines[-1] == {"status": "success"}
    assert not created(ollama)
    [(kind, digest)] = weights(ollama, NAME)
    assert kind == "model"
    assert ollama.blobs[digest] < len(content) / 2
    assert ollama.models[NAME].quantization_level == "Q4_K_M"
    assert last_bars(lines) == {digest_of(content): (len(content), len(content))}


def requantized(content: bytes, quantization: str) -> bytes:
    """What is made of an unsplit file, each tensor in one piece."""
    made = requantize([read_header(content, size=len(content))], quantization)
    whole = bytearray(made.header)
    for part in made.parts:
        for piece in part:
            if isinstance(piece, Changed):
                taken = content[piece.start : piece.stop]
                whole += piece.transform.change(taken) if piece.transform else taken
            else:
                whole += bytes(piece.size)
    return bytes(whole)


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.34.1", "0.40.0"])
@pytest.mark.parametrize("private", [False, True])
async def test_shards_are_quantized_on_their_way(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, private: bool, version: str
) -> None:
    ollama.version = version
    content = finite(tiny_gguf("BF16"))
    parts = split(content, 2, prefix="BF16/Tiny-BF16")
    hub.add(REPOSITORY, parts, private=private)
    hub.token = "hf_secret"
    name = f"hf.co/{REPOSITORY}:Q5_K_M"
    lines = await pull(hub, ollama, session, name, **(PRIVATE if private else {}))
    assert lines[-1] == {"status": "success"}
    assert not created(ollama)
    expected = requantized(content, "Q5_K_M")
    assert weights(ollama, name) == [("model", digest_of(expected))]
    assert ollama.blobs[digest_of(expected)] == len(expected)
    model = ollama.models[name]
    assert (model.family, model.parameter_size, model.quantization_level) == ("llama", "394K", "Q5_K_M")
    assert last_bars(lines) == {digest_of(part): (len(part), len(part)) for part in parts.values()}
    # Beside it Ollama gets nothing of these files: neither the shards nor an unquantized one.
    assert ollama.blobs.keys() - {PROBE_DIGEST} == {layer.digest for layer in model.layers}


# ---- refused by the header


async def refused(client: Client, hub: StandInHub, ollama: StandInOllama, name: str = NAME) -> str:
    """The reason; nothing of the weights beyond their headers came, and nothing was left."""
    lines = await client.pull(name)
    assert lines[:-1] == [{"status": "pulling manifest"}]
    assert 0 < weight_bytes(hub) <= 3 * HEADER_BYTES
    assert not ollama.blobs
    assert not created(ollama)
    return str(lines[-1]["error"])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 221000\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "m-Q4_K_M.gguf is not a GGUF that can be used: a GGUF begins with b'GGUF', this file with b'vers'"),
        (b"PK\3\4" + WHOLE[4:], "begins with b'GGUF', this file with"),
        (WHOLE[:100_000], "is not a GGUF that can be used: the tensors end at byte"),
        (WHOLE[:500], "the file ends after 500 bytes, inside its header"),
        (WHOLE[:4] + b"\1\0\0\0" + WHOLE[8:], "GGUF version 1 cannot be read"),
        (WHOLE[:8] + b"\xff" * 8 + WHOLE[16:], "tensors, more than it can hold"),
        (tiny_projector() + bytes(10_000), "m-Q4_K_M.gguf is not a model of its own (mmproj)"),
        (tiny_gguf(general__type=Field.string("adapter")), "is not a model of its own (adapter)"),
        (tiny_gguf(general__architecture=Field.uint32(7)), "general.architecture is of the kind uint32"),
        (tiny_gguf(split__count=Field.uint16(4)), "is the first of 4 shards"),
    ],
    ids=["pointer", "zip", "cut", "cut header", "version", "claim", "clip", "adapter", "kind", "first shard"],
)
async def test_what_cannot_be_a_model_is_refused_by_its_header(
    hub: StandInHub, client: Client, ollama: StandInOllama, content: bytes, message: str
) -> None:
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": content})
    error = await refused(client, hub, ollama)
    assert error.startswith(f"{REPOSITORY}/m-Q4_K_M.gguf ")
    assert message in error


async def test_a_shard_of_another_split_is_refused_by_its_header(
    hub: StandInHub, client: Client, ollama: StandInOllama
) -> None:
    parts = list(split(WHOLE, 3, prefix="m-Q4_K_M"))
    other = list(split(WHOLE, 3).values())
    hub.add(REPOSITORY, {parts[0]: other[0], parts[1]: other[2], parts[2]: other[1]})
    error = await refused(client, hub, ollama)
    assert f"{REPOSITORY}/{parts[0]} cannot be used: part 2 of 3 has the split.no 2 instead of 1" in error


async def test_quantized_weights_named_f16_are_refused(hub: StandInHub, client: Client, ollama: StandInOllama) -> None:
    """Their header tells the truth."""
    hub.add(REPOSITORY, {"m-F16.gguf": tiny_gguf("Q8_0")})
    assert "is named F16, but token_embd.weight is Q8_0" in await refused(client, hub, ollama)


async def test_a_long_header_is_read_in_several_requests(
    hub: StandInHub, client: Client, ollama: StandInOllama
) -> None:
    tokens = Field.array(ValueType.STRING, [f"token number {number}" for number in range(20_000)])
    content = tiny_gguf(tokenizer__ggml__tokens=tokens)
    assert read_header(content, size=len(content)).data_start > 100 * HEADER_BYTES
    hub.add(REPOSITORY, {"m-Q4_K_M.gguf": content})
    assert (await client.pull(NAME))[-1] == {"status": "success"}
    assert digest_of(content) in ollama.blobs


# ---- what `inspect` shows


async def test_inspect_shows_the_merged_file(hub: StandInHub, ollama: StandInOllama, shards: dict[str, bytes]) -> None:
    found = (await inspect(settings(hub.endpoint, ollama.url), F16_NAME)).to_json()
    assert found["files"] == [{"path": "Tiny-F16.gguf", "size": len(FLOATS), "digest": None, "held": False}]
    assert (found["format"], found["quantization"], found["converter"]) == ("gguf", None, None)
    assert found["bytes_to_move"] == sum(map(len, shards.values()))
    assert found["result_size"] == len(FLOATS)
    assert "its 3 shards are merged" in found["reason"]


# ---- from a folder


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
async def test_a_split_in_a_folder_of_this_machine(
    tmp_path: Path, ollama: StandInOllama, session: aiohttp.ClientSession, version: str
) -> None:
    """Nobody knows the digests beforehand."""
    ollama.version = version
    parts = split(FLOATS, 3, prefix="Tiny-F16")
    folder = tmp_path / "acme" / "tiny"
    folder.mkdir(parents=True)
    for name, part in parts.items():
        (folder / name).with_suffix(".GGUF").write_bytes(part)
    sources = {"home": {"type": "folder", "path": str(tmp_path)}}
    async with App(settings("http://127.0.0.1:9", ollama.url, sources=sources)) as app:
        lines = await Client(app.address.url, session).pull("home/acme/tiny:f16")
    assert lines[-1] == {"status": "success"}
    assert weights(ollama, "home/acme/tiny:f16") == [("model", digest_of(FLOATS))]
    bars = last_bars(lines)
    assert len(bars) == 3
    assert all(total == completed for total, completed in bars.values())
