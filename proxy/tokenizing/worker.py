"""The process that compares one tokenizer: `python -m proxy.tokenizing.worker`, then it ends.

The question is a line of JSON with a conversation and the sizes of what follows: the GGUF's header and the files.
"""

import gc
import json
from collections.abc import Mapping

from proxy.tokenizing.verdict import Verdict, not_compared
from proxy.workers.limits import answer_once

LARGEST_ANSWER = 64 * 1024
HEADER = ""
"""What the GGUF's header is called among the files."""
_MEMORY = 2 * 1024 * 1024 * 1024
"""Of the address space: a vocabulary of 262,144 tokens takes about 600 MB."""
_SECONDS = 60.0


def question_of(files: Mapping[str, bytes], header: bytes, sample: str) -> list[bytes]:
    parts = {HEADER: header, **files}
    opening = {"sample": sample, "sizes": {path: len(content) for path, content in parts.items()}}
    return [json.dumps(opening, sort_keys=True).encode() + b"\n", *(parts[path] for path in sorted(parts))]


def main() -> None:
    # Not above: the server takes this module's constants, and not the tokenizers package with them.
    from proxy.tokenizing.comparison import compare

    def work(question: bytes) -> bytes:
        opening, _, content = question.partition(b"\n")
        asked, start, files = json.loads(opening), 0, {}
        for path, size in sorted(asked["sizes"].items()):
            files[path] = content[start : start + size]
            start += size
        try:
            verdict = compare(files, files.pop(HEADER), asked["sample"])
        except MemoryError:
            verdict = not_compared("it takes too much memory")
        except Exception as error:  # noqa: BLE001 - whatever a file breaks here must not look like a limit
            verdict = not_compared(f"{type(error).__name__}: {str(error)[:200]}")
        return json.dumps(Verdict(verdict.refused[:2000], verdict.remarks).as_json()).encode()

    # Nothing here goes round in circles, and looking for it takes a third of the time.
    gc.disable()
    answer_once(work, memory=_MEMORY, seconds=_SECONDS)


if __name__ == "__main__":
    main()
