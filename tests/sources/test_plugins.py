"""Sources as plugins: found by entry point, configured by their own table, chosen by host."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.config.loading import check
from proxy.errors import ConfigError
from proxy.pull.reference import parse
from proxy.sources import plugins
from proxy.sources.base import Source, SourcePlugin, SourceSettings
from proxy.sources.folder import Folder
from proxy.sources.huggingface import HuggingFace
from proxy.sources.modelscope import ModelScope
from proxy.sources.plugins import GROUP, build_sources
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, own_entry_points, settings

MODULE = "attic_shelf"
PLUGIN = '''
"""As described in proxy/sources/base.py."""

import msgspec
from proxy.sources.base import SourceSettings

class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    depth: int = 1

class Shelf:
    @classmethod
    def from_settings(cls, settings: SourceSettings) -> "Shelf":
        own = settings.read(Settings)
        if not own.url.startswith("https://"):
            raise settings.error("url", "must begin with https://")
        return cls(own.url, settings.hosts)

    def __init__(self, url, hosts):
        self.url = url
        self.hosts = hosts

class Bare:
    pass
'''

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Adds a package with entry points to the built-in ones."""
    (tmp_path / f"{MODULE}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)

    def add(**points: str) -> None:
        more = [EntryPoint(name, value, GROUP) for name, value in points.items()]
        everything = EntryPoints([*own_entry_points(), *more])
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: everything.select(group=group))

    yield add
    sys.modules.pop(MODULE, None)


def built(**tables: Any) -> list[Source]:
    return build_sources(check({"sources": tables}))


