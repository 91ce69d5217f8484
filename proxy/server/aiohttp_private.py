"""The only module that uses undocumented parts of aiohttp; pyproject.toml bounds aiohttp above because of it.

`PRIVATE_NAMES` lists these parts, and `tests/server/test_aiohttp_private.py` checks the installed aiohttp for them.
Run that test with a new release of aiohttp before you raise the bound.
"""

from asyncio import Task
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import EMPTY_PAYLOAD, StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo
from yarl import URL

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
RequestHead = RawRequestMessage
Message = tuple[RawRequestMessage | _ErrInfo, StreamReader]

PRIVATE_NAMES: Mapping[type, Sequence[str]] = {
    RawRequestMessage: ("path", "url", "_replace"),
    _ErrInfo: ("exc",),
    web.BaseRequest: ("_prepare_hook",),
    web.Server: ("_loop", "_kwargs"),
    web.RequestHandler: ("_loop", "_messages", "_parser", "_request_count", "_waiter", "handle_error", "log_exception"),
}
"""What this module uses of each class of aiohttp."""


class HookedServer(web.Server):
    """A `web.Server` whose subclass chooses the class of its connections and builds its requests.

    aiohttp documents neither hook. `request_factory` exists for frameworks on top of `web.Server`.
    """

    def __init__(self, handler: Handler, connection_class: type["HookedConnection"], **options: Any) -> None:
        super().__init__(handler, request_factory=self.build_request, **options)
        self._connection_class = connection_class

    def __call__(self) -> web.RequestHandler:
        return self._connection_class(self, loop=self._loop, **self._kwargs)

    def build_request(
        self,
        message: RequestHead,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "Task[None]",
    ) -> web.BaseRequest:
        return Request(message, payload, protocol, writer, task, self._loop)


class HookedConnection(web.RequestHandler):
    """A connection of `HookedServer` with another parser. It can see whether a request waits or is in progress."""

    __slots__ = ()

    def use_parser(self, parser: Any) -> None:
        """`parser` has the methods of aiohttp's HttpRequestParser that a server calls."""
        self._parser = parser

    @property
    def has_queued_requests(self) -> bool:
        return bool(self._messages)

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or is in progress."""
        return not self._messages and (self._request_count == 0 or self._waiter is not None)


class Request(web.BaseRequest):
    """A request whose answers by aiohttp do not name Python's and aiohttp's versions, as Go's do not name Go's."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop(hdrs.SERVER, None)


def refusal_message(error: Exception) -> Message:
    """A message for aiohttp's queue of requests: in its turn, `handle_error` answers it, with `error` as `exc`."""
    return _ErrInfo(HTTPStatus.BAD_REQUEST, error, ""), EMPTY_PAYLOAD


def with_target(message: RequestHead, target: str) -> RequestHead:
    path, _, query = target.partition("?")
    return message._replace(path=target, url=URL.build(path=path, query_string=query, encoded=True))
