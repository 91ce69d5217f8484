"""Probes a chat template in a process of its own, which is ended at its limits, and remembers the results."""

import asyncio
import hashlib
import json
import sys
from collections import OrderedDict
from pathlib import Path

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.worker import LARGEST_ANSWER, READY

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 30.0
# The worker ends itself after a second of processor time; this is for one that waits, or shares its processor.
_SECONDS = 5.0


class Prober:
    """`seconds` is what a template may take by the clock once its process has started."""

    def __init__(self, *, remembered: int = 256, seconds: float = _SECONDS) -> None:
        self._remembered, self._seconds = remembered, seconds
        self._results: OrderedDict[str, ChatTemplate] = OrderedDict()

    async def probe(self, jinja: str, facts: TokenizerFacts) -> ChatTemplate:
        # Lone surrogates come from JSON; as escapes they pass through every pipe.
        asked = json.dumps({"jinja": jinja, "facts": facts.as_json()}, sort_keys=True).encode()
        key = hashlib.sha256(asked).hexdigest()
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key]
        try:
            chat = await self._work(asked)
        except TimeoutError:
            # A busy machine may be the reason, so that the next pull tries again.
            return ChatTemplate(warnings=("the chat template takes too long to probe",))
        except OSError as error:
            return ChatTemplate(warnings=(f"the chat template could not be probed: {error}",))
        self._results[key] = chat
        while len(self._results) > self._remembered:
            self._results.popitem(last=False)
        return chat

    async def _work(self, asked: bytes) -> ChatTemplate:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy.chat.worker",
            cwd=_ROOT,
            # A template that got out of its sandbox would find no token there; Windows starts nothing without one.
            env={} if sys.platform != "win32" else None,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            answer = await self._talk(process, asked)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        try:
            return ChatTemplate.parse(json.loads(answer))
        except (ValueError, KeyError, TypeError):
            return ChatTemplate(warnings=("the chat template takes too much time or memory to probe",))

    async def _talk(self, process: asyncio.subprocess.Process, asked: bytes) -> bytes:
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise OSError("no pipes to the worker")
        if await asyncio.wait_for(stdout.readline(), _START_SECONDS) != READY:
            raise OSError("the worker did not start")
        async with asyncio.timeout(self._seconds):
            stdin.write(asked)
            stdin.close()
            answer = b""
            while len(answer) <= LARGEST_ANSWER and (some := await stdout.read(65536)):
                answer += some
            return answer


_PROBER = Prober()


async def probe(jinja: str, facts: TokenizerFacts) -> ChatTemplate:
    """What this Jinja says, with the limits and the memory that all callers share."""
    return await _PROBER.probe(jinja, facts)
