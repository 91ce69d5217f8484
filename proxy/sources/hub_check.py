"""Whether a Hub answers, and takes the token."""

from http import HTTPStatus

import aiohttp
from yarl import URL

from proxy.config import HubConfig
from proxy.errors import SourceError
from proxy.network_errors import reason_of
from proxy.sources.http_file import bearer, proxy_for, source_session
from proxy.sources.hub_files import PUBLIC_ENDPOINT
from proxy.sources.threads import in_daemon_thread

SECONDS = 12.0


async def check_endpoint(hub: HubConfig) -> str:
    """What there is to tell of it. Raises SourceError with the mend."""
    token = hub.token or (await in_daemon_thread(_token_of_login) if hub.endpoint == PUBLIC_ENDPOINT else "")
    if not token:
        await _reach(hub.endpoint, "/api/models?limit=1", "")
        return f"{hub.endpoint} answers; without a token it gives nothing that is gated or private (set HF_TOKEN)"
    status = await _reach(hub.endpoint, "/api/whoami-v2", token)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise SourceError(f"{hub.endpoint} does not take the token; make one at {hub.endpoint}/settings/tokens")
    if status != HTTPStatus.OK:
        return f"{hub.endpoint} answers; whether it takes the token, it does not tell ({status})"
    return f"{hub.endpoint} answers, and takes the token"


async def check_mirror(url: str) -> str:
    """As `check_endpoint`; mirrors get no token."""
    await _reach(url, "/", "")
    return f"{url}, a mirror, answers"


def _token_of_login() -> str:
    from huggingface_hub import get_token

    return get_token() or ""


async def _reach(endpoint: str, path: str, token: str) -> int:
    url = URL(f"{endpoint}{path}")
    limit = aiohttp.ClientTimeout(total=SECONDS)
    try:
        async with (
            source_session() as session,
            session.get(
                url, headers=bearer(token), timeout=limit, proxy=proxy_for(url), allow_redirects=False
            ) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SourceError(
            f"{endpoint} cannot be reached ({reason_of(error)}); look at the network and at HTTPS_PROXY, or set "
            "hub.endpoint or hub.mirrors to a mirror that you can reach"
        ) from error
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise SourceError(f"{endpoint} answers with {status}; try again later, or set hub.mirrors")
    return status
