"""Probes a chat template in a process of its own with time and memory limits, and caches the results."""

import hashlib
import json

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.template_worker import LARGEST_ANSWER
from proxy.workers.processes import ask_worker
from proxy.workers.recent import RecentResults

# The worker limits its processor time itself. This limit is for a worker that waits, or shares a busy processor.
_SECONDS = 60.0


class Prober:
    """`seconds` limits the probing of a template by wall-clock time, starting when its process is ready."""

    def __init__(self, *, remembered: int = 256, seconds: float = _SECONDS) -> None:
        self._results, self._seconds = RecentResults[ChatTemplate](remembered), seconds

    async def probe(self, jinja: str, facts: TokenizerFacts) -> ChatTemplate:
        # JSON in ASCII: a lone surrogate in the template has no other encoding.
        question = json.dumps({"jinja": jinja, "facts": facts.as_json()}, sort_keys=True).encode()
        key = hashlib.sha256(question).hexdigest()
        cached = self._results.get(key)
        if cached is not None:
            return cached
        try:
            chat = await self._ask(question)
        except TimeoutError:
            # Not cached: the machine may only have been busy, and the next pull tries again.
            return ChatTemplate(warnings=("the chat template takes too long to probe",))
        except OSError as error:
            return ChatTemplate(warnings=(f"the chat template could not be probed: {error}",))
        self._results.put(key, chat)
        return chat

    async def _ask(self, question: bytes) -> ChatTemplate:
        answer = await ask_worker(
            "proxy.chat.template_worker", [question], seconds=self._seconds, largest=LARGEST_ANSWER
        )
        try:
            return ChatTemplate.parse(json.loads(answer))
        except (ValueError, KeyError, TypeError):
            return ChatTemplate(warnings=("the chat template takes too much time or memory to probe",))


_PROBER = Prober()


async def probe(jinja: str, facts: TokenizerFacts) -> ChatTemplate:
    """Probes with the limits and the cache that all callers share."""
    return await _PROBER.probe(jinja, facts)
