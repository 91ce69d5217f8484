"""A model's name as clients write it, parsed once by Ollama's own rules (types/model/name.go, v0.33)."""

import re
from dataclasses import dataclass

_PART = r"[A-Za-z0-9_]"
_NAME = re.compile(
    rf"(?:https?://)?"
    rf"(?P<host>{_PART}[A-Za-z0-9_.:-]{{0,349}})"
    rf"/(?P<organization>{_PART}[A-Za-z0-9_-]{{0,79}})"
    rf"/(?P<model>{_PART}[A-Za-z0-9_.-]{{0,79}})"
    rf"(?::(?P<tag>{_PART}[A-Za-z0-9_.-]{{0,79}}))?"
)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """HOST/ORG/REPO[:TAG]. `tag` is `latest` if the client sent none, as in Ollama."""

    host: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The name of the created model: what the client sent, without the scheme and with a tag."""
        return f"{self.host}/{self.repository}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for names of the same model in Ollama, which ignores case when it looks up a model."""
        return self.name.casefold()


def parse(name: str) -> ModelReference | None:
    """Read a name with a host. None if Ollama has to answer: for short, malformed and cloud names."""
    match = _NAME.fullmatch(name.strip())
    if match is None:
        return None
    tag = match["tag"] or "latest"
    # From v0.17.6 on, these tags mean Ollama's own cloud, on every host.
    if tag.lower() in ("cloud", "local") or tag.lower().endswith("-cloud"):
        return None
    return ModelReference(match["host"], f"{match['organization']}/{match['model']}", tag)
