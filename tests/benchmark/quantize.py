"""The time of a whole pull as Q4_K_M and as BF16, compared with llama-quantize alone.

Run it as `python tests/benchmark/quantize.py [LAYERS]` with `LLAMA_QUANTIZE=PATH` (b10488) and `OLLAMA_BIN` or an
`ollama` on the PATH. The model is a random Llama with 126 MB a layer in BF16. llama-quantize reads the finished BF16
GGUF from the disk and writes its result there. All have two threads; each round measures all of them, one after the
other; each pull has a new, empty Ollama. On a slow line, the Hub sends 60 MB/s to each of eight connections, or to one;
then the floor is the download by curl alone.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmark.conversion import lines_of, make_files
from tests.benchmark.transfer import RATE, Ends, one_by_one, process, side_by_side
from tests.gguf.writing import written_to
from tests.kit.real_ollama import measured_usage, running

ROUNDS = 3
LAYERS = 8
THREADS = 2
SERVE = """
import sys
from proxy.gguf import engine
if "ggml" in sys.argv[1]:
    engine._kernel = lambda: None
sys.argv[1:] = sys.argv[2:]
from proxy.cli import main
main()
"""
"""Starts the proxy. If the first argument is `ggml`, it has only that engine."""


@dataclass(frozen=True)
class PullResult:
    """`memory` is the proxy's peak in bytes, `store` the peak of Ollama's blobs."""

    seconds: float
    memory: int
    store: int


def pull(hub: str, tag: str, *, engine: str = "all", connections: int = 8) -> PullResult:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "ollama") as ollama:
        own = {
            "OLLAMA_HF_PROXY_PULL_THREADS": str(THREADS),
            "OLLAMA_HF_PROXY_PULL_CONNECTIONS": str(connections),
            "XDG_STATE_HOME": str(Path(folder) / "state"),
        }
        command = [sys.executable, "-c", SERVE, engine, "serve", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            [*command, "--hub", hub, "--ollama", ollama.url], stderr=subprocess.PIPE, env=os.environ | own
        ) as proxy:
            assert proxy.stderr is not None
            try:
                url = proxy.stderr.readline().decode().rpartition(" ")[2].strip()
                with measured_usage(ollama.home / "models" / "blobs") as sizes:
                    lines = lines_of(url, f"hf.co/acme/model:{tag}")
                memory = peak_memory(proxy.pid)
            finally:
                proxy.terminate()
        assert lines[-1][1] == "success", lines[-1]
        return PullResult(lines[-1][0] - lines[0][0], memory, max(sizes))


def peak_memory(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def llama_quantize(source: Path) -> float:
    target = source.with_name("quantized.gguf")
    began = time.perf_counter()
    subprocess.run(
        [os.environ["LLAMA_QUANTIZE"], str(source), str(target), "Q4_K_M", str(THREADS)],
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def compare(ways: dict[str, Callable[[], PullResult | float]], against: str, source: int) -> None:
    results: dict[str, list[PullResult]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            result = way()
            results[name].append(result if isinstance(result, PullResult) else PullResult(result, 0, 0))
    seconds = {name: statistics.median(pull.seconds for pull in pulls) for name, pulls in results.items()}
    for name, pulls in results.items():
        print(
            f"{name:34} {seconds[name]:6.1f} s  / {against} {seconds[name] / seconds[against]:5.2f}  memory "
            f"{max(pull.memory for pull in pulls) / 2**20:4.0f} MiB  store / source "
            f"{max(pull.store for pull in pulls) / source:4.2f}",
            flush=True,
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as served, tempfile.TemporaryDirectory() as plain:
        folder = Path(served)
        source = make_files(folder, int(sys.argv[1]) if len(sys.argv) > 1 else LAYERS)
        whole = written_to(Path(plain) / "bf16.gguf", folder)
        print(f"{source / 1e9:.2f} GB of BF16, {THREADS} threads each")
        with process("hub", served, "0") as port:
            hub = f"http://127.0.0.1:{port}"
            ways: dict[str, Callable[[], PullResult | float]] = {
                "llama-quantize alone": lambda: llama_quantize(whole),
                "pull q4_K_M, kernel": lambda: pull(hub, "q4_K_M"),
                "pull q4_K_M, ggml alone": lambda: pull(hub, "q4_K_M", engine="ggml"),
                "pull bf16": lambda: pull(hub, "bf16"),
            }
            compare(ways, "llama-quantize alone", source)
        with process("hub", served, str(RATE)) as port:
            hub = f"http://127.0.0.1:{port}"
            files = sorted(folder.glob("*.safetensors"))
            ends = Ends(files, hub, "", limited=True)
            slow: dict[str, Callable[[], PullResult | float]] = {
                "download, 8 x 60 MB/s": lambda: side_by_side(ends.download(None)),
                "pull q4_K_M, 8 x 60 MB/s": lambda: pull(hub, "q4_K_M"),
            }
            compare(slow, "download, 8 x 60 MB/s", source)
            slow = {
                "download, 1 x 60 MB/s": lambda: one_by_one(
                    [f"curl -sS -o /dev/null {hub}/cdn/{file.name}" for file in files]
                ),
                "pull q4_K_M, 1 x 60 MB/s": lambda: pull(hub, "q4_K_M", connections=1),
            }
            compare(slow, "download, 1 x 60 MB/s", source)


if __name__ == "__main__":
    main()
