"""Runs a program in a terminal of 24 rows, and records the screen after each redraw."""

import asyncio
import os
import pty
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pyte
from wcwidth import wcswidth

ROWS = 24
PROMPT = "$"
DRAWING = 2026
"""Synchronized output: a program leaves this mode when its drawing is complete."""
CTRL_C = b"\x03"


class Screen(pyte.HistoryScreen):
    """Answers the program like a terminal, and records frames, wrapped lines and unknown sequences."""

    def __init__(self, columns: int, rows: int, answer: Callable[[bytes], object]) -> None:
        self._answer = answer
        self.frames: list[list[str]] = []
        self.wrapped: list[str] = []
        self.unknown: list[tuple[object, ...]] = []
        super().__init__(columns, rows, history=1000)

    def draw(self, data: str) -> None:
        if self.cursor.x + wcswidth(data) > self.columns:
            self.wrapped.append(data)
        super().draw(data)

    def reset_mode(self, *modes: int, **options: Any) -> None:
        super().reset_mode(*modes, **options)
        if DRAWING in modes:
            self.frames.append(self.rows)

    def write_process_input(self, data: str) -> None:
        self._answer(data.encode())

    def debug(self, *sequence: Any, **_: Any) -> None:
        """Record a sequence that the terminal does not know."""
        self.unknown.append(sequence)

    @property
    def rows(self) -> list[str]:
        """All rows after the prompt, including those that have scrolled off the screen."""
        scrolled_off = ["".join(row[column].data for column in range(self.columns)) for row in self.history.top]
        rows = [row.rstrip() for row in (*scrolled_off, *self.display)]
        begin = next((number for number, row in enumerate(rows) if row.startswith(PROMPT)), -1) + 1
        end = max((number for number, row in enumerate(rows, 1) if row), default=0)
        return rows[begin:end]


class Terminal:
    def __init__(self, process: asyncio.subprocess.Process, file: int, screen: Screen) -> None:
        self.process = process
        self.screen = screen
        self._file = file
        self._stream = pyte.ByteStream(screen)
        self._news = asyncio.Event()
        self._closed = False

    @property
    def rows(self) -> list[str]:
        return self.screen.rows

    @property
    def frames(self) -> list[list[str]]:
        """The rows after each redraw, and the rows now."""
        return [*self.screen.frames, self.rows]

    def press(self, keys: bytes) -> None:
        os.write(self._file, keys)

    async def until(self, holds: Callable[[list[str]], object], seconds: float = 60) -> None:
        """Wait until `holds` is true for the rows."""
        async with asyncio.timeout(seconds):
            while not holds(self.rows):
                assert not self._closed, self.rows
                self._news.clear()
                await self._news.wait()

    async def ended(self, seconds: float = 120) -> int:
        """Wait for the end of the program and of its output. Returns the exit status."""
        async with asyncio.timeout(seconds):
            while not self._closed:
                self._news.clear()
                await self._news.wait()
            return await self.process.wait()

    def read(self) -> None:
        try:
            data = os.read(self._file, 1 << 16)
        except OSError:  # the program at the other end has ended
            data = b""
        self._stream.feed(data)
        if not data:
            self._closed = True
            self.close()
        self._news.set()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._file)


@asynccontextmanager
async def in_terminal(
    command: Sequence[str], environment: Mapping[str, str], *, columns: int = 80, above: int = 0
) -> AsyncIterator[Terminal]:
    """Run a program below a prompt. `above` is the number of earlier rows above the prompt."""
    ours, theirs = pty.openpty()
    screen = Screen(columns, ROWS, partial(os.write, ours))
    pyte.Stream(screen).feed("earlier\r\n" * above + PROMPT + "\r\n")
    try:
        termios.tcsetwinsize(theirs, (ROWS, columns))
        process = await asyncio.create_subprocess_exec(
            *("setsid", "--ctty", *command), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        terminal = Terminal(process, ours, screen)
        asyncio.get_running_loop().add_reader(ours, terminal.read)
        try:
            yield terminal
        finally:
            terminal.close()
            if process.returncode is None:
                process.kill()
            await process.wait()
    finally:
        os.close(ours)
