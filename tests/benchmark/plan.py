"""The time of a plan for a mixture-of-experts model with 235B in 118 sparse files, and how much it slows a chat.

Run it as `python tests/benchmark/plan.py [TOKENIZER]`. TOKENIZER is a folder with the tokenizer files of a real Qwen 3;
without it, a tiny tokenizer is used. The floor is the time of curl in the same run for the small files and all headers,
with eight connections. The chat has 20 streams through the proxy, and 20 direct ones at the same time.
"""

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmark.busy import measure, report
from tests.benchmark.forward import fast_upstream, free_port, running
from tests.benchmark.quantize import peak_memory
from tests.benchmark.transfer import CONNECTIONS, process, side_by_side
from tests.gguf.tiny_repositories import REPOSITORIES

ROUNDS = 3
SHARDS = 118
LAYERS, EXPERTS, HIDDEN, HEADS, KV_HEADS, HEAD, FEED_FORWARD = 94, 128, 4096, 64, 4, 128, 1536
"""The sizes of Qwen3-235B-A22B."""
PROJECTIONS = {
    "gate_proj": (FEED_FORWARD, HIDDEN),
    "up_proj": (FEED_FORWARD, HIDDEN),
    "down_proj": (HIDDEN, FEED_FORWARD),
}


def shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_norm": (HEAD,),
            "self_attn.k_norm": (HEAD,),
            "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
            "mlp.gate": (EXPERTS, HIDDEN),
            **{
                f"mlp.experts.{expert}.{name}": shape
                for expert in range(EXPERTS)
                for name, shape in PROJECTIONS.items()
            },
        }.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocabulary, HIDDEN)


def size_of(shape: tuple[int, ...]) -> int:
    """In bytes, as BF16."""
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def make_files(folder: Path, tokenizer: Mapping[str, bytes], vocabulary: int) -> dict[str, int]:
    """Make the files that the Hub serves; returns the size of each shard's header."""
    own = json.loads(REPOSITORIES["qwen3moe"].files()["config.json"])
    config = own | {
        "vocab_size": vocabulary,
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "moe_intermediate_size": FEED_FORWARD,
        "intermediate_size": 12288,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 8,
    }
    tensors = list(shapes(vocabulary))
    share = sum(size_of(shape) for _, shape in tensors) / SHARDS
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(SHARDS)]
    before = 0
    for name, shape in tensors:
        shards[int(before / share)][name] = shape
        before += size_of(shape)
    headers: dict[str, int] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        path = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        headers[path] = write_sparse(folder / path, shard)
        weight_map |= dict.fromkeys(shard, path)
    index = json.dumps({"metadata": {"total_size": before}, "weight_map": weight_map}).encode()
    small = {**tokenizer, "config.json": json.dumps(config).encode(), "model.safetensors.index.json": index}
    for path, content in small.items():
        (folder / path).write_bytes(content)
        (folder / f"{path}.sha256").write_text(sha256(content).hexdigest())
    return headers


def write_sparse(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Write a sparse safetensors file of zeros; returns the size of its header."""
    header, end = {}, 0
    for name, shape in tensors.items():
        start, end = end, end + size_of(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    path.with_name(f"{path.name}.sha256").write_text(sha256(path.name.encode()).hexdigest())
    return 8 + len(text)


def tokenizer_files() -> tuple[dict[str, bytes], int]:
    """The tokenizer's files by path, and the number of rows that its vocabulary needs."""
    if len(sys.argv) > 1:
        files = {
            path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir() if path.suffix in (".json", ".txt")
        }
        files.pop("config.json", None)
    else:
        tiny = REPOSITORIES["qwen3moe"].files()
        files = {path: tiny[path] for path in ("tokenizer.json", "tokenizer_config.json")}
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
    tokenizer, vocabulary = tokenizer_files()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as state:
        headers = make_files(Path(folder), tokenizer, vocabulary)
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
