"""A model's name as clients write it, parsed once, and what its tag chooses."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from proxy.names import divide, is_cloud

REVISION_END = "--"
GGUF = ".gguf"


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


class TagParts(NamedTuple):
    """The parts of a tag: `[REVISION--]QUANTIZATION`."""

    revision: str | None
    """A branch, a tag or a commit; None if the tag names none."""
    quantization: str
    """A quantization, `latest`, or the label or file name of a GGUF; empty if the tag ends with the revision."""

    def tag(self, quantization: str) -> str:
        """The tag that chooses another quantization of the same revision."""
        return quantization if self.revision is None else f"{self.revision}{REVISION_END}{quantization}"


def parse(name: str) -> ModelReference | None:
    """Read a name with a host. None if Ollama has to answer: for short, malformed and cloud names."""
    parts = divide(name)
    if parts is None or parts.broken_rule is not None:
        return None
    if is_cloud(parts.tag):
        return None
    return ModelReference(parts.host, f"{parts.organization}/{parts.repository}", parts.tag)


def divide_tag(tag: str, paths: Iterable[str] = ()) -> TagParts:
    """Divide a tag. `paths` are the files of the repository: a tag that is the name of one of them has no revision."""
    if REVISION_END not in tag or any(path.rpartition("/")[2].casefold() == tag.casefold() for path in paths):
        return TagParts(None, tag)
    # No quantization contains the separator, but the name of a file may.
    parts = tag.partition(REVISION_END) if tag.lower().endswith(GGUF) else tag.rpartition(REVISION_END)
    return TagParts(parts[0], parts[2])
