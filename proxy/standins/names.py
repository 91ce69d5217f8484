"""Model names as Ollama parses them: host, namespace, model and tag, with Ollama's defaults."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class ModelName:
    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName | None":
        """The name without its scheme; None if Ollama would call it invalid."""
        path, tag = text, DEFAULT_TAG
        if text.rfind(":") > text.rfind("/"):
            path, _, tag = text.rpartition(":")
        front, separator, model = path.rpartition("/")
        host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
        if separator:
            front, separator, namespace = front.rpartition("/")
            if separator:
                host = front.partition("://")[2] if "://" in front else front
        name = cls(host, namespace, model, tag)
        return name if name._valid() else None

    def _valid(self) -> bool:
        return all(
            pattern.fullmatch(part)
            for pattern, part in (
                (_HOST, self.host),
                (_NAMESPACE, self.namespace),
                (_PART, self.model),
                (_PART, self.tag),
            )
        )

    @property
    def shortest(self) -> str:
        """The name as Ollama shows it: always with the tag, without a default host and namespace."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}".lower()

    def as_known_to(self, others: Iterable["ModelName"]) -> "ModelName":
        """Takes the case of each part from the installed models, as Ollama does, even from an unrelated one."""
        host, namespace, model, tag = self.host, self.namespace, self.model, self.tag
        for other in others:
            host = other.host if other.host.lower() == host.lower() else host
            namespace = other.namespace if other.namespace.lower() == namespace.lower() else namespace
            model = other.model if other.model.lower() == model.lower() else model
            tag = other.tag if other.tag.lower() == tag.lower() else tag
        return ModelName(host, namespace, model, tag)
