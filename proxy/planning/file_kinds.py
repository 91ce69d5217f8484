"""Recognizes what stands where a file of a repository belongs: a Git LFS pointer, an HTML page, nothing. Pure."""

from proxy.errors import Refusal

POINTER = b"version https://git-lfs"
"""How a pointer begins: the text that Git keeps for a large file."""
_HTML = (b"<!doctyp", b"<html")
_KINDS = (".gguf", ".jinja", ".json", ".model", ".safetensors")
"""Endings of files that are never HTML themselves. A model card or a license may be."""
FIRST_BYTES = 8
"""So many bytes are enough to tell."""


def check_kind(where: str, first: bytes) -> None:
    """`first`: the first bytes of the file, at least FIRST_BYTES of them. Raises Refusal if it is not the file itself.

    A file that may be text of any kind passes.
    """
    if not where.lower().endswith(_KINDS):
        return
    check_pointer(where, first)
    if what := substitute(first):
        raise Refusal(f"{where} is {what}, not the file itself; ask the repository's owner to upload the file itself")


def check_pointer(where: str, first: bytes) -> None:
    """Raises Refusal for a Git LFS pointer."""
    if len(first) >= FIRST_BYTES and POINTER.startswith(first[: len(POINTER)]):
        raise Refusal(
            f"{where} is a Git LFS pointer, not the file itself: it was uploaded without Git LFS; "
            "ask the repository's owner to upload the file itself"
        )


def substitute(first: bytes) -> str | None:
    """`empty` or `an HTML page`; None for other files."""
    if not first:
        return "empty"
    return "an HTML page" if first.lstrip().lower().startswith(_HTML) else None
