"""The time until `serve` listens, compared with a bare interpreter that imports the same two libraries.

Run it as `python tests/benchmark/start.py`. Each round starts both programs. It prints the medians and their ratio.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 15
SERVE = [sys.executable, "-m", "proxy", "serve", "--listen", "127.0.0.1:0", "--ollama", "http://127.0.0.1:9"]
BARE = [sys.executable, "-c", "import aiohttp.web, uvloop, sys; print('ready', file=sys.stderr)"]


def seconds_to_first_line(command: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        seconds = time.perf_counter() - began
        process.terminate()
    return seconds


def main() -> None:
    seconds: dict[str, list[float]] = {"serve": [], "bare": []}
    for _ in range(ROUNDS + 1):
        seconds["serve"].append(seconds_to_first_line(SERVE))
        seconds["bare"].append(seconds_to_first_line(BARE))
    serve, bare = (statistics.median(values[1:]) for values in seconds.values())
    print(
        f"serve listens after {serve:.3f} s, bare aiohttp + uvloop is imported after {bare:.3f} s: {serve / bare:.2f}x"
    )


if __name__ == "__main__":
    main()
