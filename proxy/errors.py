"""What a client may be told when something fails: each text says what happened, to which file, and what to do."""


class ProxyError(Exception):
    """A failure whose text is meant for the person who asked."""


class ConfigError(ProxyError):
    """The configuration cannot be used; the text names the key and where it was set."""


class Refusal(ProxyError):
    """A pull that is refused before its first weight byte."""


class SourceError(ProxyError):
    """The place that a repository comes from failed or cannot be reached."""


class Interrupted(SourceError):
    """Bytes stopped coming, or did not come as asked; asking again may help.

    `wait` is how many seconds the source asked to be left alone, None where it asked for nothing.
    """

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class RangesIgnored(SourceError):
    """The source answered a range with the whole file."""


class TransferError(ProxyError):
    """A file did not arrive as it was announced."""


class Damaged(TransferError):
    """Every byte of a file came, but they are not the file."""


class OllamaError(ProxyError):
    """Ollama failed, refused or cannot be reached."""


class Rejected(OllamaError):
    """Ollama cannot make a model of what it was given; asking again does not help."""


class DigestMismatch(OllamaError):
    """Ollama received other bytes than were sent."""


class OllamaGone(OllamaError):
    """There is no connection to Ollama, or it broke."""


class Cancelled(ProxyError):
    """The pull was ended before it was done."""
