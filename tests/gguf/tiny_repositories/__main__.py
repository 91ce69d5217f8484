"""Writes all repositories, or the named ones, into one folder each."""

import sys
from pathlib import Path

from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.drafts import DRAFTS
from tests.gguf.tiny_repositories.packed import Packed
from tests.gguf.tiny_repositories.repository import Tiny
from tests.gguf.tiny_repositories.schemes import PACKED
from tests.gguf.tiny_repositories.sighted import SIGHTED

ALL: dict[str, Tiny | Packed] = {**REPOSITORIES, **DRAFTS, **PACKED, **SIGHTED}


def write(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in ALL[name].files().items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


if __name__ == "__main__":
    for name in sys.argv[2:] or ALL:
        write(name, Path(sys.argv[1]) / name)
