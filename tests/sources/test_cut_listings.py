"""A description that lists only some of a repository's files, or none: the tree has the others."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.errors import Interrupted
from proxy.sources import hub_files
from proxy.sources.hub_files import may_be_cut
from proxy.sources.huggingface import HuggingFace
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.support import Client, digest_of, settings
from tests.kit.tiny_gguf import tiny_gguf

SHARDED = tiny_llama(shards=2)
SUCCESS = {"status": "success"}
WHOLE = {"config.json", "model.safetensors", "tokenizer_config.json"}
LISTINGS = ["full", "sizes", "names"]


@pytest.fixture
async def source(hub: StandInHub) -> AsyncIterator[HuggingFace]:
    source = HuggingFace(hub.endpoint, "", ("hf.co",))
    yield source
    await source.close()


async def listed(source: HuggingFace) -> list[str]:
    return sorted(file.path for file in (await source.open("acme/tiny", None)).files)


def trees(hub: StandInHub) -> int:
    return len([request for request in hub.requests if "/tree/" in request.path])


@pytest.mark.parametrize("listing", LISTINGS)
@pytest.mark.parametrize("number", range(len(SHARDED)))
async def test_every_cut_of_a_sharded_model_is_noticed(
    hub: StandInHub, source: HuggingFace, number: int, listing: Any
) -> None:
    hub.add("acme/tiny", SHARDED)
    hub.listed, hub.listing = number, listing
    assert await listed(source) == sorted(SHARDED)
    assert trees(hub) == 1


@pytest.mark.parametrize("listing", LISTINGS)
@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_a_cut_list_of_ggufs_is_completed(
    hub: StandInHub, source: HuggingFace, number: int, listing: Any
) -> None:
    files = {".gitattributes": b"", "README.md": b"", **{f"m-0000{part}-of-00002.gguf": b"g" for part in (1, 2)}}
    hub.add("acme/tiny", files)
    hub.listed, hub.listing = number, listing
    assert await listed(source) == sorted(files)


async def test_files_from_the_tree_have_sizes_and_digests(hub: StandInHub, source: HuggingFace) -> None:
    hub.add("acme/tiny", SHARDED)
    whole = (await source.open("acme/tiny", None)).files
    hub.listed = 0
    assert sorted((await source.open("acme/tiny", None)).files, key=lambda file: file.path) == sorted(
        whole, key=lambda file: file.path
    )


@pytest.mark.parametrize(
    ("paths", "is_cut"),
    [
        (WHOLE, False),
        ({"a.gguf"}, False),
        ({"a.gguf", *WHOLE}, False),
        ({"adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"}, False),
        (set(), True),
        ({"config.json", "tokenizer_config.json"}, True),
        ({"config.json", "tokenizer_config.json", "pytorch_model.bin"}, True),
        (WHOLE - {"config.json"}, True),
        (WHOLE - {"tokenizer_config.json"}, True),
        ({"a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "Q8/b-00002-of-00002.GGUF"}, True),
        ({"model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors", *WHOLE}, True),
        (WHOLE | {f"{number}.txt" for number in range(996)}, False),
        (WHOLE | {f"{number}.txt" for number in range(997)}, True),
        (WHOLE | {f"{number}.txt" for number in range(998)}, True),
    ],
)
def test_what_may_be_cut(paths: set[str], is_cut: bool) -> None:
    """1000 files are a page of a tree, and huggingface_hub does not rely on longer lists either."""
    assert hub_files.LARGE_LISTING == 1000
    assert may_be_cut(paths) is is_cut


async def test_a_list_of_exactly_a_page_is_completed(
    hub: StandInHub, source: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files, "LARGE_LISTING", 5)
    files = {**dict.fromkeys(WHOLE, b"x"), "onnx/a.onnx": b"x", "onnx/b.onnx": b"x", "vocab.txt": b"x"}
    hub.add("acme/tiny", files)
    hub.listed, hub.tree_page = 5, 5
    assert await listed(source) == sorted(files)
    assert trees(hub) == 2


async def test_a_whole_listing_needs_no_tree(hub: StandInHub, source: HuggingFace) -> None:
    hub.add("acme/tiny", SHARDED)
    assert await listed(source) == sorted(SHARDED)
    assert not trees(hub)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501])
async def test_without_a_tree_the_description_stands(hub: StandInHub, source: HuggingFace, status: int) -> None:
    """As at some mirrors."""
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    hub.add("acme/tiny", files)
    hub.faults.append(Fault("api:tree", "status", status=status, times=-1))
    assert await listed(source) == sorted(files)
    assert trees(hub) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_cut_listing_waits_for_its_tree(hub: StandInHub, source: HuggingFace, status: int) -> None:
    """A tree that fails for a moment is not a tree that does not exist."""
    hub.add("acme/tiny", SHARDED)
    hub.listed = 0
    hub.faults.append(Fault("api:tree", "status", status=status))
    with pytest.raises(Interrupted, match=f"the list of the files of acme/tiny: 127.0.0.1 answered {status}"):
        await source.open("acme/tiny", None)
    assert await listed(source) == sorted(SHARDED)


async def test_a_later_page_is_waited_for_too(hub: StandInHub, source: HuggingFace) -> None:
    async with StandInHub() as elsewhere:
        for each in (hub, elsewhere):
            each.add("acme/tiny", SHARDED)
        hub.listed, hub.tree_page, hub.next_pages = 0, 3, elsewhere.endpoint
        elsewhere.faults.append(Fault("api:tree", "status", status=429, headers={"Retry-After": "9"}))
        with pytest.raises(Interrupted) as failure:
            await source.open("acme/tiny", None)
        assert failure.value.wait == 9
        assert await listed(source) == sorted(SHARDED)


async def test_a_page_elsewhere_that_cannot_be_reached_ends_the_list(hub: StandInHub, source: HuggingFace) -> None:
    """Olah's links lead to the Hub, and its users may not reach that."""
    hub.add("acme/tiny", SHARDED)
    hub.listed, hub.tree_page, hub.next_pages = 0, 3, "http://127.0.0.1:1"
    assert await listed(source) == sorted(SHARDED)[:3]


