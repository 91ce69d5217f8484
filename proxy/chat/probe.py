"""Probes a chat template in a process of its own, which is ended at its limits, and remembers the results."""

import hashlib
import json

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.chat.worker import LARGEST_ANSWER
from proxy.workers.processes import ask_worker
from proxy.workers.recent import RecentResults

# The worker ends itself after a second of processor time; this is for one that waits, or shares its processor.
_SECONDS = 5.0


class Prober:
    """`seconds` is what a template may take by the clock once its process has started."""

    def __init__(self, *, remembered: int = 256, seconds: float = _SECONDS) -> None:
        self._results, self._seconds = RecentResults[ChatTemplate](remembered), seconds

    async def probe(self, jinja: str, facts: TokenizerFacts) -> ChatTemplate:
        # Lone surrogates come from JSON; as escapes they pass through every pipe.
        asked = json.dumps({"jinja": jinja, "facts": facts.as_json()}, sort_keys=True).encode()
        key = hashlib.sha256(asked).hexdigest()
        known = self._results.get(key)
        if known is not None:
            return known
        try:
            chat = await self._work(asked)
        except TimeoutError:
            # A busy machine may be the reason, so that the next pull tries again.
            return ChatTemplate(warnings=("the chat template takes too long to probe",))
        except OSError as error:
            return ChatTemplate(warnings=(f"the chat template could not be probed: {error}",))
        self._results.put(key, chat)
        return chat

    async def _work(self, asked: bytes) -> ChatTemplate:
        answer = await ask_worker("proxy.chat.worker", [asked], seconds=self._seconds, largest=LARGEST_ANSWER)
        try:
            return ChatTemplate.parse(json.loads(answer))
        except (ValueError, KeyError, TypeError):
            return ChatTemplate(warnings=("the chat template takes too much time or memory to probe",))


_PROBER = Prober()


async def probe(jinja: str, facts: TokenizerFacts) -> ChatTemplate:
    """What this Jinja says, with the limits and the memory that all callers share."""
    return await _PROBER.probe(jinja, facts)
