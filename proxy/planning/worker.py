"""The process that plans large conversions: `python -m proxy.planning.worker`, a call in, its answer out, and so on.

A call is a pickled function of our own with its arguments, an answer is pickled too, with its size before it.
"""

import gc
import pickle
import sys
from typing import Any

from proxy.workers.limits import announce_ready, limit_time

SIZE_BYTES = 8
_MEMORY = 4 * 1024 * 1024 * 1024
"""Of the address space, of which numpy and ggml take a part that they never touch."""
_SECONDS = 120.0


def main() -> None:
    # Nothing here goes round in circles, and looking for it takes a third of the time.
    gc.disable()
    announce_ready(_MEMORY)
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - the server writes it
        except EOFError:
            return
        limit_time(_SECONDS)
        answer = pickle.dumps(_outcome(function, arguments), pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.write(len(answer).to_bytes(SIZE_BYTES, "little"))
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _outcome(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What the function returns, or the error that it raises."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - the server raises it
        return error


if __name__ == "__main__":
    main()
