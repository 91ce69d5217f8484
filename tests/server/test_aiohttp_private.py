"""The undocumented parts of aiohttp that the server uses: a release without one of them fails here, by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.server import aiohttp_private
from proxy.server.aiohttp_private import PRIVATE_NAMES, HookedConnection, HookedServer
from tests.test_packaging import required

DOCUMENTED = {"aiohttp", "aiohttp.abc", "aiohttp.hdrs", "aiohttp.typedefs", "aiohttp.web"}
USED = [(owner, name) for owner, names in PRIVATE_NAMES.items() for name in names]


async def handler(_: web.BaseRequest) -> web.Response:
    return web.Response()


@pytest.mark.parametrize(("owner", "name"), USED, ids=[f"{owner.__name__}.{name}" for owner, name in USED])
async def test_aiohttp_has_the_private_name(owner: type, name: str) -> None:
    instance = HookedServer(handler, HookedConnection) if owner is web.Server else None
    assert hasattr(owner, name) or hasattr(instance, name), (
        f"aiohttp {aiohttp.__version__} has no {owner.__name__}.{name}: change proxy/server/aiohttp_private.py before "
        "pyproject.toml allows this release"
    )


async def test_aiohttp_accepts_the_hooks_of_the_server() -> None:
    """A wrong option makes aiohttp create a connection of its own class, with a warning in the log."""
    server = HookedServer(handler, HookedConnection, lingering_time=0.5)
    assert isinstance(server(), HookedConnection)
    assert server.request_factory == server.build_request


def test_aiohttp_has_an_upper_bound() -> None:
    [requirement] = [one for one in required() if one.name == "aiohttp"]
    assert requirement.specifier.contains(aiohttp.__version__)
    assert any(specifier.operator == "<" for specifier in requirement.specifier)


def private_uses(path: Path) -> Iterator[str]:
    """The undocumented modules and names of aiohttp that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiohttp":
            if node.module not in DOCUMENTED:
                yield str(node.module)
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))


def test_only_one_module_imports_private_parts_of_aiohttp() -> None:
    module = Path(aiohttp_private.__file__)
    users = [path for path in module.parents[1].rglob("*.py") if list(private_uses(path))]
    assert users == [module]
