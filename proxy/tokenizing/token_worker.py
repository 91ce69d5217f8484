"""The process that compares one tokenizer: `python -m proxy.tokenizing.token_worker`, one question, one answer.

The question starts with a line of JSON: the sample conversation and the sizes of the parts. The parts follow in the
order of their paths: the GGUF's header and the repository's files.
"""

import gc
import json
from collections.abc import Mapping

from proxy.tokenizing.verdict import Verdict, not_compared
from proxy.workers.process_limits import answer_once

LARGEST_ANSWER = 64 * 1024
HEADER = ""
"""The path of the GGUF's header among the parts."""
_MEMORY = 2 * 1024 * 1024 * 1024
"""Address space: a vocabulary of 262,144 tokens takes about 600 MB."""
_SECONDS = 60.0


def build_question(files: Mapping[str, bytes], header: bytes, sample: str) -> list[bytes]:
    parts = {HEADER: header, **files}
    opening = {"sample": sample, "sizes": {path: len(content) for path, content in parts.items()}}
    return [json.dumps(opening, sort_keys=True).encode() + b"\n", *(parts[path] for path in sorted(parts))]


def main() -> None:
    # Imported here because the server imports this module's constants and must not load the tokenizers package.
    from proxy.tokenizing.comparison import compare_tokenizers

    def answer(question: bytes) -> bytes:
        first_line, _, content = question.partition(b"\n")
        opening, start, files = json.loads(first_line), 0, {}
        for path, size in sorted(opening["sizes"].items()):
            files[path] = content[start : start + size]
            start += size
        try:
            verdict = compare_tokenizers(files, files.pop(HEADER), opening["sample"])
        except MemoryError:
            verdict = not_compared("the comparison takes too much memory")
        except Exception as error:  # noqa: BLE001 - a broken file must not look like a limit that was reached
            verdict = not_compared(f"{type(error).__name__}: {str(error)[:200]}")
        return json.dumps(Verdict(verdict.refusal[:2000], verdict.remarks).as_json()).encode()

    # Nothing here makes reference cycles, and the search for them takes a third of the time.
    gc.disable()
    answer_once(answer, memory=_MEMORY, seconds=_SECONDS)


if __name__ == "__main__":
    main()
