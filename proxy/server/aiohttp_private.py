"""The only module that uses undocumented parts of aiohttp; pyproject.toml bounds aiohttp above because of it.

`PRIVATE_NAMES` lists these parts, and `tests/server/test_aiohttp_private.py` checks the installed aiohttp for them.
Run that test with a new release of aiohttp before you raise the bound.
"""

from asyncio import Task
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo
from yarl import URL

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
RequestHead = RawRequestMessage

PRIVATE_NAMES: Mapping[type, Sequence[str]] = {
    RawRequestMessage: ("path", "url", "_replace"),
    _ErrInfo: ("message",),
    web.Server: ("_loop", "_kwargs"),
    web.RequestHandler: ("_current_request", "_messages", "_lingering_time", "handle_error"),
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
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)


class HookedConnection(web.RequestHandler):
    """A connection of `HookedServer` that can see the request in progress and the error behind it.

    aiohttp 3.14 puts a parse error into the queue of later requests, even if the body of the request in progress caused
    it. The handler that reads this body would then wait for ever.
    """

    __slots__ = ()

    @property
    def request_in_progress(self) -> web.BaseRequest | None:
        return self._current_request

    def take_parse_error(self) -> str | None:
        """Remove the parse error from the queue and return its text. The connection then closes without a delay."""
        last = self._messages[-1][0] if self._messages else None
        if not isinstance(last, _ErrInfo):
            return None
        self._messages.clear()
        self._lingering_time = 0
        return last.message


def target_of(message: RequestHead) -> str:
    """The request target. aiohttp 3.14 has None here for a CONNECT without a target."""
    return message.path or ""


def with_target(message: RequestHead, target: str) -> RequestHead:
    if not target:
        return message._replace(path="", url=URL())
    path, _, query = target.partition("?")
    return message._replace(path=target, url=URL.build(path=path, query_string=query, encoded=True))
