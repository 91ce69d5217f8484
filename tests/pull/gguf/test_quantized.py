"""A GGUF that is quantized on its way, and headers that are refused."""

from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.gguf.header import Field, ValueType, read_header
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.inspection import inspect
from proxy.ollama.blobs import PROBE_DIGEST
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.splitting import split
from tests.kit.gguf_pulls import (
    F16_NAME,
    FLOATS,
    HEADER_BYTES,
    NAME,
    PRIVATE,
    REPOSITORY,
    WHOLE,
    gguf_layers,
    pull,
    weight_bytes,
)
from tests.kit.ollama_log import created, last_bars
from tests.kit.support import Client, digest_of, settings
from tests.kit.tiny_gguf import finite, tiny_gguf, tiny_projector


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
    [(kind, digest)] = gguf_layers(ollama, NAME)
    assert kind == "model"
    assert ollama.blobs[digest] < len(content) / 2
    assert ollama.models[NAME].quantization_level == "Q4_K_M"
    assert last_bars(lines) == {digest_of(content): (len(content), len(content))}


def requantized(content: bytes, quantization: str) -> bytes:
    """The quantized GGUF of an unsplit file."""
    recipe = requantize([read_header(content, size=len(content))], quantization)
    whole = bytearray(recipe.header)
    for part in recipe.parts:
        for piece in part:
            if isinstance(piece, TransformedRange):
                source = content[piece.start : piece.stop]
                whole += piece.transform.change(source) if piece.transform else source
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
    assert gguf_layers(ollama, name) == [("model", digest_of(expected))]
    assert ollama.blobs[digest_of(expected)] == len(expected)
    model = ollama.models[name]
    assert (model.family, model.parameter_size, model.quantization_level) == ("llama", "394K", "Q5_K_M")
    assert last_bars(lines) == {digest_of(part): (len(part), len(part)) for part in parts.values()}
    # Ollama gets nothing else of these files: neither the shards nor an unquantized one.
    assert ollama.blobs.keys() - {PROBE_DIGEST} == {layer.digest for layer in model.layers}


# ---- refused by the header


async def refused(client: Client, hub: StandInHub, ollama: StandInOllama, name: str = NAME) -> str:
    """The reason. Only the headers of the weights were fetched, and nothing is left in Ollama."""
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
        (
            POINTER,
            "is a Git LFS pointer, not the file itself: it was uploaded without Git LFS; ask the repository's owner",
        ),
        (
            b"\n<!DOCTYPE html><html>",
            "is an HTML page, not the file itself; ask the repository's owner to upload the file",
        ),
        (b"PK\3\4" + WHOLE[4:], "begins with b'GGUF', but this file begins with"),
        (
            WHOLE[:100_000],
            "of a file of 100000 bytes: it is incomplete; pull another file, or ask the repository's owner",
        ),
        (WHOLE[:500], "the file ends after 500 bytes, inside its header: it is incomplete"),
        (WHOLE[:4] + b"\1\0\0\0" + WHOLE[8:], "GGUF version 1 cannot be read"),
        (WHOLE[:8] + b"\xff" * 8 + WHOLE[16:], "tensors, more than it can hold"),
        (tiny_projector() + bytes(10_000), "m-Q4_K_M.gguf is not a complete model (mmproj)"),
        (tiny_gguf(general__type=Field.string("adapter")), "is not a complete model (adapter)"),
        (tiny_gguf(general__architecture=Field.uint32(7)), "general.architecture is of the kind uint32"),
        (tiny_gguf(split__count=Field.uint16(4)), "is the first of 4 shards"),
    ],
    ids=["pointer", "page", "zip", "cut", "cut header", "version", "claim", "clip", "adapter", "kind", "first shard"],
)
async def test_a_gguf_that_is_no_model_is_refused_by_its_header(
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
    """By their header."""
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
    inspection = (await inspect(settings(hub.endpoint, ollama.url), F16_NAME)).to_json()
    assert inspection["files"] == [{"path": "Tiny-F16.gguf", "size": len(FLOATS), "digest": None, "held": False}]
    assert (inspection["format"], inspection["quantization"], inspection["converter"]) == ("gguf", None, None)
    assert inspection["bytes_to_move"] == sum(map(len, shards.values()))
    assert inspection["result_size"] == len(FLOATS)
    assert "its 3 shards are merged" in inspection["reason"]


# ---- a folder as the source


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
async def test_a_split_in_a_folder_of_this_machine(
    tmp_path: Path, ollama: StandInOllama, session: aiohttp.ClientSession, version: str
) -> None:
    """Without known digests."""
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
    assert gguf_layers(ollama, "home/acme/tiny:f16") == [("model", digest_of(FLOATS))]
    bars = last_bars(lines)
    assert len(bars) == 3
    assert all(total == completed for total, completed in bars.values())
