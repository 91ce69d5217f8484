"""What a client may be told when something fails: each text says what happened, to which file, and what to do."""


class ProxyError(Exception):
    """A failure whose text is meant for the person who asked."""


class ConfigError(ProxyError):
    """The configuration cannot be used; the text names the key and where it was set."""


class Refusal(ProxyError):
    """A pull that is refused before its first weight byte."""


class SourceError(ProxyError):
    """The place that a repository comes from failed or cannot be reached."""


class TransferError(ProxyError):
    """A file did not arrive as it was announced."""


class OllamaError(ProxyError):
    """Ollama failed, refused or cannot be reached."""


class Cancelled(ProxyError):
    """The pull was ended before it was done."""
