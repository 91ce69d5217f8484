"""`/-/events`: the present state of all pulls as Server-Sent Events, for an open page."""

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
    "X-Accel-Buffering": "no",  # else nginx buffers the events
}


async def stream_pulls(request: web.BaseRequest, jobs: Jobs, headers: Mapping[str, str]) -> web.StreamResponse:
    """Send `running` and `ended`, each whole after a change. A slow reader misses the states in between."""
    response = web.StreamResponse(headers={**HEADERS, **headers})
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    sent: dict[str, bytes] = {}
    last_write = time.monotonic()
    await response.write(b"retry: 1000\n\n")
    while not jobs.closing:
        changes = {name: data for name, data in _pulls(jobs) if sent.get(name) != data}
        if changes or time.monotonic() - last_write > SILENCE_SECONDS:
            lines = [b"event: %b\ndata: %b\n\n" % (name.encode(), data) for name, data in changes.items()]
            await response.write(b"".join(lines) or b": nothing new\n\n")
            sent |= changes
            last_write = time.monotonic()
        await asyncio.sleep(PAUSE_SECONDS)
    return response


def _pulls(jobs: Jobs) -> Iterator[tuple[str, bytes]]:
    pulls = jobs.all()
    yield "running", orjson.dumps([job.details() for job in pulls if job.ended is None])
    yield "ended", orjson.dumps([job.details() for job in pulls if job.ended is not None])
