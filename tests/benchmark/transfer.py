"""The time of the bytes of a pull, compared with curl for the same bytes between the same ends.

Run it as `python tests/benchmark/transfer.py [GIB ...]`. The Hub sends as fast as it can, or 60 MB/s to a connection.
Ollama's end hashes and discards; a real Ollama is measured too if `OLLAMA_BIN` or the PATH has one. The floor is the
largest time of a parallel download, an upload, and `curl | curl` from end to end. The last one is left out for one file
at 60 MB/s: its single connection would be too slow for a fair comparison. The manual way is that download to disk, then
`sha256sum`, then the upload. The proxy pulls as it does by default, and with `pull.spool = "off"`.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.kit.real_ollama import BINARY, running
from tests.kit.tiny_gguf import large_header

ROUNDS = 3
RATE = 60_000_000
GIB = 1024**3
BLOCK = 16 * 1024 * 1024
CONNECTIONS = 8
TRANSFERRED = "verifying sha256 digest"


@dataclass(frozen=True)
class Ends:
    files: list[Path]
    hub: str
    ollama: str
    limited: bool

    def download(self, folder: Path | None) -> list[str]:
        """Shell commands that run side by side, with eight connections in all."""
        commands = []
        share = CONNECTIONS // len(self.files)
        for file in self.files:
            size = file.stat().st_size
            for number in range(share):
                first, last = size * number // share, size * (number + 1) // share - 1
                to = folder / f"{file.name}.{number}" if folder else "/dev/null"
                commands.append(f"curl -sS -o {to} -r {first}-{last} {self.hub}/cdn/{file.name}")
        return commands

    def upload(self) -> list[str]:
        return [f"curl -sS -f -X POST -T {file} {self.blob(file)}" for file in self.files]

    def end_to_end(self) -> list[str]:
        return [
            f"curl -sS {self.hub}/cdn/{file.name} | curl -sS -f -X POST -T - -H Transfer-Encoding: "
            f"-H 'Content-Length: {file.stat().st_size}' {self.blob(file)}"
            for file in self.files
        ]

    def blob(self, file: Path) -> str:
        return f"{self.ollama}/api/blobs/sha256:{file.with_name(file.name + '.sha256').read_text()}"


def make_files(folder: Path, size: int, shards: int) -> list[Path]:
    """Random files that are served as a GGUF, perhaps in shards."""
    block = os.urandom(BLOCK)
    names = [f"model-F16-{number:05}-of-{shards:05}.gguf" for number in range(1, shards + 1)]
    for number, name in enumerate(names):
        digest, header = hashlib.sha256(), large_header(number, shards, size // shards)
        first = header + os.urandom(BLOCK - len(header))
        with (folder / name).open("wb") as file:
            left = len(header) + size // shards
            for piece in chain([first], repeat(block)):
                written = piece[:left]
                file.write(written)
                digest.update(written)
                left -= len(written)
                if not left:
                    break
        (folder / f"{name}.sha256").write_text(digest.hexdigest())
    return [folder / name for name in names]


@contextmanager
def process(*command: str) -> Iterator[int]:
    """Run a server of `ends.py`; yields its port."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ends.py")), *command], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def side_by_side(commands: list[str]) -> float:
    began = time.perf_counter()
    running = [subprocess.Popen(["bash", "-c", f"set -o pipefail; {command}"]) for command in commands]
    assert all(process.wait() == 0 for process in running)
    return time.perf_counter() - began


def one_by_one(commands: list[str]) -> float:
    return sum(side_by_side([command]) for command in commands)


def manual(ends: Ends) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return (
            side_by_side(ends.download(Path(folder)))
            + one_by_one([f"sha256sum {file} > /dev/null" for file in ends.files])
            + one_by_one(ends.upload())
        )


