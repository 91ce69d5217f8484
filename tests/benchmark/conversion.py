"""The time of a conversion, compared with the time that the bytes alone need.

Run it as `python tests/benchmark/conversion.py [LAYERS]`: a random Llama with 126 MB a layer in BF16, from a Hub that
sends as fast as it can. The floor is the time of curl for the same files in the same run, as in transfer.py. The proxy
pulls them as `bf16`, on one core and on all cores, after a first plan. For quantization see quantize.py.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from proxy.transfer.progress import NOTHING_DIGEST
from tests.benchmark.transfer import TRANSFERRED, Ends, one_by_one, process, side_by_side
from tests.real.test_lifecycle import larger_llama

ROUNDS = 5
CHECK_SECONDS = 1
HIDDEN, LAYERS = 2048, 8


def make_files(folder: Path, layers: int) -> int:
    """Make the files that the Hub serves; returns the bytes of the weights."""
    files = larger_llama(folder / "weights", hidden=HIDDEN, layers=layers)
    for name, content in files.items():
        file = folder / name
        if isinstance(content, Path):
            content.rename(file)
        else:
            file.write_bytes(content)
        file.with_name(f"{name}.sha256").write_text(sha256(file.read_bytes()).hexdigest())
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def lines_of(url: str, name: str) -> list[tuple[float, str]]:
    """The time and text of each new line of a pull. The first one is the request; signs of life are left out."""
    lines, seen = [(time.perf_counter(), "requested")], set()
    request = urllib.request.Request(f"{url}/api/pull", data=json.dumps({"model": name}).encode())
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            fields = json.loads(line)
            if line not in seen and fields.get("digest") != NOTHING_DIGEST:
                lines.append((time.perf_counter(), fields.get("error") or fields["status"]))
            seen.add(line)
    return lines


def pull_to_sink(ends: Ends, cores: set[int]) -> float:
    """Seconds until a server has received, hashed and discarded all bytes, with the proxy on these cores."""
    command = [sys.executable, "-m", "proxy", "serve", "--listen", "127.0.0.1:0"]
    with (
        tempfile.TemporaryDirectory() as state,
        subprocess.Popen(
            [*command, "--hub", ends.hub, "--ollama", ends.ollama],
            stderr=subprocess.PIPE,
            env=os.environ | {"XDG_STATE_HOME": state},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509 - no thread runs here
        ) as proxy,
    ):
        assert proxy.stderr is not None
        try:
            url = proxy.stderr.readline().decode().rpartition(" ")[2].strip()
            # A proxy that has run for a while has made plans before, and has checked its engines.
            urllib.request.urlopen(f"{url}/-/inspect?name=hf.co/acme/model:bf16").read()
            time.sleep(CHECK_SECONDS)
            began = time.perf_counter()
            body = json.dumps({"model": "hf.co/acme/model:bf16"}).encode()
            with urllib.request.urlopen(f"{url}/api/pull", data=body) as answer:
                for line in answer:
                    assert "error" not in json.loads(line), line
                    if json.loads(line).get("status") == TRANSFERRED:
                        break
            return time.perf_counter() - began
        finally:
            proxy.terminate()


def compare_with_floor(folder: Path, hub: str) -> None:
    every = os.sched_getaffinity(0)
    ways: dict[str, Callable[[Ends], float]] = {
        "download": lambda ends: side_by_side(ends.download(None)),
        "upload": lambda ends: one_by_one(ends.upload()),
        "curl|curl": lambda ends: one_by_one(ends.end_to_end()),
    }
    seconds_of: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        # A sink keeps blobs with another digest: each round needs a new one.
        with process("ollama") as port:
            ends = Ends(sorted(folder.glob("*.safetensors")), hub, f"http://127.0.0.1:{port}", limited=False)
            for name, way in ways.items():
                seconds_of.setdefault(name, []).append(way(ends))
        for cores in ({min(every)}, every):
            with process("ollama") as port:
                ends = Ends([], hub, f"http://127.0.0.1:{port}", limited=False)
                seconds_of.setdefault(f"{len(cores)} cores", []).append(pull_to_sink(ends, cores))
    medians = {name: statistics.median(values) for name, values in seconds_of.items()}
    floor = max(medians[name] for name in ("download", "upload", "curl|curl"))
    for name, seconds in medians.items():
        print(f"bf16: {name:10} {seconds:6.2f} s  / floor {seconds / floor:4.2f}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = make_files(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else LAYERS)
        print(f"{source / 1e9:.2f} GB of BF16")
        with process("hub", folder, "0") as port:
            hub = f"http://127.0.0.1:{port}"
            compare_with_floor(Path(folder), hub)


if __name__ == "__main__":
    main()
