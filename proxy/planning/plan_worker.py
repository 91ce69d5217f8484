"""The process that plans large conversions, `python -m proxy.planning.plan_worker`: it reads calls and writes answers.

A call is a pickle of one of our functions and its arguments. An answer is the size of a pickle, and the pickle.
"""

import gc
import pickle
import sys
from typing import Any

from proxy.workers.process_limits import announce_ready, limit_time

SIZE_BYTES = 8
_MEMORY = 4 * 1024 * 1024 * 1024
"""Bytes of address space; numpy and ggml reserve some that they never use."""
_SECONDS = 120.0


def main() -> None:
    # There are no reference cycles here, and looking for them needs a third of the time.
    gc.disable()
    announce_ready(_MEMORY)
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - the proxy writes it
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
    except Exception as error:  # noqa: BLE001 - the proxy raises it
        return error


if __name__ == "__main__":
    main()
