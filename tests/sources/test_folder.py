"""A folder as a source: its models, what stays out of reach, and the errors when a file changes."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.errors import Refusal, SourceError
from proxy.sources import folder
from proxy.sources.folder import Folder, FolderRepository
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import converted
from tests.kit.support import PATIENCE, Client, digest_of, settings

WEIGHTS = bytes(range(256)) * 10_000  # 2.5 MB: three chunks
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "acme" / "tiny"
    write(model / "config.json", b"{}")
    write(model / "model.safetensors", WEIGHTS)
    write(model / "1_Pooling" / "config.json", b"[]")
    return tmp_path / "models"


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def source(root: Path) -> Folder:
    return Folder(root, ("home",), "home")


async def opened(root: Path, name: str = "acme/tiny") -> FolderRepository:
    return await source(root).open(name, None)


async def read(repository: FolderRepository, path: str, start: int = 0, stop: int | None = None) -> bytes:
    [file] = [file for file in repository.files if file.path == path]
    async with repository.stream(file, start, stop) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_files_are_listed_recursively_without_what_is_hidden(root: Path) -> None:
    for hidden in (".git/config.json", ".cache/a.json", "sub/.DS_Store", ".gitattributes"):
        write(root / "acme/tiny" / hidden, b"x")
    repository = await opened(root)
    assert {(file.path, file.size, file.sha256, file.git_sha1) for file in repository.files} == {
        ("1_Pooling/config.json", 2, None, None),
        ("config.json", 2, None, None),
        ("model.safetensors", len(WEIGHTS), None, None),
    }
    assert (repository.id, repository.public) == ("acme/tiny", False)
    assert list(await repository.gguf_repositories()) == []


async def test_bytes_come_whole_and_in_ranges(root: Path) -> None:
    repository = await opened(root)
    assert await read(repository, "model.safetensors") == WEIGHTS
    assert await read(repository, "model.safetensors", 1_000_000, 2_300_001) == WEIGHTS[1_000_000:2_300_001]
    assert await read(repository, "config.json", 1, 2) == b"}"


def rewrite(path: Path) -> None:
    path.write_bytes(WEIGHTS[:-1])


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    state = path.stat()
    write(path.with_name("other"), WEIGHTS)
    os.utime(path.with_name("other"), ns=(state.st_atime_ns, state.st_mtime_ns))
    path.with_name("other").rename(path)


def link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


@pytest.mark.parametrize("change", [rewrite, touch, replace, link, Path.unlink])
async def test_a_file_that_changed_since_it_was_listed_is_named(root: Path, change: Callable[[Path], None]) -> None:
    repository = await opened(root)
    change(root / "acme/tiny/model.safetensors")
    with pytest.raises(SourceError, match="acme/tiny/model.safetensors (has changed|cannot be read).*pull again"):
        await read(repository, "model.safetensors")


@pytest.mark.parametrize("change", [rewrite, touch])
async def test_a_file_that_changes_while_it_is_read_is_named(root: Path, change: Callable[[Path], None]) -> None:
    repository = await opened(root)
    [file] = [file for file in repository.files if file.path == "model.safetensors"]
    async with repository.stream(file) as chunks:
        assert await anext(aiter(chunks)) == WEIGHTS[: folder.CHUNK_BYTES]
        change(root / "acme/tiny/model.safetensors")
        with pytest.raises(SourceError, match="has changed since the pull began"):
            [chunk async for chunk in chunks]


@pytest.mark.parametrize("change", [rewrite, touch, lambda path: write(path.with_name("new.json"), b"{}")])
async def test_the_commit_is_another_where_a_file_is(root: Path, change: Callable[[Path], None]) -> None:
    first = (await opened(root)).commit
    assert (await opened(root)).commit == first
    change(root / "acme/tiny/model.safetensors")
    assert (await opened(root)).commit != first


@pytest.mark.parametrize("cached", ["acme/tiny", "hub"])
async def test_a_snapshot_of_the_hubs_cache_has_digests(tmp_path: Path, cached: str) -> None:
    """The names of LFS blobs are their SHA-256; other blobs have git's name."""
    cache = tmp_path / "hub" / "models--acme--tiny"
    write(cache / "blobs" / SHA256, WEIGHTS)
    write(cache / "blobs" / ("b" * 40), b"{}")
    snapshot = cache / "snapshots" / ("c" * 40)
    write(cache / "refs" / "main", b"c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{SHA256}")
    (snapshot / "config.json").symlink_to(f"../../blobs/{'b' * 40}")
    if cached == "acme/tiny":
        (tmp_path / "acme").mkdir()
        (tmp_path / cached).symlink_to(snapshot)
    repository = await opened(tmp_path if cached == "acme/tiny" else tmp_path / "hub")
    assert {file.path: file.sha256 for file in repository.files} == {"model.safetensors": SHA256, "config.json": None}
    assert await read(repository, "model.safetensors") == WEIGHTS


