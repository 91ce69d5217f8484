"""Explains the refusals of the Hub and its mirrors to the user."""

from http import HTTPStatus

import httpx2
from huggingface_hub import errors

from proxy.errors import Interrupted, ProxyError, Refusal, SourceError
from proxy.network_errors import reason_of
from proxy.sources.http_file import interruption_of
from proxy.sources.hub_files import PUBLIC_ENDPOINT

INVALID_CREDENTIALS = "Invalid credentials"
SET_TOKEN = "set HF_TOKEN for the proxy (not for the client) and restart it"  # noqa: S105 - a text


def explain(error: Exception, endpoint: str, repository: str, revision: str | None, *, with_token: bool) -> ProxyError:
    """The error to raise for `error`, which a metadata call has raised. `with_token`: whether the proxy sent one."""
    where = f"{repository} at {endpoint}"
    match error:
        case ProxyError():
            return error
        case errors.GatedRepoError():
            return gated(endpoint, repository, with_token=with_token)
        case errors.DisabledRepoError():
            return Refusal(f"{where} has been disabled by the Hub; look for another repository of the model")
        case errors.RevisionNotFoundError():
            return Refusal(f"{where} has no revision {revision!r}; check the spelling, or use a whole commit")
        case errors.HFValidationError():
            return Refusal(f"{repository} cannot be a repository's name on the Hub; check the spelling: {error}")
        case errors.HfHubHTTPError():
            return _explain_status(error, endpoint, repository, revision, with_token=with_token)
        case httpx2.TimeoutException() | httpx2.ReadError() | httpx2.WriteError() | httpx2.RemoteProtocolError():
            return Interrupted(f"{where}: the connection failed ({reason_of(error)})")
        case ValueError() | LookupError() | TypeError() | AttributeError():
            return SourceError(
                f"{endpoint} does not answer as the Hub does to a request for {repository} ({reason_of(error)}); check "
                "hub.endpoint in the configuration"
            )
        case _:
            return SourceError(
                f"{endpoint} cannot be reached ({reason_of(error)}); check the network, or hub.endpoint in the "
                "configuration"
            )


def gated(endpoint: str, repository: str, *, with_token: bool) -> Refusal:
    where = f"{repository} at {endpoint} is gated"
    ask = f"ask for access at {endpoint}/{repository}"
    if endpoint != PUBLIC_ENDPOINT:
        ask += f" (if that is a mirror: at {PUBLIC_ENDPOINT}/{repository})"
    if with_token:
        return Refusal(
            f"{where} and the proxy's token has no access to it; {ask} with the account that the token belongs to"
        )
    return Refusal(f"{where}; {ask}, then {_set_token(endpoint)}")


def _explain_status(
    error: errors.HfHubHTTPError, endpoint: str, repository: str, revision: str | None, *, with_token: bool
) -> ProxyError:
    where = f"{repository} at {endpoint}"
    status = error.response.status_code
    if status == HTTPStatus.UNAUTHORIZED and with_token:
        # With a valid token the Hub answers 404. olah answers 401 in both cases.
        if endpoint == PUBLIC_ENDPOINT or INVALID_CREDENTIALS in error.response.headers.get("X-Error-Message", ""):
            return Refusal(
                f"{endpoint} does not know the proxy's token, which may have expired; give the proxy a new one "
                "(HF_TOKEN, hub.token or `hf auth login`), or none if all repositories are public, and restart it"
            )
        return Refusal(
            f"there is no repository {where}, or the proxy's token is not valid there; check the spelling, and that "
            "the token may read it"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
        hint = "give the proxy a token that may read it" if with_token else _set_token(endpoint)
        with_revision = f" with the revision {revision!r}" if revision else ""
        return Refusal(f"there is no repository {where}{with_revision}; check the spelling; if it is private, {hint}")
    if status == HTTPStatus.FORBIDDEN:
        hint = "check what the proxy's token may read" if with_token else _set_token(endpoint)
        return Refusal(f"{where} may not be read: it answered {_first_line(error)}; {hint}")
    answered = f"{where}: it answered {_first_line(error)}"
    interruption = interruption_of(answered, status, error.response.headers)
    return interruption or SourceError(f"{answered}; the repository cannot be read: pull again later")


def _set_token(endpoint: str) -> str:
    if endpoint == PUBLIC_ENDPOINT:
        return SET_TOKEN
    return f"{SET_TOKEN} (the token of `hf auth login` goes to {PUBLIC_ENDPOINT} only)"


def _first_line(error: errors.HfHubHTTPError) -> str:
    response = error.response
    message = error.server_message or response.reason_phrase
    return f"{response.status_code} {message}".partition("\n")[0]
