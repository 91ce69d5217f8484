"""The configuration: defaults, a TOML file, the environment and flags are merged into one frozen `Config`.

Every value is checked and parsed once, here: a `Config` holds bytes and seconds, never texts such as `128MiB` or `2m`.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import field

from proxy.errors import ConfigError
from proxy.names import divide

ENVIRONMENT_PREFIX = "OLLAMA_HF_PROXY_"
ECOSYSTEM_VARIABLES = {"HF_ENDPOINT": ("hub", "endpoint"), "HF_TOKEN": ("hub", "token")}
FLAGS = {"--listen": ("server", "listen"), "--ollama": ("ollama", "url"), "--hub": ("hub", "endpoint")}

T = TypeVar("T")
SIZE = re.compile(r"(\d+)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
ALLOWED_HOST = re.compile(r"\*|(\*\.)?[^\s*/:]+|[0-9a-f:.]+")
# The characters that both a bearer token and a path segment may have.
API_KEY = re.compile(r"[A-Za-z0-9._~+=-]+")
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")
VERSION = re.compile(r"v?\d+\.\d+(\.\d+)?")
REMOVED_KEYS = {"pull.converter": "was removed: the proxy converts every model itself; delete the key"}
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


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the TOML file. Its errors begin with the key; `convert` adds the table's name in front."""


class ServerConfig(_Section, frozen=True):
    listen: str = "127.0.0.1:11435"
    state: str = ""
    allowed_hosts: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.address
        msgspec.structs.force_setattr(self, "allowed_hosts", tuple(host.lower() for host in self.allowed_hosts))
        for host in self.allowed_hosts:
            if not ALLOWED_HOST.fullmatch(host):
                raise ValueError(f"allowed_hosts: must be host names without a port, '*.DOMAIN' or '*', not {host!r}")
        if not all(API_KEY.fullmatch(key) for key in self.api_keys):
            raise ValueError("api_keys: may contain only letters, digits and the characters - . _ ~ + =")

    def __repr__(self) -> str:
        keys = f"{len(self.api_keys)} set" if self.api_keys else "none"
        return (
            f"ServerConfig(listen={self.listen!r}, state={self.state!r}, allowed_hosts={self.allowed_hosts!r}, "
            f"api_keys={keys})"
        )

    @property
    def is_open_to_network(self) -> bool:
        """Whether other machines may reach the proxy without a key."""
        try:
            return not self.api_keys and not ip_address(self.address.host).is_loopback
        except ValueError:
            return not self.api_keys and self.address.host != "localhost"

    @property
    def address(self) -> Address:
        parts = urlsplit(f"//{self.listen}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if not parts.hostname or port is None or parts.path or parts.query or parts.username:
            raise ValueError(f"listen: must be HOST:PORT, such as 127.0.0.1:11435, not {self.listen!r}")
        return Address(parts.hostname, port)


class OllamaConfig(_Section, frozen=True):
    url: str = "http://127.0.0.1:11434"
    version: str = ""
    models: str = ""
    patience_seconds: Seconds = field(default=Seconds(120), name="patience")
    reclaim: bool = True
    advertise_url: str = ""

    def __post_init__(self) -> None:
        if self.version and not VERSION.match(self.version):
            raise ValueError(f"version: must be an Ollama version such as 0.24.0, not {self.version!r}")
        msgspec.structs.force_setattr(self, "url", http_url("url", self.url))
        if self.advertise_url:
            msgspec.structs.force_setattr(self, "advertise_url", http_url("advertise_url", self.advertise_url))


class HubConfig(_Section, frozen=True):
    endpoint: str = "https://huggingface.co"
    token: str = ""
    hosts: tuple[str, ...] = ("hf.co", "huggingface.co")
    mirrors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "endpoint", http_url("endpoint", self.endpoint))
        mirrors = dict.fromkeys(http_url("mirrors", mirror) for mirror in self.mirrors)
        mirrors.pop(self.endpoint, None)
        msgspec.structs.force_setattr(self, "mirrors", tuple(mirrors))
        msgspec.structs.force_setattr(self, "token", self.token.strip())
        msgspec.structs.force_setattr(self, "hosts", tuple(host.lower() for host in self.hosts))

    def __repr__(self) -> str:
        token = "set" if self.token else "none"
        return f"HubConfig(endpoint={self.endpoint!r}, token={token}, hosts={self.hosts!r}, mirrors={self.mirrors!r})"


