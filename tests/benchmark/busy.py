"""How much a pull that quantizes slows a chat: 20 streams through the proxy, with and without such a pull.

Run it as `python tests/benchmark/busy.py [LAYERS [THREADS]]`. The model is a random Llama with 126 MB a layer.
THREADS is `pull.threads`. As many streams run directly at the same time, so that both have the load of the machine.
"""

import asyncio
import json
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmark.conversion import make_files
from tests.benchmark.forward import HEAD, Listener, fast_upstream, free_port, running
from tests.benchmark.quantize import SERVE
from tests.benchmark.transfer import process

STREAMS, CHUNKS, SECONDS = 20, 200, 0.05
LAYERS = 16


async def measure(ports: dict[str, int]) -> dict[str, list[float]]:
    """The latency of each chunk in milliseconds, by the name of the port. All streams run at once."""
    ask = f"POST /api/chat?chunks={CHUNKS}&seconds={SECONDS} HTTP/1.1\r\n{HEAD}Content-Length: 2\r\n\r\n{{}}".encode()
    latencies: dict[str, list[float]] = {name: [] for name in ports}
    loop, listeners = asyncio.get_running_loop(), []
    for _ in range(STREAMS):
        for name, port in ports.items():
            connection = loop.create_connection(partial(Listener, ask, latencies[name]), "127.0.0.1", port)
            listeners.append((await connection)[1])
    await asyncio.gather(*(listener.done for listener in listeners))
    return {name: sorted(value / 1000 for value in values) for name, values in latencies.items()}


def report(name: str, latencies: dict[str, list[float]]) -> None:
    text = "  ".join(
        f"{port} p50 {values[len(values) // 2]:5.2f} p99 {values[len(values) * 99 // 100]:6.2f} most {values[-1]:6.2f}"
        for port, values in latencies.items()
    )
    p99 = {port: values[len(values) * 99 // 100] for port, values in latencies.items()}
    print(f"{name:24} ms: {text}   added p99 {p99['proxy'] - p99['direct']:6.2f}", flush=True)


def pull(port: int) -> bool:
    body = json.dumps({"model": "hf.co/acme/model:q4_K_M"}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/pull", data=body) as answer:
        *_, last = answer
    assert json.loads(last) == {"status": "success"}, last
    return True


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as state:
        make_files(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else LAYERS)
        with fast_upstream() as (ollama, _), process("hub", folder, "0") as hub:
            own = free_port()
            for engine in ("all", "ggml"):
                serve = [sys.executable, "-c", SERVE, engine, "serve", "--listen", f"127.0.0.1:{own}"]
                serve += ["--ollama", f"http://127.0.0.1:{ollama}", "--hub", f"http://127.0.0.1:{hub}"]
                settings = {
                    "OLLAMA_HF_PROXY_PULL_THREADS": sys.argv[2] if len(sys.argv) > 2 else "0",
                    "XDG_STATE_HOME": f"{state}/{engine}",
                }
                with running(serve, own, **settings), ThreadPoolExecutor(1) as thread:
                    ports = {"direct": ollama, "proxy": own}
                    report(f"{engine}: no pull", uvloop.run(measure(ports)))
                    pulling = thread.submit(pull, own)
                    report(f"{engine}: while one quantizes", uvloop.run(measure(ports)))
                    print("the pull was still running" if not pulling.done() else "the pull had ended before")
                    pulling.result()


if __name__ == "__main__":
    main()