def test_a_plugin_is_imported_only_if_a_table_needs_it(install: Install) -> None:
    install(shelf=f"{MODULE}:Shelf")
    built()
    assert MODULE not in sys.modules
    _, attic, cellar, _ = built(
        attic={"type": "shelf", "url": "https://attic"},
        shelf={"hosts": ["Cellar.example", "cellar"], "url": "https://cellar"},
    )
    assert (type(attic).__name__, attic.url, attic.hosts) == ("Shelf", "https://attic", ("attic",))  # type: ignore[attr-defined]
    assert cellar.hosts == ("cellar.example", "cellar")


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        (
            "attic",
            {"type": "none"},
            "sources.attic.type: no plugin 'none' .* there are: bare, broken, folder, huggingface, modelscope, shelf",
        ),
        ("attic", {}, "sources.attic.type: no plugin 'attic' is installed"),
        ("attic", {"type": "broken"}, "sources.attic.type: the plugin 'broken' .* cannot be imported: No module named"),
        ("attic", {"type": "bare"}, "sources.attic.type: the plugin 'bare' .* has no from_settings"),
        ("attic", {"type": "shelf"}, "sources.attic.url: must be set"),
        ("attic", {"type": "shelf", "url": 1}, "sources.attic.url: Expected `str`"),
        ("attic", {"type": "shelf", "url": "https://a", "dept": 1}, "sources.attic.dept: is not a key"),
        ("attic", {"type": "shelf", "url": "http://a"}, "sources.attic.url: must begin with https://"),
        ("attic", {"type": 1}, "sources.attic.type: Expected `str"),
        ("attic", {"type": "shelf", "hosts": "x"}, "sources.attic.hosts: Expected `array"),
        ("attic", {"type": "shelf", "hosts": []}, "sources.attic.hosts: must name at least one host"),
        ("attic", {"type": "shelf", "hosts": ["a/b"]}, "sources.attic.hosts: 'a/b' cannot be the first part of a name"),
        ("my attic", {"type": "shelf"}, "sources.my attic.hosts: 'my attic' cannot be the first part"),
        ("attic", {"type": "shelf", "hosts": ["x", "X"]}, r"hosts: 'x' already belongs to \[sources.attic\]"),
        ("attic", {"type": "shelf", "hosts": ["HF.co"]}, r"sources.attic.hosts: 'hf.co' already belongs to \[hub\]"),
        ("attic", {"type": "folder", "path": "models"}, "sources.attic.path: must begin with / or ~"),
        ("attic", {"type": "folder", "path": "/no/where"}, "sources.attic.path: '/no/where' is not a folder"),
        ("attic", {"type": "folder"}, "sources.attic.path: must be set"),
        ("attic", {"type": "huggingface", "endpoint": "hub"}, "sources.attic.endpoint: must be a URL"),
        ("attic", {"type": "huggingface", "tokn": "x"}, "sources.attic.tokn: is not a key"),
        ("modelscope", {"endpoint": "modelscope.cn"}, "sources.modelscope.endpoint: must be a URL"),
        ("modelscope", {"url": "x"}, "sources.modelscope.url: is not a key"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(install: Install, name: str, table: dict[str, Any], message: str) -> None:
    install(shelf=f"{MODULE}:Shelf", broken="no_such_module:X", bare=f"{MODULE}:Bare")
    with pytest.raises(ConfigError, match=message):
        built(**{name: table})


def test_two_sources_cannot_claim_one_host(install: Install) -> None:
    install(shelf=f"{MODULE}:Shelf")
    table = {"type": "shelf", "url": "https://a", "hosts": ["here"]}
    with pytest.raises(ConfigError, match=r"sources.two.hosts: 'here' already belongs to \[sources.one\]"):
        built(one=table, two=table)


def test_two_plugins_of_one_name_are_an_error(install: Install) -> None:
    install(folder=f"{MODULE}:Shelf")
    with pytest.raises(
        ConfigError, match="two plugins have the name 'folder': attic_shelf:Shelf and proxy.sources.folder"
    ):
        built(home={"type": "folder"})


def test_the_built_in_sources_are_plugins_themselves(tmp_path: Path) -> None:
    hub, home, second, modelscope = build_sources(
        check(
            {
                "hub": {"endpoint": "https://mirror.example"},
                "sources": {
                    "home": {"type": "folder", "path": str(tmp_path)},
                    "corp": {"type": "huggingface", "endpoint": "https://hub.corp/", "hosts": ["hub.corp"]},
                },
            }
        ),
        4096,
    )
    assert isinstance(hub, HuggingFace)
    assert isinstance(home, Folder)
    assert isinstance(second, HuggingFace)
    assert (hub.endpoint, second.endpoint) == ("https://mirror.example", "https://hub.corp")
    assert second.hosts == ("hub.corp",)
    assert isinstance(modelscope, ModelScope)


def test_modelscope_needs_no_table(install: Install) -> None:
    """A table only changes its settings."""
    install()
    [_, plain] = built()
    [_, with_table] = built(modelscope={"token": "ms_mine"})
    [_, elsewhere] = built(modelscope={"hosts": ["ms"]})
    assert isinstance(plain, ModelScope)
    assert isinstance(with_table, ModelScope)
    assert plain.hosts == with_table.hosts == ("modelscope.cn", "www.modelscope.cn")
    assert elsewhere.hosts == ("ms",)


def test_a_table_can_use_modelscopes_hosts(tmp_path: Path) -> None:
    table = {"type": "folder", "path": str(tmp_path), "hosts": ["modelscope.cn"]}
    assert [source.hosts for source in built(home=table)[1:]] == [("modelscope.cn",), ("www.modelscope.cn",)]
    table["hosts"] = ["modelscope.cn", "www.modelscope.cn"]
    assert len(built(home=table)) == 2


@pytest.mark.parametrize(
    "host", ["home", "hub.corp.example:8443", "_x", "0", "a-b.c", "-x", ".x", "ä", "", "a" * 351, "a b"]
)
def test_a_host_is_what_a_name_can_begin_with(host: str) -> None:
    reference = parse(f"{host}/org/repo")
    assert (plugins.HOST.fullmatch(host) is not None) is (reference is not None and reference.host == host)


def test_nothing_has_to_be_inherited(tmp_path: Path) -> None:
    """Mypy accepts a source that inherits nothing."""
    plugin: SourcePlugin = Folder
    source: Source = plugin.from_settings(SourceSettings("home", ("home",), {"path": str(tmp_path)}))
    assert Source not in type(source).__mro__


async def test_a_second_hub_is_pulled_from_with_its_own_token(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    async with StandInHub() as other:
        other.token = "hf_other"
        other.add("acme/tiny", tiny_llama(), private=True)
        tables = {"corp": {"type": "huggingface", "endpoint": other.endpoint, "token": "hf_other"}}
        async with App(settings(hub.endpoint, ollama.url, hub={"token": "hf_first"}, sources=tables)) as app:
            lines = await Client(app.address.url, session).pull("corp/acme/tiny")
        assert lines[-1] == {"status": "success"}
        assert not hub.requests
        assert not [request for request in other.requests if "hf_first" in request.headers.get("Authorization", "")]


async def test_a_table_that_cannot_be_used_ends_the_start(ollama: StandInOllama) -> None:
    with pytest.raises(ConfigError, match="sources.attic.type: no plugin 'attic'"):
        async with App(settings("http://127.0.0.1:9", ollama.url, sources={"attic": {}})):
            pass