def pull(ends: Ends, spool: str) -> tuple[float, float]:
    """Seconds until all bytes have arrived, and the proxy's peak memory in MiB. `spool` is `pull.spool`."""
    command = [sys.executable, "-m", "proxy", "serve", "--listen", "127.0.0.1:0"]
    # A new state: from an old one, the proxy would know which blobs Ollama has.
    with tempfile.TemporaryDirectory() as folder:
        settings = {"OLLAMA_HF_PROXY_PULL_SPOOL": spool, "OLLAMA_HF_PROXY_SERVER_STATE": f"{folder}/state"}
        return _pull([*command, "--hub", ends.hub, "--ollama", ends.ollama], os.environ | settings)


def _pull(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as proxy:
        assert proxy.stderr is not None
        try:
            url = proxy.stderr.readline().decode().rpartition(" ")[2].strip()
            body = json.dumps({"model": "hf.co/acme/model:f16"}).encode()
            began = time.perf_counter()
            with urllib.request.urlopen(f"{url}/api/pull", data=body) as answer:
                for line in answer:
                    assert "error" not in json.loads(line), line
                    if json.loads(line).get("status") == TRANSFERRED:
                        break
            seconds = time.perf_counter() - began
            status = Path(f"/proc/{proxy.pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
            return seconds, int(peak.split()[1]) / 1024
        finally:
            proxy.terminate()


def compare(ends: Ends, label: str, renew: Callable[[], Ends]) -> None:
    """Measure each way in every round. `renew` gives an Ollama that holds none of the blobs."""
    seconds_of: dict[str, list[float]] = {}
    peaks = []
    for _ in range(ROUNDS):
        ways: dict[str, Callable[[Ends], float]] = {
            "download": lambda ends: side_by_side(ends.download(None)),
            "upload": lambda ends: one_by_one(ends.upload()),
            "manual": manual,
        }
        if not ends.limited or len(ends.files) > 1:
            ways["curl|curl"] = lambda ends: (side_by_side if ends.limited else one_by_one)(ends.end_to_end())
        for name, way in ways.items():
            seconds_of.setdefault(name, []).append(way(renew()))
        for name, spool in (("proxy", ""), ("no spool", "off")):
            seconds, peak = pull(renew(), spool)
            seconds_of.setdefault(name, []).append(seconds)
            peaks.append(peak)
    medians = {name: statistics.median(values) for name, values in seconds_of.items()}
    floor = max(medians[name] for name in ("download", "upload", "curl|curl") if name in medians)
    parts = "  ".join(f"{name} {medians[name]:6.2f}" for name in ("download", "upload", "curl|curl") if name in medians)
    print(
        f"{label:28} {parts}  proxy {medians['proxy']:6.2f}  proxy/floor {medians['proxy'] / floor:4.2f}  "
        f"manual/proxy {medians['manual'] / medians['proxy']:4.2f}  "
        f"with/without spool {medians['proxy'] / medians['no spool']:4.2f}  peak {max(peaks):4.0f} MiB",
        flush=True,
    )


def compare_case(size: int, shards: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = make_files(folder, size, shards)
        sink = f"http://127.0.0.1:{stack.enter_context(process('ollama'))}"
        label = f"{size / GIB:.2g} GiB in {shards}"
        for rate in (0, RATE):
            hub = f"http://127.0.0.1:{stack.enter_context(process('hub', str(folder), str(rate)))}"
            ends = Ends(files, hub, sink, bool(rate))
            compare(ends, f"{label}, {'60 MB/s each' if rate else 'no limit'}", lambda ends=ends: ends)  # type: ignore[misc]
            if BINARY and not rate:
                compare_real(ends, f"{label}, real Ollama")


def compare_real(ends: Ends, label: str) -> None:
    """Measure with real Ollama servers, each new and empty: Ollama accepts a blob only once."""
    with ExitStack() as servers:

        def renew() -> Ends:
            servers.close()
            folder = Path(servers.enter_context(tempfile.TemporaryDirectory()))
            return Ends(ends.files, ends.hub, servers.enter_context(running(folder)).url, ends.limited)

        compare(ends, label, renew)


if __name__ == "__main__":
    if shutil.which("curl") is None:
        raise SystemExit("curl is not installed; install it: its times are compared with the proxy's")
    for gib in map(float, sys.argv[1:] or ("1", "4")):
        for shards in (1, 8):
            compare_case(int(gib * GIB), shards)
