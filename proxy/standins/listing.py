"""What the stand-in Hub says about its repositories, in the JSON of the Hub's API."""

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.standins.repositories import StandInRepository, StoredFile


async def described(
    repository: StandInRepository, commit: str, *, measured: bool, digests: bool = True
) -> dict[str, Any]:
    """A model's description; one that is `measured` has the files' sizes, and with `digests` their digests too."""
    files = repository.commits[commit]
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(files)]
    for sibling in siblings if measured else ():
        sibling.update(await _measures(files[sibling["rfilename"]], digests=digests))
    return {
        **summary(repository),
        "author": repository.repo_id.split("/")[0],
        "sha": commit,
        "gated": "manual" if repository.gated else False,
        "disabled": repository.disabled,
        "lastModified": _date(repository, commit),
        "siblings": siblings,
    }


def summary(repository: StandInRepository) -> dict[str, Any]:
    """A model as it stands in a list of models."""
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
    """All files and folders below the root, as a recursive tree has them."""
    folders = {path[:cut] for path in files for cut, letter in enumerate(path) if letter == "/"}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders
    ]
    for path, file in files.items():
        measures = await _measures(file, digests=True)
        entry = {"type": "file", "oid": measures["blobId"], "size": file.size, "path": path}
        if lfs := measures.get("lfs"):
            entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["path"]))


async def _measures(file: StoredFile, *, digests: bool) -> dict[str, Any]:
    if not digests:
        return {"size": file.size}
    measures: dict[str, Any] = {"size": file.size, "blobId": await file.blob_id()}
    if file.lfs:
        pointer = await file.pointer()
        measures["lfs"] = {"sha256": await file.sha256(), "size": file.size, "pointerSize": len(pointer)}
    return measures


def _tags(repository: StandInRepository) -> Iterator[str]:
    yield from ("transformers", "text-generation")
    for kind in ("safetensors", "gguf"):
        if any(path.endswith(f".{kind}") for path in repository.files):
            yield kind
    if repository.quantized_from:
        yield f"base_model:{repository.quantized_from}"
        yield f"base_model:quantized:{repository.quantized_from}"


def _date(repository: StandInRepository, commit: str) -> str:
    return repository.dates[commit].strftime("%Y-%m-%dT%H:%M:%S.000Z")