NO_SPOOL = "off"
"""The value of `pull.spool` with which nothing is kept on disk."""


class PullConfig(_Section, frozen=True):
    default_quantization: Quantization = Quantization.Q4_K_M
    gguf: GgufPulls = GgufPulls.AUTO
    connections: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    memory_bytes: MemorySize = field(default=MemorySize(128 * MIB), name="memory")
    bandwidth_bytes: ByteRate = field(default=ByteRate(0), name="bandwidth")
    jobs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    linger_seconds: Seconds = field(default=Seconds(5 * 60), name="linger")
    keep_seconds: Seconds = field(default=Seconds(24 * 3600), name="keep")
    spool: str = ""
    verify: bool = False
    on_demand: bool = False


Parameter = bool | int | float | str | list[str]


class ModelSettings(_Section, frozen=True):
    """The user's settings for one model. They override its repository. `template` holds the text of `template_file`."""

    template: str | None = None
    template_file: str | None = None
    system: str | None = None
    parameters: dict[str, Parameter] = {}
    license: str | list[str] | None = None
    revision: str | None = None
    name: str | None = None
    """HOST/ORG/REPO under which clients pull the model: the repository's own name may break Ollama's rules."""

    def __post_init__(self) -> None:
        if self.name is not None:
            _check_short_name(self.name)
        if self.template_file is not None:
            if self.template is not None:
                raise ValueError("template_file: set template or template_file, not both")
            try:
                text = Path(self.template_file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"template_file: cannot be read: {error}") from error
            msgspec.structs.force_setattr(self, "template", text)
        if isinstance(stop := self.parameters.get("stop"), str):
            # Ollama accepts a bare string in a create and then fails every chat.
            msgspec.structs.force_setattr(self, "parameters", {**self.parameters, "stop": [stop]})


def _check_short_name(name: str) -> None:
    parts = divide(name)
    if parts is None or parts.model != name:
        raise ValueError(f"name: must be HOST/ORG/REPO without a tag, such as hf.co/me/short, not {name!r}")
    if parts.broken_rule is not None:
        raise ValueError(f"name: Ollama does not take {name!r}: {parts.broken_rule}")


NO_SETTINGS = ModelSettings()


class Config(_Section, frozen=True):
    server: ServerConfig = ServerConfig()
    ollama: OllamaConfig = OllamaConfig()
    hub: HubConfig = HubConfig()
    pull: PullConfig = PullConfig()
    models: dict[str, ModelSettings] = {}
    sources: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for key in self.models:
            model = self._model_key(key)
            if model.count("/") != 2:  # noqa: PLR2004 - HOST/ORG/REPO
                raise ValueError(f"models: {key!r} is not HOST/ORG/REPO, such as hf.co/org/repo")
            if model in seen:
                raise ValueError(f"models: {key!r} and {seen[model]!r} are the same model; case and tag are ignored")
            seen[model] = key
        for key, settings in self.models.items():
            if settings.name is None:
                continue
            model = self._model_key(settings.name)
            if model in seen:
                raise ValueError(f"models: the name {settings.name!r} of {key!r} belongs to {seen[model]!r} already")
            seen[model] = key

    def __repr__(self) -> str:
        shown = [f"{field}={getattr(self, field)!r}" for field in self.__struct_fields__ if field != "sources"]
        # The settings of a source plugin may contain a token under any name.
        return f"Config({', '.join(shown)}, sources={list(self.sources)!r})"

    def _model_key(self, name: str) -> str:
        """The part of a name that selects its settings: without scheme and tag, in lower case, one host for the Hub."""
        host, repository = host_and_repository(name.lower())
        return f"{'hub' if host in self.hub.hosts else host}/{repository}"

    def settings_for(self, name: str) -> ModelSettings:
        """The settings of a repository, under its own name or under the one that its table gives it."""
        model = self._model_key(name)
        for key, settings in self.models.items():
            if model in (self._model_key(key), self._model_key(settings.name or key)):
                return settings
        return NO_SETTINGS

    def repository_of(self, name: str) -> tuple[str, str]:
        """The host and ORG/REPO of the repository that a name means."""
        model = self._model_key(name)
        for key, settings in self.models.items():
            if settings.name is not None and self._model_key(settings.name) == model:
                return host_and_repository(key)
        return host_and_repository(name)


