"""Properties of every input: it is accepted or refused, and progress stays consistent."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.planning.gguf_files import choose_gguf, gguf_models
from proxy.planning.weights import choose_files
from proxy.pull.handler import read_request
from proxy.pull.reference import parse
from proxy.sources.base import RepositoryFile
from proxy.transfer.progress import MAX_BARS, Progress
from tests.planning.listings import BASE, LFS, Listing, listing

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
)
PULL_BODY = st.fixed_dictionaries(
    {},
    optional={
        key: ANY_JSON | st.sampled_from(["hf.co/a/b", "hf.co/a/b:q8_0", "", "x"])
        for key in ("model", "name", "Name", "stream", "insecure", "username")
    },
)
WEIGHT_MAP = st.dictionaries(st.text(max_size=3), st.sampled_from(["model-1.safetensors", "x.safetensors"]) | ANY_JSON)
PATH = st.text(alphabet="model.-0123safetensorsgguf/\\\0 .", max_size=40)


def encoded(values: "st.SearchStrategy[Any]") -> "st.SearchStrategy[bytes]":
    return values.map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=200) | encoded(PULL_BODY) | encoded(ANY_JSON))
def test_any_body_is_a_pull_of_a_full_name_or_goes_to_ollama(body: bytes) -> None:
    request = read_request(body)
    if request is not None:
        assert isinstance(request.stream, bool)
        assert parse(request.reference.name) == request.reference
        assert b"insecure" not in request.without_insecure().lower()


@given(st.text(max_size=120))
def test_any_name_is_safe_in_urls_and_paths_once_it_is_parsed(text: str) -> None:
    reference = parse(text)
    if reference is not None:
        assert parse(reference.name) == reference
        assert ".." not in reference.repository.split("/")
        assert reference.name.isascii()
        assert reference.name.isprintable()


@given(st.binary(max_size=100) | encoded(st.fixed_dictionaries({"weight_map": ANY_JSON | WEIGHT_MAP})))
def test_any_index_selects_repository_files_or_is_refused(index: bytes) -> None:
    repository = listing("model-1.safetensors", "model.safetensors", *BASE)
    with suppress(Refusal):
        assert set(choose_files(repository, index).weights) <= set(repository.files)


@given(st.lists(PATH, max_size=8))
def test_any_listing_selects_safe_paths_or_is_refused(paths: list[str]) -> None:
    files = tuple(RepositoryFile(path, 1, sha256=LFS) for path in (*paths, *BASE))
    with suppress(Refusal):
        for model in gguf_models("a/b", files):
            assert set(model.files) <= set(files)
            assert choose_gguf("a/b", files, model.tag, Quantization.Q4_K_M).model.tag == model.tag
    try:
        selection = choose_files(Listing(files), None)
    except Refusal:
        return
    for file in (*selection.weights, *selection.companions):
        assert not file.path.startswith("/")
        assert ".." not in file.path.split("/")
        assert "\\" not in file.path
        assert "\0" not in file.path


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.booleans()), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 400)), max_size=60),
)
def test_bars_never_go_back_or_over_a_constant_total(
    blobs: list[tuple[int, bool]], moves: list[tuple[int, int]]
) -> None:
    progress = Progress()
    seen: dict[str, tuple[int, int]] = {}
    subscription = progress.subscribe()

    def check() -> None:
        pending: dict[Any, Any] = subscription._pending
        for line in pending.values():
            total, completed = seen.get(line.digest, (line.total, 0))
            assert line.total == total
            assert completed <= line.completed <= total
            seen[line.digest] = (line.total, line.completed)

    progress.announce([(f"sha256:{number:064x}", size, size * held) for number, (size, held) in enumerate(blobs)])
    check()
    for number, size in moves:
        progress.moved(f"sha256:{number:064x}", size)
        check()
    assert len(seen) == min(len(blobs), MAX_BARS)
    assert sum(total for total, _ in seen.values()) == sum(size for size, _ in blobs)
