"""Conversions planned in a separate process: the same result, and an explanation if the process ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

import orjson
import pytest
from msgspec import structs

from proxy.config.sections import NO_SETTINGS
from proxy.errors import Refusal
from proxy.gguf.transforms import Transform, to_f32
from proxy.planning import conversion_process
from proxy.planning.conversion_plan import convert_material, parts_to_read, read_tokens
from proxy.planning.conversion_process import THREAD_BYTES, Converter, converter
from proxy.planning.embedding import MODULES, module_files
from proxy.planning.material import Material
from proxy.planning.modelfile import Modelfile
from proxy.planning.recipe import Literal, Range, Recipe
from proxy.planning.weights import INDEX, NotConvertible, choose_files
from proxy.sources.base import RepositoryFile
from proxy.workers.processes import start_worker
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.conversions import headers, native_tag
from tests.planning.listings import LFS, Listing

LARGE = [THREAD_BYTES + 1]


def material(files: Mapping[str, bytes]) -> Material:
    listed = Listing(tuple(RepositoryFile(path, len(content), LFS) for path, content in files.items()), "acme/tiny")
    modelfile = Modelfile(NO_SETTINGS, "none", None)
    unread = Material(
        listed.id,
        orjson.loads(files["config.json"]),
        choose_files(listed, files.get(INDEX), module_files(files.get(MODULES))),
        headers(files),
        files,
        modelfile,
    )
    parts = parts_to_read(unread) if unread.may_need_parts else []
    return replace(unread, read={(one.path, one.start): files[one.path][one.start : one.stop] for one in parts})


def described(recipe: Recipe) -> Iterator[object]:
    """A recipe without the functions of its transforms."""
    for part in recipe.parts:
        match part:
            case Literal(content):
                yield content
            case Range(transform=Transform(block, size_after)):
                yield structs.replace(part, transform=None), block, size_after
            case Range():
                yield part


async def test_a_process_plans_what_a_thread_plans() -> None:
    async with converter(LARGE) as one:
        for tiny in REPOSITORIES.values():
            files = tiny.files()
            whole = material(files)
            tag = native_tag(files)
            conversion, recipe = await one.convert(whole, tag)
            expected, as_expected = convert_material(whole, tag)
            assert conversion == expected
            assert list(described(recipe)) == list(described(as_expected))
            tokens = await one.read_tokens("acme/tiny", whole.config, files)
            assert tokens == read_tokens("acme/tiny", whole.config, files)


def test_parts_of_a_file_stay_together_when_they_are_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the file would seem to be read in pieces, which no digest can check."""
    monkeypatch.setattr(conversion_process, "_PARTS_PER_PICKLE", 2)
    file = RepositoryFile("model.safetensors", 30, LFS)
    parts = (Range(file, 0, 8), Literal(b"x"), Range(file, 8, 20, to_f32("F16")), Range(file, 20, 30, to_f32("F16")))
    recipe = Recipe(conversion_process._join(conversion_process._split(parts)))
    assert recipe == Recipe(parts)
    assert recipe.takes_whole_files
    assert not recipe.unchecked


async def test_a_refusal_is_the_same_and_the_process_goes_on() -> None:
    files = REPOSITORIES["llama"].files()
    broken = {**files, "tokenizer.json": b'{"model": {"type": "Unknown"}}'}
    with pytest.raises(NotConvertible) as expected:
        convert_material(material(broken), "F16")
    async with converter(LARGE) as one:
        with pytest.raises(NotConvertible) as refused:
            await one.convert(material(broken), "F16")
        assert str(refused.value) == str(expected.value)
        assert (await one.convert(material(files), "F16"))[1].parts


@pytest.mark.parametrize(
    ("error", "raised", "text"), [(KeyError, KeyError, "x"), (MemoryError, Refusal, "too much memory")]
)
async def test_what_goes_wrong_there_is_raised_here(error: type[Exception], raised: type[Exception], text: str) -> None:
    async with start_worker("proxy.planning.plan_worker") as worker:
        with pytest.raises(raised, match=text):
            await Converter(worker)._call(_Raises(error))


class _Raises:
    """A function that can be sent to the other process."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __call__(self) -> None:
        raise self._error("x")


async def test_what_is_small_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.workers.processes.sys.executable", "/nowhere/python")
    files = REPOSITORIES["llama"].files()
    async with converter([THREAD_BYTES]) as one:
        assert (await one.convert(material(files), "F16"))[1].parts
    with pytest.raises(Refusal, match="the process that plans conversions does not start"):
        async with converter(LARGE):
            pass


async def test_an_ended_process_is_explained() -> None:
    async with start_worker("proxy.planning.plan_worker") as worker:
        worker._process.kill()
        await worker._process.wait()
        with pytest.raises(Refusal, match="has ended: the repository's small files need too much time or memory"):
            await Converter(worker).convert(material(REPOSITORIES["llama"].files()), "F16")


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="this platform has no such clock")
def test_the_process_ends_itself_after_its_time_of_the_processor() -> None:
    program = "import proxy.planning.plan_worker as w; w._SECONDS = 0.01; w.main()"
    # Of a sum that takes hours.
    call = b"c__builtin__\nsum\n(c__builtin__\nrange\n(I100000000000\ntRt\x86."
    ended = subprocess.run([sys.executable, "-c", program], input=call, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGPROF
