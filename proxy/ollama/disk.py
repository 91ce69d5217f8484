"""Ollama's folder of models, if it is on this machine: its free disk space, and the files of its blobs."""

import asyncio
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config.sections import OllamaConfig
from proxy.ollama.blobs import BlobApi

USUAL_FOLDERS = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")
LOCAL = ("127.0.0.1", "::1", "localhost")


async def free_disk(config: OllamaConfig, ollama: BlobApi) -> int | None:
    """Bytes; None if unknown, for example because Ollama runs on another machine or in a container.

    A usual folder belongs to this Ollama if Ollama has the newest blob of the folder. Raises OllamaError.
    """
    if config.models:
        return await asyncio.to_thread(_free, Path(config.models))
    if urlsplit(config.url).hostname in LOCAL:
        for folder in USUAL_FOLDERS:
            digest = await asyncio.to_thread(_newest_blob, Path(folder, "blobs"))
            if digest is not None and await ollama.has_blob(digest):
                return await asyncio.to_thread(_free, Path(folder))
    return None


def blob_file(models: str, digest: str) -> Path | None:
    """The file of a blob that the proxy may read. `models` is `ollama.models`; empty means the usual folders.

    The file may belong to another Ollama or be damaged: compare its bytes with the digest.
    """
    for folder in (models,) if models else USUAL_FOLDERS:
        file = Path(folder, "blobs", digest.replace(":", "-", 1)).expanduser()
        if os.access(file, os.R_OK):
            return file
    return None


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path.expanduser()).free
    except OSError:
        return None


def _newest_blob(folder: Path) -> str | None:
    """The digest of the blob that was finished last."""
    try:
        finished = [entry for entry in os.scandir(folder.expanduser()) if len(entry.name) == len("sha256-") + 64]
        newest = max(finished, key=lambda entry: entry.stat().st_mtime, default=None)
    except OSError:
        return None
    return newest.name.replace("-", ":", 1) if newest else None
