"""Reads the configuration: a TOML file, the environment and flags."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from proxy.config.sections import Config, ModelSettings
from proxy.errors import ConfigError

ENVIRONMENT_PREFIX = "OLLAMA_HF_PROXY_"
ECOSYSTEM_VARIABLES = {"HF_ENDPOINT": ("hub", "endpoint"), "HF_TOKEN": ("hub", "token")}
FLAGS = {"--listen": ("server", "listen"), "--ollama": ("ollama", "url"), "--hub": ("hub", "endpoint")}
REMOVED_KEYS = {"pull.converter": "was removed: the proxy converts every model itself; delete the key"}

T = TypeVar("T")


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
