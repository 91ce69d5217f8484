"""`reclaim`, and the checks of `doctor` that need a proxy: they use the running proxy, or start one for the moment."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
import orjson
from msgspec.structs import replace

from proxy.app import App
from proxy.config.sections import Config
from proxy.errors import ProxyError
from proxy.network_errors import reason_of
from proxy.store.journal import Locked


class _Call(NamedTuple):
    """A request to the running proxy."""

    method: str
    path: str
    body: Mapping[str, bool] | None = None


async def reclaim(config: Config, *, dry_run: bool) -> dict[str, Any]:
    """Remove files that pulls have left and no model needs. Returns the response of `/-/reclaim`."""

    async def sweep(app: App) -> dict[str, Any]:
        return (await app.reclaim.sweep(dry_run=dry_run)).to_json()

    answer: dict[str, Any] = await _with_proxy(config, sweep, _Call("POST", "/-/reclaim", {"dry_run": dry_run}))
    return answer


async def check_reached(config: Config) -> None:
    """Raises ProxyError if Ollama cannot pull a manifest from the proxy."""

    async def check(app: App) -> dict[str, Any]:
        await app.reclaim.check_reached()
        return {}

    await _with_proxy(config, check, _Call("POST", "/-/reclaim", {"probe": True}))


async def outdated(config: Config) -> dict[str, str]:
    """The models that the next pull of their name rebuilds, and the reasons. Raises ProxyError."""

    async def models(app: App) -> list[dict[str, Any]]:
        return await app.models.all(ask=False)

    rows = await _with_proxy(config, models, _Call("GET", "/-/models?ask=no"))
    return {row["name"]: row["outdated"] for row in rows if row["outdated"]}


async def _with_proxy(config: Config, work: Callable[[App], Awaitable[Any]], call: _Call) -> Any:
    """Do `work` in a proxy of this process. If another proxy already serves this Ollama, send it `call` instead."""
    if not config.ollama.advertise_url:
        # Only Ollama connects to this proxy, and it learns the port from the manifest's name.
        config = replace(config, server=replace(config.server, listen=f"{config.server.address.host}:0"))
    try:
        async with App(config) as app:
            return await work(app)
    except Locked as locked:
        if not locked.url:
            raise
        return await _send(call, locked.url, config.server.api_keys)


async def _send(call: _Call, url: str, keys: Sequence[str]) -> Any:
    headers = {"Content-Type": "application/json"}
    if keys:
        headers["Authorization"] = f"Bearer {keys[0]}"
    body = call.body and orjson.dumps(call.body)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.request(call.method, url + call.path, data=body, headers=headers) as response,
        ):
            answer = orjson.loads(await response.read())
    except aiohttp.ClientError as error:
        raise ProxyError(f"the running proxy at {url} does not answer ({reason_of(error)}); see its log") from error
    if "error" in answer:
        raise ProxyError(str(answer["error"]))
    return answer
