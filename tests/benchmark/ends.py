"""The two ends of a transfer at the lowest cost: a Hub that sends files, an Ollama that hashes and discards them.

`python ends.py hub FOLDER RATE` (bytes a second for each connection, 0 for no limit) or `python ends.py ollama`; the
program prints its port. Each file of the folder is served as part of `acme/model`, with its SHA-256 from `FILE.sha256`.
"""

import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

COMMIT = "c" * 40
PIECE = 1024 * 1024
RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d*)", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)

MISNAMED: set[str] = set()
"""The real digests of blobs that arrived with a wrong digest. Ollama keeps such blobs."""

Answer = Callable[[socket.socket, str, str, bytes, bytes], None]


def serve(answer: Answer) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=talk, args=(connection, answer), daemon=True).start()


def talk(connection: socket.socket, answer: Answer) -> None:
    with connection:
        try:
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
                head, end, rest = received.partition(b"\r\n\r\n")
                if end:
                    method, target, _ = head.decode("latin-1").split(" ", 2)
                    answer(connection, method, target, head, rest)
                    received = b""
        except OSError:
            return


def reply(connection: socket.socket, status: str, body: bytes = b"", *headers: str) -> None:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def hub(folder: Path, rate: int) -> Answer:
    def answer(connection: socket.socket, method: str, target: str, head: bytes, _: bytes) -> None:
        path = target.partition("?")[0]
        if path.startswith("/api/models/"):
            reply(connection, "200 OK", describe(folder), "Content-Type: application/json")
        elif "/resolve/" in path:
            name = path.rpartition("/")[2]
            reply(connection, "302 Found", b"", f"Location: /cdn/{name}", f"X-Repo-Commit: {COMMIT}")
        else:
            send(connection, folder / path.rpartition("/")[2], head, rate)

    return answer


def describe(folder: Path) -> bytes:
    siblings = []
    for digest in sorted(folder.glob("*.sha256")):
        file = digest.with_suffix("")
        lfs = {"sha256": digest.read_text(), "size": file.stat().st_size, "pointerSize": 130}
        siblings.append({"rfilename": file.name, "size": lfs["size"], "blobId": "b" * 40, "lfs": lfs})
    return json.dumps({"id": "acme/model", "sha": COMMIT, "gated": False, "siblings": siblings}).encode()


def send(connection: socket.socket, path: Path, head: bytes, rate: int) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        requested = RANGE.search(head)
        start = int(requested[1]) if requested else 0
        stop = int(requested[2]) + 1 if requested and requested[2] else size
        status = f"206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/{size}" if requested else "200 OK"
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\n\r\n".encode())
        began, sent = time.monotonic(), 0
        while sent < stop - start:
            piece = min(stop - start - sent, rate // 50 if rate else PIECE)
            sent += os.sendfile(connection.fileno(), file.fileno(), start + sent, piece)
            if rate and (early := began + sent / rate - time.monotonic()) > 0:
                time.sleep(early)


def take_blob(connection: socket.socket, method: str, target: str, head: bytes, rest: bytes) -> None:
    if target == "/api/version":
        return reply(connection, "200 OK", b'{"version":"0.24.0"}', "Content-Type: application/json")
    if target == "/api/tags":
        return reply(connection, "200 OK", b'{"models":[]}', "Content-Type: application/json")
    if not target.startswith("/api/blobs/") or method == "HEAD":
        return reply(connection, "200 OK" if target.rpartition(":")[2] in MISNAMED else "404 Not Found")
    if b"100-continue" in head:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = LENGTH.search(head)
    assert length is not None, "without a length, the end of the blob is unknown"
    left = int(length[1]) - len(rest)
    digest, buffer = hashlib.sha256(rest), memoryview(bytearray(PIECE))
    while left and (size := connection.recv_into(buffer, min(left, PIECE))):
        digest.update(buffer[:size])
        left -= size
    announced, computed = target.rpartition(":")[2], digest.hexdigest()
    if announced in (computed, "any"):
        return reply(connection, "201 Created")
    MISNAMED.add(computed)
    error = f'digest mismatch, expected "sha256:{announced}", got "sha256:{computed}"'
    return reply(connection, "400 Bad Request", json.dumps({"error": error}).encode(), "Content-Type: application/json")


if __name__ == "__main__":
    serve(hub(Path(sys.argv[2]), int(sys.argv[3])) if sys.argv[1] == "hub" else take_blob)
