"""Network failures: what they mean in a few words, and one place that turns them into the proxy's own errors."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp

NETWORK_FAILURES = (aiohttp.ClientError, OSError)
"""TimeoutError is an OSError. A disk that fails is one too."""


@contextmanager
def translate_failures(
    translate: Callable[[Exception], Exception], failures: tuple[type[Exception], ...] = NETWORK_FAILURES
) -> Iterator[None]:
    """Raises what `translate` makes of one of the `failures` inside the block; the failure becomes its cause."""
    try:
        yield
    except failures as error:
        raise translate(error) from error


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: a server was reached, but broke off; or something took too long."""
    match error:
        case TimeoutError():
            return True
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
            return False
        case _:
            return isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | ConnectionError)


def reason_of(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"no address is known for {error.host}"
        case aiohttp.ClientPayloadError():
            return "the connection broke in the middle of the answer"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case aiohttp.ClientOSError() if error.__cause__ is not None:
            return reason_of(error.__cause__)
        case TimeoutError():
            return "no answer in time"
        case _:
            return str(error) or type(error).__name__
