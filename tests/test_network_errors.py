"""Network failures in words."""

import errno
import socket

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from proxy.network_errors import reason_of

KEY = ConnectionKey("no.example", 80, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(errno.ECONNREFUSED, "x")), "Connection refused"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "x")), "no address is known for no.example"),
        (aiohttp.ClientPayloadError("noise"), "the connection broke in the middle of the answer"),
        (aiohttp.ServerTimeoutError(), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_failure_is_told_in_the_few_words_that_a_person_needs(error: Exception, text: str) -> None:
    assert reason_of(error) == text
