"""The cost of a call through this proxy, compared with no proxy, nginx and Caddy, each on one core.

Run it as `python tests/benchmark/forward.py`. Each round measures all of them, one after the other. It prints the
medians of the rounds, and the ratios to Caddy. It leaves out nginx and Caddy when they are not installed (Debian
packages nginx-light and caddy).
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

ROUNDS = 5
CONNECTIONS, SECONDS = 32, 2.0
CALLS = 3000
STREAMS = {
    1: (400, 0.005),
    50: (100, 0.02),
    1000: (6, 0.5),
}  # streams: chunks of each, seconds between chunks
MEGABYTES = 512
IDLE_CONNECTIONS = 1000
HEAD = "Host: localhost\r\nUser-Agent: ollama/0.24.0 (amd64 linux) Go/go1.26\r\nAccept: application/json\r\n"
ASK = f"GET /api/version HTTP/1.1\r\n{HEAD}\r\n".encode()
TIMESTAMP = re.compile(rb'"t":(\d+)')

NGINX = """
daemon off; worker_processes 1; error_log stderr crit; pid {folder}/pid;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 10000000;
  client_max_body_size 0; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream ollama {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    proxy_pass http://ollama; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 1h; }} }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port}, http://localhost:{port} {{
  reverse_proxy 127.0.0.1:{upstream} {{
    flush_interval -1
  }}
}}
"""
RUN_CADDY = ("run", "--adapter", "caddyfile", "--config")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[int]:
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def fast_upstream() -> Iterator[tuple[int, int]]:
    """Run the server of `upstream.py`; yields its port and its process id."""
    command = [sys.executable, str(Path(__file__).with_name("upstream.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline()), server.pid
        finally:
            server.terminate()


@contextmanager
def contestants() -> Iterator[dict[str, tuple[int, int]]]:
    """The name of each server in the comparison → its port and its process id."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, upstream = stack.enter_context(fast_upstream())
        contestants = {"direct": (port, upstream)}
        for name, text, arguments in (
            ("nginx", NGINX, ("-c",)),
            ("caddy", CADDY, RUN_CADDY),
        ):
            if program := shutil.which(name):
                own = free_port()
                file = folder / name
                file.write_text(text.format(folder=folder, upstream=port, port=own))
                process = running([program, *arguments, str(file)], own, GOMAXPROCS="1", HOME=str(folder))
                contestants[name] = (own, stack.enter_context(process))
        own = free_port()
        serve = [
            sys.executable,
            "-m",
            "proxy",
            "serve",
            "--listen",
            f"127.0.0.1:{own}",
            "--ollama",
            f"http://127.0.0.1:{port}",
        ]
        contestants["proxy"] = (own, stack.enter_context(running(serve, own)))
        time.sleep(1)
        yield contestants


class Caller(asyncio.Protocol):
    """Sends the next request as soon as it has received the answer."""

    def __init__(self) -> None:
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(ASK)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self.answers += 1
            self.transport.write(ASK)


class Listener(asyncio.Protocol):
    """Measures the latency of each chunk of a stream."""

    def __init__(self, ask: bytes, latencies: list[float]) -> None:
        self._ask = ask
        self._latencies = latencies
        self._rest = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if match := TIMESTAMP.search(line):
                self._latencies.append((now - int(match[1])) / 1000)
            if b'"done":true' in line:
                self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.done.set_result(None)


