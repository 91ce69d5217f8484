"""The process that probes one template: `python -m proxy.chat.template_worker`, one question, one answer, in JSON."""

import json

from proxy.chat.facts import ChatTemplate, TokenizerFacts
from proxy.workers.process_limits import answer_once

LARGEST_ANSWER = 1024 * 1024
_MEMORY = 768 * 1024 * 1024
_SECONDS = 3.0
"""Of processor time. The slowest of 190 templates of public models takes 2 (Cohere2 MoE, 12 kB)."""


def main() -> None:
    # Imported here because the server imports this module's constants and must not load jinja2.
    from proxy.chat.describe import describe

    def answer(question: bytes) -> bytes:
        fields = json.loads(question)
        try:
            chat = describe(fields["jinja"], TokenizerFacts.parse(fields["facts"]))
            content = json.dumps(chat.as_json()).encode()
        except (MemoryError, RecursionError):
            return _failure("the chat template takes too much memory to probe")
        except Exception as error:  # noqa: BLE001 - a broken template must not look like a limit that was reached
            return _failure(f"the chat template cannot be probed: {type(error).__name__}")
        return content if len(content) <= LARGEST_ANSWER else _failure("the Go template would be too long")

    answer_once(answer, memory=_MEMORY, seconds=_SECONDS)


def _failure(reason: str) -> bytes:
    return json.dumps(ChatTemplate(warnings=(reason,)).as_json()).encode()


if __name__ == "__main__":
    main()
