"""Makes the sources: the Hub from `[hub]`, a plugin for each `[sources.NAME]`, and ModelScope, which needs no table."""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from proxy.config.loading import convert
from proxy.config.sections import Config, host_and_repository
from proxy.errors import ConfigError
from proxy.network_errors import reason_of
from proxy.sources.base import Source, SourcePlugin, SourceSettings
from proxy.sources.huggingface import HuggingFace
from proxy.sources.modelscope import HOSTS as MODELSCOPE_HOSTS
from proxy.sources.modelscope import NAME as MODELSCOPE
from proxy.sources.modelscope import ModelScope

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "ollama_hf_proxy.sources"
# The host of a model name in Ollama's grammar, in lower case: proxy/names.py.
HOST = re.compile(r"[a-z0-9_][a-z0-9_.:-]{0,349}")


class _Table(msgspec.Struct, frozen=True):
    """The proxy's own keys in `[sources.NAME]`; the others belong to the plugin."""

    type: str | None = None
    hosts: tuple[str, ...] | None = None


def build_sources(config: Config, receive_buffer: int | None = None) -> list[Source]:
    """All sources, the Hub first. ModelScope is added last, for its hosts that no table uses.

    `receive_buffer`: as in SourceSettings. Raises ConfigError for a missing plugin, for settings that a plugin does not
    accept, for a host that two sources use, and for a `name` in `[models]` that no source serves.
    """
    hub = config.hub
    sources: list[Source] = [
        HuggingFace(hub.endpoint, hub.token, hub.hosts, mirrors=hub.mirrors, receive_buffer=receive_buffer)
    ]
    table_of_host = dict.fromkeys(hub.hosts, "[hub]")
    for name, table in config.sources.items():
        settings, plugin_name = _settings(name, table, receive_buffer)
        for host in settings.hosts:
            if host in table_of_host:
                raise settings.error("hosts", f"{host!r} already belongs to {table_of_host[host]}")
            table_of_host[host] = f"[sources.{name}]"
        sources.append(_plugin(settings, plugin_name).from_settings(settings))
    if MODELSCOPE not in config.sources and (
        hosts := tuple(host for host in MODELSCOPE_HOSTS if host not in table_of_host)
    ):
        sources.append(ModelScope(hosts=hosts, receive_buffer=receive_buffer))
    _check_short_names(config, {host for source in sources for host in source.hosts})
    return sources


def _check_short_names(config: Config, hosts: Collection[str]) -> None:
    for key, settings in config.models.items():
        for name in (settings.name, key) if settings.name is not None else ():
            if host_and_repository(name)[0].lower() not in hosts:
                raise ConfigError(
                    f'models."{key}".name: no source has the host of {name!r}; the hosts are {", ".join(sorted(hosts))}'
                )


def _settings(name: str, values: Mapping[str, Any], receive_buffer: int | None) -> tuple[SourceSettings, str]:
    table = convert(values, _Table, f"sources.{name}")
    default_hosts = MODELSCOPE_HOSTS if name == MODELSCOPE else (name,)
    hosts = tuple(host.lower() for host in (table.hosts if table.hosts is not None else default_hosts))
    plugin_values = {key: value for key, value in values.items() if key not in _Table.__struct_fields__}
    settings = SourceSettings(name, hosts, plugin_values, receive_buffer)
    for host in hosts:
        if not HOST.fullmatch(host):
            raise settings.error("hosts", f"{host!r} cannot be the first part of a name such as home/ORG/REPO")
    if not hosts:
        raise settings.error("hosts", "must name at least one host: names of models begin with it")
    return settings, table.type if table.type is not None else name


def _plugin(settings: SourceSettings, plugin_name: str) -> SourcePlugin:
    from importlib.metadata import entry_points

    points = entry_points(group=GROUP)
    installed = {point.value: point for point in points if point.name == plugin_name}
    if not installed:
        names = ", ".join(sorted({point.name for point in points})) or "none"
        raise settings.error("type", f"no plugin {plugin_name!r} is installed; there are: {names}")
    if len(installed) > 1:
        raise settings.error("type", f"two plugins have the name {plugin_name!r}: {' and '.join(sorted(installed))}")
    return _load(settings, *installed.values())


def _load(settings: SourceSettings, point: "EntryPoint") -> SourcePlugin:
    where = f"the plugin {point.name!r} ({point.value})"
    try:
        plugin: SourcePlugin = point.load()
    except Exception as error:
        # A foreign module may raise anything; the error has to name the module.
        raise settings.error("type", f"{where} cannot be imported: {reason_of(error)}") from error
    if not hasattr(plugin, "from_settings"):
        raise settings.error(
            "type", f"{where} has no from_settings; proxy/sources/base.py describes what a source needs"
        )
    return plugin
