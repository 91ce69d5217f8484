"""The tables of the configuration and their defaults."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import field

from proxy.config.values import (
    MIB,
    Address,
    ByteRate,
    GgufPulls,
    MemorySize,
    ProjectorType,
    Quantization,
    Seconds,
    http_url,
)
from proxy.names import divide

ALLOWED_HOST = re.compile(r"\*|(\*\.)?[^\s*/:]+|[0-9a-f:.]+")
# The characters that both a bearer token and a path segment may have.
API_KEY = re.compile(r"[A-Za-z0-9._~+=-]+")
VERSION = re.compile(r"v?\d+\.\d+(\.\d+)?")


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
    draft: bool = False
    vision: bool = True
    projector: ProjectorType = ProjectorType.F16


Parameter = bool | int | float | str | list[str]


class ModelSettings(_Section, frozen=True):
    """The user's settings for one model. They override its repository. `template` holds the text of `template_file`."""

    template: str | None = None
    template_file: str | None = None
    system: str | None = None
    parameters: dict[str, Parameter] = {}
    license: str | list[str] | None = None
    revision: str | None = None
    vision: bool | None = None
    """Whether the model sees and hears, if it can; None leaves it to `pull.vision`."""
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
