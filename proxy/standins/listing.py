"""The stand-in Hub's repositories as JSON of the Hub's API."""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.standins.hub_repository import StandInRepository, StoredFile


async def model_info(
    repository: StandInRepository, commit: str, *, sizes: bool, digests: bool = True
) -> dict[str, Any]:
    """A model at a commit: with `sizes` its files have sizes, and with `digests` also digests."""
    files = repository.commits[commit]
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(files)]
    for sibling in siblings if sizes else ():
        sibling.update(await _file_info(files[sibling["rfilename"]], digests=digests))
    return {
        **summary(repository),
        "author": repository.repo_id.split("/")[0],
        "sha": commit,
        "gated": "manual" if repository.gated else False,
        "disabled": repository.disabled,
        "lastModified": _date(repository, commit),
        "siblings": siblings,
    }


def commits(repository: StandInRepository) -> list[dict[str, Any]]:
    """The newest first."""
    return [
        {"id": commit, "authors": [], "date": _date(repository, commit), "title": "", "message": ""}
        for commit in reversed(repository.commits)
    ]


def refs(repository: StandInRepository) -> dict[str, Any]:
    """Branches and tags; a stand-in has no tags."""
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
        for name, commit in repository.branches.items()
    ]
    return {"branches": branches, "converts": [], "tags": []}


def summary(repository: StandInRepository) -> dict[str, Any]:
    """One entry of a list of models."""
    first = next(iter(repository.commits))
    return {
        "id": repository.repo_id,
        "modelId": repository.repo_id,
        "private": repository.private,
        "downloads": repository.downloads,
        "likes": 0,
        "tags": list(_tags(repository)),
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "createdAt": _date(repository, first),
    }


async def tree(files: Mapping[str, StoredFile]) -> list[dict[str, Any]]:
    """The recursive tree: all files and folders below the root."""
    folders = {path[:cut] for path in files for cut, letter in enumerate(path) if letter == "/"}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders
    ]
    for path, file in files.items():
        info = await _file_info(file, digests=True)
        entry = {"type": "file", "oid": info["blobId"], "size": file.size, "path": path}
        if lfs := info.get("lfs"):
            entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["path"]))


async def _file_info(file: StoredFile, *, digests: bool) -> dict[str, Any]:
    if not digests:
        return {"size": file.size}
    info: dict[str, Any] = {"size": file.size, "blobId": await file.blob_id()}
    if file.lfs:
        pointer = await file.pointer()
        info["lfs"] = {"sha256": await file.sha256(), "size": file.size, "pointerSize": len(pointer)}
    return info


def _tags(repository: StandInRepository) -> Iterator[str]:
    yield from ("transformers", "text-generation")
    for suffix in ("safetensors", "gguf"):
        if any(path.endswith(f".{suffix}") for path in repository.files):
            yield suffix
    if repository.quantized_from:
        yield f"base_model:{repository.quantized_from}"
        yield f"base_model:quantized:{repository.quantized_from}"


def _date(repository: StandInRepository, commit: str) -> str:
    return repository.dates[commit].strftime("%Y-%m-%dT%H:%M:%S.000Z")
