"""Blocking work off the event loop, in threads that nobody has to wait for."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that cannot keep the process alive, as a pool's would while a Hub or disk hangs."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="source", daemon=True).start()
    return await asyncio.wrap_future(future)
