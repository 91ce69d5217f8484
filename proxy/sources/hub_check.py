"""For `doctor`: whether the Hub and its mirrors answer, and whether the Hub accepts the token."""

from http import HTTPStatus

import aiohttp
from yarl import URL

from proxy.config.sections import HubConfig
from proxy.errors import SourceError
from proxy.network_errors import reason_of, translate_failures
from proxy.sources.http_file import bearer, proxy_for, source_session
from proxy.sources.hub_files import PUBLIC_ENDPOINT
from proxy.sources.threads import in_daemon_thread

SECONDS = 12.0


async def check_endpoint(hub: HubConfig) -> str:
    """The finding as a sentence. Raises SourceError, which says what to do."""
    token = hub.token or (await in_daemon_thread(_token_of_login) if hub.endpoint == PUBLIC_ENDPOINT else "")
    if not token:
        await _reach(hub.endpoint, "/api/models?limit=1", "")
        return f"{hub.endpoint} answers; gated and private repositories need a token (set HF_TOKEN)"
    status = await _reach(hub.endpoint, "/api/whoami-v2", token)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise SourceError(f"{hub.endpoint} rejects the token; create a new one at {hub.endpoint}/settings/tokens")
    if status != HTTPStatus.OK:
        return f"{hub.endpoint} answers, but does not say whether the token is valid ({status})"
    return f"{hub.endpoint} answers and accepts the token"


async def check_mirror(url: str) -> str:
    """As `check_endpoint`, but without the token, which mirrors never get."""
    await _reach(url, "/", "")
    return f"the mirror {url} answers"


def _token_of_login() -> str:
    from huggingface_hub import get_token

    return get_token() or ""


async def _reach(endpoint: str, path: str, token: str) -> int:
    url = URL(f"{endpoint}{path}")
    timeout = aiohttp.ClientTimeout(total=SECONDS)

    def unreachable(error: Exception) -> SourceError:
        return SourceError(
            f"{endpoint} cannot be reached ({reason_of(error)}); check the network and HTTPS_PROXY, or set "
            "hub.endpoint or hub.mirrors to a mirror that you can reach"
        )

    with translate_failures(unreachable):
        async with (
            source_session() as session,
            session.get(
                url, headers=bearer(token), timeout=timeout, proxy=proxy_for(url), allow_redirects=False
            ) as response,
        ):
            status = response.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise SourceError(f"{endpoint} answers with {status}; try again later, or set hub.mirrors")
    return status
