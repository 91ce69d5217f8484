"""Runs blocking work in daemon threads, which do not delay the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Threads of asyncio's pool would keep the process alive while a Hub or a disk hangs."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised again by the await below
            future.set_exception(error)

    threading.Thread(target=run, name="source", daemon=True).start()
    return await asyncio.wrap_future(future)
