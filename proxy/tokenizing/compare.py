"""Compares tokenizers in a process of its own, which is ended at its limits, and remembers the results."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence

from proxy.gguf.tokenizer_files import SPECIALS, TOKENIZER, TOKENIZER_CONFIG
from proxy.tokenizing.verdict import Verdict, not_compared
from proxy.tokenizing.worker import LARGEST_ANSWER, question_of
from proxy.workers.processes import LoopLock, ask_worker
from proxy.workers.recent import RecentResults

_FILES = (TOKENIZER, TOKENIZER_CONFIG, SPECIALS)
# The worker ends itself after a minute of processor time; this is for one that waits, or shares its processor.
_SECONDS = 180.0


class Comparer:
    """`seconds` is what a comparison may take by the clock once its process has started."""

    def __init__(self, *, remembered: int = 256, seconds: float = _SECONDS) -> None:
        self._results, self._seconds = RecentResults[Verdict](remembered), seconds
        self._turns = LoopLock()

    async def compare(self, files: Mapping[str, bytes], header: bytes, sample: str) -> Verdict:
        """`files` are the repository's small ones by path; without a tokenizer.json there is nothing to compare."""
        if TOKENIZER not in files:
            return Verdict()
        question = question_of({path: files[path] for path in _FILES if path in files}, header, sample)
        key = await asyncio.to_thread(_digest, question)
        known = self._results.get(key)
        if known is not None:
            return known
        try:
            async with self._turns.lock():
                verdict = await self._work(question)
        except TimeoutError:
            # A busy machine may be the reason, so that the next pull tries again.
            return not_compared("it takes too long")
        except OSError as error:
            return not_compared(str(error))
        self._results.put(key, verdict)
        return verdict

    async def _work(self, question: Sequence[bytes]) -> Verdict:
        answer = await ask_worker("proxy.tokenizing.worker", question, seconds=self._seconds, largest=LARGEST_ANSWER)
        try:
            return Verdict.parse(json.loads(answer))
        except (ValueError, KeyError, TypeError):
            return not_compared("it takes too much time or memory")


def _digest(question: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in question:
        digest.update(part)
    return digest.hexdigest()


_COMPARER = Comparer()


async def compare(files: Mapping[str, bytes], header: bytes, sample: str) -> Verdict:
    """Whether the GGUF gives the tokens of tokenizer.json, with the limits and the memory that all callers share."""
    return await _COMPARER.compare(files, header, sample)
