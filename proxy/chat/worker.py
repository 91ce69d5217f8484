"""The process that probes one template: `python -m proxy.chat.worker`, JSON in, JSON out, then it ends."""

import json

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.workers.limits import answer_once

LARGEST_ANSWER = 1024 * 1024
_MEMORY = 768 * 1024 * 1024
_SECONDS = 1.0


def main() -> None:
    # Not above: the server takes this module's constants, and not jinja2 with them.
    from proxy.chat.describe import describe

    def work(question: bytes) -> bytes:
        asked = json.loads(question)
        try:
            chat = describe(asked["jinja"], TokenizerFacts.parse(asked["facts"]))
            answer = json.dumps(chat.as_json()).encode()
        except (MemoryError, RecursionError):
            return _refusal("the chat template takes too much memory to probe")
        except Exception as error:  # noqa: BLE001 - whatever a template breaks here must not look like a limit
            return _refusal(f"the chat template cannot be probed: {type(error).__name__}")
        return answer if len(answer) <= LARGEST_ANSWER else _refusal("the chat template makes too long a Go template")

    answer_once(work, memory=_MEMORY, seconds=_SECONDS)


def _refusal(reason: str) -> bytes:
    return json.dumps(ChatTemplate(warnings=(reason,)).as_json()).encode()


if __name__ == "__main__":
    main()
