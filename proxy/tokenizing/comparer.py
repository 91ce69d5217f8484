"""Compares tokenizers in a process of its own with time and memory limits, and caches the results."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence

from proxy.gguf.tokenizer_files import SPECIALS, TOKENIZER, TOKENIZER_CODE, TOKENIZER_CONFIG, tiktoken_path
from proxy.tokenizing.token_worker import LARGEST_ANSWER, build_question
from proxy.tokenizing.verdict import Verdict, not_compared
from proxy.workers.processes import LoopLock, ask_worker
from proxy.workers.recent import RecentResults

_FILES = (TOKENIZER, *TOKENIZER_CODE, TOKENIZER_CONFIG, SPECIALS)
# The worker ends itself after a minute of CPU time. This limit is for a worker that waits or shares its CPU.
_SECONDS = 180.0


class Comparer:
    """`seconds` limits a comparison by wall-clock time, starting when its process is ready."""

    def __init__(self, *, remembered: int = 256, seconds: float = _SECONDS) -> None:
        self._results, self._seconds = RecentResults[Verdict](remembered), seconds
        self._lock = LoopLock()

    async def compare(self, files: Mapping[str, bytes], header: bytes, sample: str) -> Verdict:
        """`files` has the repository's small files by path.

        Without a tokenizer.json or a vocabulary of tiktoken there is nothing to compare.
        """
        vocabulary = tiktoken_path(files)
        if TOKENIZER not in files and not vocabulary:
            return Verdict()
        asked = {path: files[path] for path in (*_FILES, vocabulary) if path in files}
        question = build_question(asked, header, sample)
        key = await asyncio.to_thread(_digest, question)
        cached = self._results.get(key)
        if cached is not None:
            return cached
        try:
            async with self._lock.lock():
                verdict = await self._ask(question)
        except TimeoutError:
            # Not cached: the machine may only have been busy, and the next pull tries again.
            return not_compared("the comparison takes too long")
        except OSError as error:
            return not_compared(str(error))
        self._results.put(key, verdict)
        return verdict

    async def _ask(self, question: Sequence[bytes]) -> Verdict:
        answer = await ask_worker(
            "proxy.tokenizing.token_worker", question, seconds=self._seconds, largest=LARGEST_ANSWER
        )
        try:
            return Verdict.parse(json.loads(answer))
        except (ValueError, KeyError, TypeError):
            return not_compared("the comparison takes too much time or memory")


def _digest(question: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in question:
        digest.update(part)
    return digest.hexdigest()


_COMPARER = Comparer()


async def compare(files: Mapping[str, bytes], header: bytes, sample: str) -> Verdict:
    """Compares with the limits and the cache that all callers share."""
    return await _COMPARER.compare(files, header, sample)
