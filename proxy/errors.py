"""Errors whose texts clients see. A text has three parts: what happened, to which file, and what to do now."""


class ProxyError(Exception):
    """A failure whose text is written for the user."""


class ConfigError(ProxyError):
    """The configuration is wrong. The text names the key and where it was set."""


class Refusal(ProxyError):
    """The pull is refused before any weights are downloaded."""


class SourceError(ProxyError):
    """The source of a repository failed or cannot be reached."""


class Interrupted(SourceError):
    """An answer failed, stopped, or did not match the request. A retry may help.

    `wait` is the number of seconds that the source requests before a retry, or None.
    """

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class RangesIgnored(SourceError):
    """The source answered a range request with the whole file."""


class TransferError(ProxyError):
    """A file did not arrive as announced."""


class Damaged(TransferError):
    """All bytes of a file arrived, but the digest is wrong."""


class OllamaError(ProxyError):
    """Ollama failed, refused or cannot be reached."""


class Rejected(OllamaError):
    """Ollama cannot make a model from these files. A retry does not help."""


class DigestMismatch(OllamaError):
    """Ollama received different bytes than the proxy sent."""


class OllamaGone(OllamaError):
    """Ollama cannot be reached, or the connection broke."""


class Cancelled(ProxyError):
    """The pull was cancelled."""
