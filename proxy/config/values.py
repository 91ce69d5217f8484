"""The types of the configuration's values."""

import re
from enum import StrEnum
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

SIZE = re.compile(r"(\d+)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")
LOOPBACK_OF_WILDCARD = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
"""The loopback address that reaches a wildcard listener. With asyncio, `::` accepts IPv6 only."""
MIB = 1024 * 1024
MIN_MEMORY = 16 * MIB
MIN_RATE = 10_000


class Quantization(StrEnum):
    """llama.cpp's quantizations that need no importance matrix, the usual six first. A lookup ignores case."""

    Q4_K_M = "Q4_K_M"
    Q5_K_M = "Q5_K_M"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"
    F16 = "F16"
    BF16 = "BF16"
    F32 = "F32"
    Q5_K_S = "Q5_K_S"
    Q5_1 = "Q5_1"
    Q5_0 = "Q5_0"
    Q4_K_S = "Q4_K_S"
    Q4_1 = "Q4_1"
    Q4_0 = "Q4_0"
    IQ4_NL = "IQ4_NL"
    IQ4_XS = "IQ4_XS"
    Q3_K_L = "Q3_K_L"
    Q3_K_M = "Q3_K_M"
    Q3_K_S = "Q3_K_S"
    IQ3_M = "IQ3_M"
    IQ3_S = "IQ3_S"
    Q2_K = "Q2_K"
    TQ1_0 = "TQ1_0"
    TQ2_0 = "TQ2_0"
    MXFP4_MOE = "MXFP4_MOE"

    @classmethod
    def _missing_(cls, value: object) -> "Quantization | None":
        name = str(value).upper()
        # llama.cpp accepts these three without `_M`.
        return cls.__members__.get(f"{name}_M" if name in ("Q3_K", "Q4_K", "Q5_K") else name)


class GgufPulls(StrEnum):
    """Which program pulls a GGUF: Ollama where it can (`auto`), always Ollama, or always the proxy."""

    AUTO = "auto"
    NATIVE = "native"
    PROXY = "proxy"


class ProjectorType(StrEnum):
    """The type of a projector's matrices. A lookup ignores case."""

    F16 = "F16"
    Q8_0 = "Q8_0"
    BF16 = "BF16"
    F32 = "F32"

    @classmethod
    def _missing_(cls, value: object) -> "ProjectorType | None":
        return next((one for one in cls if isinstance(value, str) and one.value == value.upper()), None)


class Address(NamedTuple):
    """Where the proxy listens. Port 0 lets the system choose a free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def local_url(self) -> str:
        """The URL for a client on this machine."""
        return self._replace(host=LOOPBACK_OF_WILDCARD.get(self.host, self.host)).url


def http_url(key: str, value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{key}: must be a URL that begins with http:// or https://, not {value!r}")
    if "@" in parts.netloc:
        raise ValueError(f"{key}: must not contain a user name or a password, because logs and responses show URLs")
    return parts._replace(query="", fragment="").geturl().rstrip("/")


class MemorySize(int):
    """Bytes."""

    @classmethod
    def parse(cls, value: object) -> Self:
        size = _bytes(_convert_plain(value, int | str))
        if size < MIN_MEMORY:
            raise ValueError(f"must be at least 16MiB, not {value!r}")
        return cls(size)


class ByteRate(int):
    """Bytes per second; 0 is no limit, written as an empty text."""

    @classmethod
    def parse(cls, value: object) -> Self:
        text = _convert_plain(value, int | str)
        if text == "":
            return cls(0)
        rate = _bytes(text)
        if rate < MIN_RATE:
            raise ValueError(f"must be at least 10kB (per second), not {value!r}; an empty text means no limit")
        return cls(rate)


class Seconds(float):
    @classmethod
    def parse(cls, value: object) -> Self:
        text = str(_convert_plain(value, int | float | str)).strip()
        match = DURATION.fullmatch(text)
        if match is None:
            raise ValueError(f"must be a duration such as 90s, 2m or 24h, not {value!r}")
        return cls(float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]])


def _bytes(value: int | str) -> int:
    match = SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"must be a size such as 128MiB, not {value!r}")
    base = 1024 if match[3] else 1000
    return int(match[1]) * int(base ** " kmgt".index(match[2].lower() or " "))


def _convert_plain(value: object, plain_type: Any) -> Any:
    try:
        return msgspec.convert(value, plain_type)
    except msgspec.ValidationError as error:
        # msgspec adds the key to a ValueError that a hook raises, but not to an error of its own.
        raise ValueError(str(error)) from None
