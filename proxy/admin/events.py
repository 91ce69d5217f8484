"""`/-/events`: all pulls as they are now, for a page that is open, as Server-Sent Events."""

import asyncio
import time
from collections.abc import Iterator, Mapping

import orjson
from aiohttp import hdrs, web

from proxy.pull.jobs import Jobs

PAUSE_SECONDS = 0.25
SILENCE_SECONDS = 15.0
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep it back
}


async def stream_pulls(request: web.BaseRequest, jobs: Jobs, headers: Mapping[str, str]) -> web.StreamResponse:
    """`running` and `ended`, each whole whenever it has changed: who reads slowly misses what was in between."""
    response = web.StreamResponse(headers={**HEADERS, **headers})
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    sent: dict[str, bytes] = {}
    spoke = time.monotonic()
    await response.write(b"retry: 1000\n\n")
    while not jobs.closing:
        news = {name: data for name, data in _pulls(jobs) if sent.get(name) != data}
        if news or time.monotonic() - spoke > SILENCE_SECONDS:
            lines = [b"event: %b\ndata: %b\n\n" % (name.encode(), data) for name, data in news.items()]
            await response.write(b"".join(lines) or b": nothing new\n\n")
            sent |= news
            spoke = time.monotonic()
        await asyncio.sleep(PAUSE_SECONDS)
    return response


def _pulls(jobs: Jobs) -> Iterator[tuple[str, bytes]]:
    pulls = jobs.all()
    yield "running", orjson.dumps([job.details() for job in pulls if job.ended is None])
    yield "ended", orjson.dumps([job.details() for job in pulls if job.ended is not None])
