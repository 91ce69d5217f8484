"""Repositories that only list their files: planning is pure, so a fetch is an error."""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from proxy.sources.base import RepositoryFile

LFS = "0" * 64
BASE = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class Listing:
    files: tuple[RepositoryFile, ...]
    id: str = "acme/model"
    commit: str = "c" * 40
    public: bool = False
    modified: float | None = None

    def stream(
        self,
        file: RepositoryFile,
        start: int = 0,
        stop: int | None = None,
    ) -> "AbstractAsyncContextManager[Any]":
        raise AssertionError(f"the plan fetched {file.path} from {start} to {stop}")

    async def gguf_repositories(self) -> Sequence[str]:
        return ()


def listing(*paths: str) -> Listing:
    return Listing(
        tuple(
            RepositoryFile(path, 10, sha256=LFS)
            if path.endswith((".safetensors", ".gguf"))
            else RepositoryFile(path, 10)
            for path in paths
        )
    )


def index(*shards: object) -> bytes:
    return json.dumps({"weight_map": {f"t{number}": shard for number, shard in enumerate(shards)}}).encode()
