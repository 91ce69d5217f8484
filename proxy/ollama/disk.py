"""Free disk where Ollama keeps its models, when that is on this machine and can be told for certain."""

import asyncio
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config import OllamaConfig
from proxy.ollama.client import Ollama

USUAL_PLACES = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")
LOCAL = ("127.0.0.1", "::1", "localhost")


async def free_disk(config: OllamaConfig, ollama: Ollama) -> int | None:
    """Bytes; None where it is not known, as for another machine or a container. Raises OllamaError.

    One of the usual places is this Ollama's when it holds the newest blob there.
    """
    if config.models:
        return await asyncio.to_thread(_free, Path(config.models))
    if urlsplit(config.url).hostname in LOCAL:
        for place in USUAL_PLACES:
            digest = await asyncio.to_thread(_newest_blob, Path(place, "blobs"))
            if digest is not None and await ollama.has_blob(digest):
                return await asyncio.to_thread(_free, Path(place))
    return None


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path.expanduser()).free
    except OSError:
        return None


def _newest_blob(folder: Path) -> str | None:
    """The digest of the last that was finished."""
    try:
        finished = [entry for entry in os.scandir(folder.expanduser()) if len(entry.name) == len("sha256-") + 64]
        newest = max(finished, key=lambda entry: entry.stat().st_mtime, default=None)
    except OSError:
        return None
    return newest.name.replace("-", ":", 1) if newest else None
