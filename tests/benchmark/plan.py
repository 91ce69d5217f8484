"""The time of a plan for a mixture of experts in sparse files, and how much it slows a chat.

Run it as `python tests/benchmark/plan.py MODEL [TOKENIZER]`; MODEL is in `large_models.py`, such as DeepSeek-V3.
TOKENIZER is a folder with the tokenizer files of the real model; without it, a tiny tokenizer is used. The floor is the
time of curl in the same run for the small files and all headers, with eight connections. The chat has 20 streams
through the proxy, and 20 direct ones at the same time.
"""

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmark.busy import measure, report
from tests.benchmark.forward import fast_upstream, free_port, running
from tests.benchmark.large_models import MODELS
from tests.benchmark.quantize import peak_memory
from tests.benchmark.transfer import CONNECTIONS, process, side_by_side
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.tiktoken import RESERVED, VOCABULARY

ROUNDS = 3
SUFFIXES = (".json", ".txt", ".model", ".py")


def tokenizer_files(tiny_repository: str) -> tuple[dict[str, bytes], int]:
    """The tokenizer's files by path, and the number of rows that its vocabulary needs."""
    tiny = REPOSITORIES[tiny_repository].tokenizer()
    if len(sys.argv) <= 2:
        return dict(tiny.files), tiny.rows
    files = {path.name: path.read_bytes() for path in Path(sys.argv[2]).iterdir() if path.suffix in SUFFIXES}
    files.pop("config.json", None)
    if VOCABULARY in files:
        return files, len(files[VOCABULARY].splitlines()) + RESERVED
    content = json.loads(files["tokenizer.json"])
    numbers = [*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
    return files, -(-(max(numbers) + 1) // 256) * 256


def floor(hub: int, small: list[str], headers: Mapping[str, int]) -> float:
    urls = [f"http://127.0.0.1:{hub}/cdn/{path}" for path in small]
    ranges = [f"-r 0-{size - 1} http://127.0.0.1:{hub}/cdn/{path}" for path, size in headers.items()]
    everything = [*urls, *ranges]
    commands = [
        "; ".join(f"curl -sS -fo /dev/null {part}" for part in everything[at::CONNECTIONS]) for at in range(CONNECTIONS)
    ]
    return side_by_side(commands)


def plan(port: int, number: int) -> float:
    """The seconds of a plan. Each number selects another tag, and so another plan."""
    tag = ("Q4_K_M", "Q5_K_M", "Q6_K")[number]
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/inspect?name=hf.co/acme/model:{tag}") as answer:
        content = json.loads(answer.read())
    assert content["refusal"] is None, content["refusal"]
    return time.perf_counter() - began


def main() -> None:
    model = MODELS[sys.argv[1]]
    tokenizer, vocabulary = tokenizer_files(model.tiny)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as state:
        headers = model.write(Path(folder), tokenizer, vocabulary)
        with fast_upstream() as (ollama, _), process("hub", folder, "0") as hub:
            own = free_port()
            serve = [sys.executable, "-m", "proxy", "serve", "--listen", f"127.0.0.1:{own}"]
            serve += ["--ollama", f"http://127.0.0.1:{ollama}", "--hub", f"http://127.0.0.1:{hub}"]
            small = [*tokenizer, "config.json", "model.safetensors.index.json"]
            for number in range(ROUNDS):
                with running(serve, own, XDG_STATE_HOME=f"{state}/{number}") as pid:
                    least = floor(hub, small, headers)
                    seconds = plan(own, number)
                    memory = peak_memory(pid) / 1024**2
                    ratio = f"plan {seconds:5.2f} s, curl {least:5.2f} s, ratio {seconds / least:5.2f}"
                    print(f"{ratio}, peak of the proxy {memory:4.0f} MiB", flush=True)
            with running(serve, own, XDG_STATE_HOME=f"{state}/chat"), ThreadPoolExecutor(1) as thread:
                ports = {"direct": ollama, "proxy": own}
                report("no plan", uvloop.run(measure(ports)))
                planning = thread.submit(lambda: [plan(own, number) for number in range(ROUNDS)])
                report("while three plans are made", uvloop.run(measure(ports)))
                print("the plans were still being made" if not planning.done() else "the plans had ended before")
                print("seconds each:", *(f"{seconds:.2f}" for seconds in planning.result()))


if __name__ == "__main__":
    main()
