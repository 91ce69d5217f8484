"""Network failures in the few words that a person needs."""

import os

import aiohttp


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
