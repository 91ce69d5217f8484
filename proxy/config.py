"""The configuration: defaults, TOML file, environment and flags become one frozen `Config`, checked once."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from proxy.errors import ConfigError

ENVIRONMENT_PREFIX = "OLLAMA_HF_PROXY_"
ECOSYSTEM_VARIABLES = {"HF_ENDPOINT": ("hub", "endpoint"), "HF_TOKEN": ("hub", "token")}
FLAGS = {"--listen": ("server", "listen"), "--ollama": ("ollama", "url"), "--hub": ("hub", "endpoint")}

Quantization = Literal["F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M"]
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
"""What Ollama's `quantize` takes from v0.7 on (its `ggml.ParseFileType`)."""


class Address(NamedTuple):
    """Where the proxy listens. Port 0 lets the system choose a free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:11435")  # noqa: TRY004 - pydantic reads ValueError
    parts = urlsplit(f"//{value}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None or parts.path or parts.query or parts.username:
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:11435, not {value!r}")
    return Address(parts.hostname, port)


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be a URL that begins with http:// or https://, not {value!r}")
    return parts._replace(query="", fragment="").geturl().rstrip("/")


def _list(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
ListenAddress = Annotated[Address, BeforeValidator(_address)]
HostName = Annotated[str, AfterValidator(str.lower)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerConfig(_Section):
    listen: ListenAddress = Address("127.0.0.1", 11435)


class OllamaConfig(_Section):
    url: HttpUrl = "http://127.0.0.1:11434"


class HubConfig(_Section):
    endpoint: HttpUrl = "https://huggingface.co"
    token: Annotated[str, AfterValidator(str.strip), Field(repr=False)] = ""
    hosts: Annotated[tuple[HostName, ...], BeforeValidator(_list)] = ("hf.co", "huggingface.co")


class PullConfig(_Section):
    default_quantization: Annotated[
        Quantization, BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
    ] = "Q4_K_M"
    connections: Annotated[int, Field(ge=1, le=64)] = 8
    memory: Annotated[ByteSize, Field(ge=16 * 1024 * 1024)] = ByteSize(128 * 1024 * 1024)


Parameter = bool | int | float | str | list[str]


def _stop_is_a_list(parameters: Mapping[str, Parameter]) -> Mapping[str, Parameter]:
    # Ollama takes a bare string at create and then fails at every chat.
    stop = parameters.get("stop")
    return {**parameters, "stop": [stop]} if isinstance(stop, str) else parameters


class ModelSettings(_Section):
    """What the user wants in one model, whatever its repository says."""

    template: str | None = None
    system: str | None = None
    parameters: Annotated[Mapping[str, Parameter], AfterValidator(_stop_is_a_list)] = {}
    license: str | list[str] | None = None
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_template_file(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "template_file" not in values:
            return values
        if "template" in values:
            raise ValueError("set template or template_file, not both")
        rest = {key: value for key, value in values.items() if key != "template_file"}
        try:
            return {**rest, "template": Path(values["template_file"]).read_text(encoding="utf-8")}
        except (OSError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"template_file cannot be read: {error}") from error


NO_SETTINGS = ModelSettings()


class Config(_Section):
    """Everything that the proxy can be told."""

    server: ServerConfig = ServerConfig()
    ollama: OllamaConfig = OllamaConfig()
    hub: HubConfig = HubConfig()
    pull: PullConfig = PullConfig()
    models: Mapping[str, ModelSettings] = {}

    @model_validator(mode="after")
    def _model_keys_are_names(self) -> "Config":
        seen: dict[str, str] = {}
        for key in self.models:
            model = self._model_key(key)
            if model.count("/") != 2:  # noqa: PLR2004 - HOST/ORG/REPO
                raise ValueError(f"models: {key!r} is not HOST/ORG/REPO, such as hf.co/org/repo")
            if model in seen:
                raise ValueError(f"models: {key!r} and {seen[model]!r} are the same model; case and tag do not count")
            seen[model] = key
        return self

    def _model_key(self, name: str) -> str:
        """The part of a name that decides about settings: no scheme, no tag, no case, one host for the Hub."""
        host, _, repository = name.lower().rpartition("://")[2].partition("/")
        return f"{'hub' if host in self.hub.hosts else host}/{repository.partition(':')[0]}"

    def settings_for(self, name: str) -> ModelSettings:
        wanted = self._model_key(name)
        return next((found for key, found in self.models.items() if self._model_key(key) == wanted), NO_SETTINGS)


def load(
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, str | None] | None = None,
) -> Config:
    """Merge file, environment and flags in rising precedence and check the result.

    `flags` maps a flag of `FLAGS` to its value; None is a flag that was not given.
    Raises ConfigError, which names the key and the place where it was set.
    """
    values = _read_file(file) if file else {}
    origins: dict[tuple[str, ...], str] = {}
    for section, key, value, origin in [*_from_environment(environment), *_from_flags(flags or {})]:
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
            origins[section, key] = origin
            origins.setdefault((section,), origin)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, file, origins))) from error


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


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for variable, (section, key) in ECOSYSTEM_VARIABLES.items():
        if value := environment.get(variable):
            yield section, key, value, variable
    for variable, value in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX):
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            yield section, key, value, variable


def _from_flags(flags: Mapping[str, str | None]) -> Iterator[tuple[str, str, str, str]]:
    for flag, value in flags.items():
        if value is not None:
            yield *FLAGS[flag], value, flag


def _explain(error: ValidationError, file: Path | None, origins: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    for problem in error.errors():
        where = tuple(str(part) for part in problem["loc"])
        origin = origins.get(where[:2]) or (str(file) if file else "")
        text = "is not a key" if problem["type"] == "extra_forbidden" else problem["msg"]
        yield ": ".join(part for part in (origin, ".".join(where), text.removeprefix("Value error, ")) if part)