@pytest.mark.parametrize("kind", ["status", "drop"])
async def test_a_tree_that_only_has_sizes_is_replaced_by_head_requests(
    hub: StandInHub, source: HuggingFace, kind: Any
) -> None:
    hub.add("acme/tiny", SHARDED)
    hub.listing = "names"
    hub.faults.append(Fault("api:tree", kind, status=502, times=-1))
    assert await listed(source) == sorted(SHARDED)
    assert [request for request in hub.requests if request.method == "HEAD"]


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize(
    ("files", "tag"), [(SHARDED, "q4_K_M"), ({"README.md": b"", "tiny-F16.gguf": tiny_gguf("F16")}, "F16")]
)
async def test_a_repository_with_a_cut_listing_is_pulled(
    hub: StandInHub,
    ollama: StandInOllama,
    session: aiohttp.ClientSession,
    files: Mapping[str, bytes],
    tag: str,
    number: int,
) -> None:
    hub.add("acme/tiny", files)
    hub.listed = number
    async with App(settings(hub.endpoint, ollama.url)) as app:
        assert (await Client(app.address.url, session).pull(f"hf.co/acme/tiny:{tag}"))[-1] == SUCCESS
    made = files["tiny-F16.gguf"] if tag == "F16" else converted(files, quantization="Q4_K_M")
    assert digest_of(made) in ollama.blobs


@pytest.mark.parametrize("token", ["", "hf_stranger"])
async def test_a_gated_repository_with_an_empty_listing_is_refused(hub: StandInHub, client: Client, token: str) -> None:
    hub.token, hub.listed = "hf_friend", 0
    hub.add("acme/tiny", SHARDED, gated=True)
    assert "is gated; ask for access" in (await client.pull("hf.co/acme/tiny"))[-1]["error"]
    assert not [request for request in hub.requests if "/resolve/" in request.path]
