"""The process that probes one template: `python -m proxy.chat.worker`, JSON in, JSON out, then it ends."""

import json
import signal
import sys

from proxy.chat.facts import ChatTemplate, TokenizerFacts

READY = b"ready\n"
LARGEST_ANSWER = 1024 * 1024
_MEMORY = 768 * 1024 * 1024
_SECONDS = 1.0


def main() -> None:
    # Not above: the server takes this module's constants, and not jinja2 with them.
    from proxy.chat.describe import describe

    _limit_memory()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    asked = json.loads(sys.stdin.buffer.read())
    _limit_time(_SECONDS)
    try:
        chat = describe(asked["jinja"], TokenizerFacts.parse(asked["facts"]))
        answer = json.dumps(chat.as_json()).encode()
    except (MemoryError, RecursionError):
        answer = _refusal("the chat template takes too much memory to probe")
    except Exception as error:  # noqa: BLE001 - whatever a template breaks here must not look like a limit
        answer = _refusal(f"the chat template cannot be probed: {type(error).__name__}")
    if len(answer) > LARGEST_ANSWER:
        answer = _refusal("the chat template makes too long a Go template")
    sys.stdout.buffer.write(answer)


def _refusal(reason: str) -> bytes:
    return json.dumps(ChatTemplate(warnings=(reason,)).as_json()).encode()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):  # macOS knows the limit but does not take it
        return


def _limit_time(seconds: float) -> None:
    """Time of the processor, not of the clock, so that a busy machine fails no honest template.

    Python has no handler for this signal, so it ends the process even inside of C code.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