def host_and_repository(name: str) -> tuple[str, str]:
    """The two parts of a name without its scheme and tag."""
    host, _, repository = name.rpartition("://")[2].partition("/")
    return host, repository.partition(":")[0]


def load(
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, str | None] | None = None,
) -> Config:
    """Merge file, environment and flags in rising precedence and check the result.

    `flags` maps each flag of `FLAGS` to its value, or to None if it was not given.
    Raises ConfigError, which names the key and the place where it was set.
    """
    values = _read_file(file) if file else {}
    origins: dict[str, str] = {}
    for section, key, value, origin in [*_from_environment(environment), *_from_flags(flags or {})]:
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
            origins[f"{section}.{key}"] = origin
            origins.setdefault(section, origin)
    try:
        return check(values)
    except ConfigError as error:
        key = str(error).partition(":")[0]
        origin = origins.get(key) or (str(file) if file else "")
        raise ConfigError(f"{origin}: {error}" if origin else str(error)) from error


def check(values: Mapping[str, Any]) -> Config:
    """Convert plain values, as TOML has them, to a Config. Raises ConfigError, which begins with the key."""
    models = values.get("models", {})
    if isinstance(models, dict):
        settings = {name: convert(table, ModelSettings, f'models."{name}"') for name, table in models.items()}
        values = {**values, "models": settings}
    return convert(values, Config, "")


def convert(values: Any, struct: type[T], table: str) -> T:
    """Convert the plain values of `table` to a struct. Raises ConfigError, which begins with the key."""
    try:
        return msgspec.convert(values, struct, strict=False, dec_hook=lambda setting, value: setting.parse(value))
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        path = f"{table}{place.rstrip('`')}".lstrip(".")
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
            text = f"{unknown[1]}: {REMOVED_KEYS.get(f'{path}.{unknown[1]}', 'is not a key')}"
        if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
            text = f"{missing[1]}: must be set"
        # The error of a section begins with the key; in an error of msgspec the path ends with it.
        begins_with_key = re.match(r"\w+: ", text)
        raise ConfigError(f"{path}.{text}".lstrip(".") if begins_with_key else f"{path}: {text}") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    models = values.get("models")
    for settings in models.values() if isinstance(models, dict) else ():
        if isinstance(settings, dict) and isinstance(settings.get("template_file"), str):
            settings["template_file"] = str(file.parent / settings["template_file"])
    return values


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, object, str]]:
    for variable, (section, key) in ECOSYSTEM_VARIABLES.items():
        if value := environment.get(variable):
            yield section, key, value, variable
    defaults = Config()
    for variable, value in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX):
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            default = getattr(getattr(defaults, section, None), key, None)
            items = [item.strip() for item in value.split(",") if item.strip()]
            yield section, key, items if isinstance(default, tuple) else value, variable


def _from_flags(flags: Mapping[str, str | None]) -> Iterator[tuple[str, str, object, str]]:
    for flag, value in flags.items():
        if value is not None:
            yield *FLAGS[flag], value, flag