async def test_a_name_is_a_digest_among_huggingface_hubs_blobs_only(root: Path) -> None:
    write(root / "acme" / "tiny" / ("a" * 64), b"not that")
    assert {file.sha256 for file in (await opened(root)).files} == {None}


@pytest.mark.parametrize(
    "name", ["acme/none", "acme", "acme/..", "../secret", "acme/tiny/1_Pooling", "acme/.git", "/etc", "acme/a\0b", ""]
)
async def test_only_folders_below_are_reached_by_a_name(root: Path, name: str) -> None:
    write(root.parent / "secret" / "config.json", b"secret")
    write(root / "acme" / ".git" / "config.json", b"hidden")
    with pytest.raises(Refusal, match=r"there is no folder .*\[sources.home\]"):
        await opened(root, name)


async def test_no_link_leads_out_of_the_folder(root: Path) -> None:
    outside = root.parent / "outside"
    write(outside / "acme" / "config.json", b"secret")
    (root / "evil").symlink_to(outside)
    (root / "acme" / "evil").symlink_to(outside / "acme")
    (root / "acme" / "tiny" / "folder").symlink_to(outside / "acme")
    write(root / "models--x--y" / "refs" / "main", b"../../../outside/acme")
    for name in ("evil/acme", "acme/evil", "x/y"):
        with pytest.raises(Refusal, match="there is no folder"):
            await opened(root, name)
    assert "folder/config.json" not in [file.path for file in (await opened(root)).files]
    (root / "acme" / "tiny" / "vocab.json").symlink_to(outside / "acme" / "config.json")
    with pytest.raises(Refusal, match="acme/tiny/vocab.json is a link to outside"):
        await opened(root)


async def test_broken_links_and_special_files_are_left_out(root: Path) -> None:
    model = root / "acme" / "tiny"
    (model / "gone.json").symlink_to("nothing")
    (model / "circle.json").symlink_to("circle.json")
    os.mkfifo(model / "pipe.json")
    assert len((await opened(root)).files) == 3


async def test_a_folder_that_cannot_be_a_model_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_FILES", 2)
    with pytest.raises(Refusal, match="acme/tiny has more than 2 files"):
        await opened(root)


async def test_a_revision_is_refused(root: Path) -> None:
    with pytest.raises(Refusal, match="has no revision 'main'"):
        await source(root).open("acme/tiny", "main")


async def test_a_failing_disk_is_explained(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    repository = await opened(root)
    monkeypatch.setattr(folder, "_read", fail)
    with pytest.raises(SourceError, match="acme/tiny/config.json cannot be read: Input/output error"):
        await read(repository, "config.json")
    monkeypatch.setattr(os, "walk", fail)
    with pytest.raises(SourceError, match="acme/tiny in the folder .* cannot be listed: Input/output error"):
        await opened(root)


async def test_a_disk_that_hangs_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.OPEN_SECONDS <= 15
    monkeypatch.setattr(folder, "OPEN_SECONDS", 0.1)

    given_up = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        given_up.wait(PATIENCE)
        return []

    monkeypatch.setattr(os, "walk", hang)
    with pytest.raises(SourceError, match="could not be listed within"):
        await opened(root)
    given_up.set()


async def test_a_model_of_a_folder_is_pulled(
    tmp_path: Path, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    files = tiny_llama()
    for path, content in files.items():
        write(tmp_path / "acme" / "tiny" / path, content)
    sources = {"home": {"type": "folder", "path": str(tmp_path)}}
    async with App(settings("http://127.0.0.1:9", ollama.url, sources=sources)) as app:
        lines = await Client(app.address.url, session).pull("home/acme/tiny:q4_K_M")
    assert lines[-1] == {"status": "success"}
    assert "home/acme/tiny:q4_K_M" in ollama.models
    gguf = converted(files, quantization="Q4_K_M")
    assert ollama.blobs[digest_of(gguf)] == len(gguf)
