"""What only a proxy can do or knows, from the command line: the one that runs is asked, else one for the moment."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import aiohttp
import orjson
from msgspec.structs import replace

from proxy.app import App
from proxy.config import Config
from proxy.errors import ProxyError
from proxy.network_errors import reason_of
from proxy.store.journal import Locked


async def reclaim(config: Config, *, dry_run: bool) -> dict[str, Any]:
    """Remove what pulls left behind; the answer of `/-/reclaim`."""

    async def sweep(app: App) -> dict[str, Any]:
        return (await app.reclaim.sweep(dry_run=dry_run)).to_json()

    answer: dict[str, Any] = await _by_a_proxy(config, sweep, ("POST", "/-/reclaim", {"dry_run": dry_run}))
    return answer


async def check_reached(config: Config) -> None:
    """Raises ProxyError where Ollama gets no manifest from the proxy."""

    async def check(app: App) -> dict[str, Any]:
        await app.reclaim.check_reached()
        return {}

    await _by_a_proxy(config, check, ("POST", "/-/reclaim", {"probe": True}))


async def outdated(config: Config) -> dict[str, str]:
    """The models that the next pull of their name makes anew, and why. Raises ProxyError."""

    async def models(app: App) -> list[dict[str, Any]]:
        return await app.models.all(ask=False)

    found = await _by_a_proxy(config, models, ("GET", "/-/models?ask=no", None))
    return {model["name"]: model["outdated"] for model in found if model["outdated"]}


async def _by_a_proxy(
    config: Config, here: Callable[[App], Awaitable[Any]], asked: tuple[str, str, Mapping[str, bool] | None]
) -> Any:
    """`asked` is how a running proxy is: method, path and body."""
    if not config.ollama.advertise_url:
        # Only Ollama has to find it, and is told where.
        config = replace(config, server=replace(config.server, listen=f"{config.server.address.host}:0"))
    try:
        async with App(config) as app:
            return await here(app)
    except Locked as locked:
        if not locked.url:
            raise
        return await _ask(locked.url, config.server.api_keys, *asked)


async def _ask(url: str, keys: Sequence[str], method: str, path: str, body: Mapping[str, bool] | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if keys:
        headers["Authorization"] = f"Bearer {keys[0]}"
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url + path, data=body and orjson.dumps(body), headers=headers) as response,
        ):
            answer = orjson.loads(await response.read())
    except aiohttp.ClientError as error:
        raise ProxyError(f"the running proxy at {url} does not answer ({reason_of(error)}); see its log") from error
    if "error" in answer:
        raise ProxyError(str(answer["error"]))
    return answer