async def requests_per_second(port: int) -> float:
    loop = asyncio.get_running_loop()
    callers = [(await loop.create_connection(Caller, "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.2)
    before, began = sum(caller.answers for caller in callers), time.perf_counter()
    await asyncio.sleep(SECONDS)
    rate = (sum(caller.answers for caller in callers) - before) / (time.perf_counter() - began)
    for caller in callers:
        caller.transport.abort()
    await asyncio.sleep(0.1)
    return rate


async def chunk_microseconds(port: int, streams: int) -> float:
    """The median latency of all chunks."""
    chunks, seconds = STREAMS[streams]
    ask = f"POST /api/chat?chunks={chunks}&seconds={seconds} HTTP/1.1\r\n{HEAD}Content-Length: 2\r\n\r\n{{}}".encode()
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    listeners = []
    for _ in range(streams):
        listeners.append((await loop.create_connection(lambda: Listener(ask, latencies), "127.0.0.1", port))[1])
        await asyncio.sleep(seconds / streams / 2)
    await asyncio.gather(*(listener.done for listener in listeners))
    assert len(latencies) == streams * chunks
    return statistics.median(latencies)


def call_microseconds(port: int) -> tuple[float, float]:
    """p50 and p99 of the calls on one connection."""
    latencies = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(CALLS):
            began = time.perf_counter_ns()
            connection.sendall(ASK)
            while not (received := connection.recv(65536)).endswith(b"}"):
                assert received
            latencies.append((time.perf_counter_ns() - began) / 1000)
    latencies.sort()
    return latencies[CALLS // 2], latencies[CALLS * 99 // 100]


def upload_megabytes_per_second(port: int) -> float:
    piece = bytes(1024 * 1024)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        head = f"POST /api/blobs/x HTTP/1.1\r\n{HEAD}Content-Length: {MEGABYTES * len(piece)}\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(MEGABYTES):
            connection.sendall(piece)
        assert b" 200 " in connection.recv(65536)
        return MEGABYTES * len(piece) / 1e6 / (time.perf_counter() - began)


def download_megabytes_per_second(port: int) -> float:
    buffer, left = bytearray(1024 * 1024), MEGABYTES * 1024 * 1024
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        connection.sendall(f"GET /bytes/{left} HTTP/1.1\r\n{HEAD}\r\n".encode())
        while left > 0 and (count := connection.recv_into(buffer)):
            left -= count
        assert left <= 0
        return MEGABYTES * 1024 * 1024 / 1e6 / (time.perf_counter() - began)


def resident_megabytes(process: int) -> float:
    """The memory of a process and its children."""
    status = Path(f"/proc/{process}/status").read_text()
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    own = int(status.partition("VmRSS:")[2].split()[0]) / 1000
    return own + sum(resident_megabytes(int(child)) for child in children)


def megabytes_with_idle_connections(port: int, process: int) -> float:
    with ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(ASK)
            connection.recv(65536)
        return resident_megabytes(process)


def measure(port: int, process: int) -> dict[str, float]:
    p50, p99 = call_microseconds(port)
    results = {"requests/s": uvloop.run(requests_per_second(port)), "p50 µs": p50, "p99 µs": p99}
    for streams in STREAMS:
        results[f"µs a chunk, {streams} streams"] = uvloop.run(chunk_microseconds(port, streams))
    results["upload MB/s"] = upload_megabytes_per_second(port)
    results["download MB/s"] = download_megabytes_per_second(port)
    return results


def added(medians: dict[str, dict[str, float]], name: str, key: str) -> float:
    """Rates and memory as measured; latencies minus those without a proxy."""
    own = medians[name][key]
    return own - medians["direct"][key] if "µs" in key and name != "direct" else own


def main() -> None:
    rounds: dict[str, list[dict[str, float]]] = {}
    with contestants() as compared:
        idle = {name: resident_megabytes(process) for name, (_, process) in compared.items()}
        for _ in range(ROUNDS):
            for name, (port, process) in compared.items():
                rounds.setdefault(name, []).append(measure(port, process))
        many = {name: megabytes_with_idle_connections(*where) for name, where in compared.items()}
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        | {"MB idle": idle[name], f"MB, {IDLE_CONNECTIONS} idle clients": many[name]}
        for name, results in rounds.items()
    }
    print(f"{'(µs: added to direct)':28}" + "".join(f"{name:>12}" for name in medians) + f"{'proxy÷caddy':>14}")
    for key in medians["direct"]:
        line = f"{key:28}" + "".join(f"{added(medians, name, key):12,.0f}" for name in medians)
        ratio = added(medians, "proxy", key) / added(medians, "caddy", key) if "caddy" in medians else float("nan")
        print(f"{line}{ratio:14.2f}")
    print(f"proxy ÷ direct, upload: {medians['proxy']['upload MB/s'] / medians['direct']['upload MB/s']:.2f}")


if __name__ == "__main__":
    main()
