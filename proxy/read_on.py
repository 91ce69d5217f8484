"""An answer of Ollama that has to be read to its end, by a process of its own when the proxy itself must end.

An Ollama whose create is read by nobody stops for ever at its next line, and keeps what it has written (v0.24, v0.33).
"""

import subprocess
import sys

import aiohttp

READERS: list["subprocess.Popen[bytes]"] = []
"""They outlive this process; one that Python forgets would be complained about."""
LAST_CHUNK = b"0\r\n\r\n"
READ_ON = f"""
import socket
with socket.socket(fileno=0) as answer:
    answer.setblocking(True)
    end = b""
    while not end.endswith({LAST_CHUNK!r}) and (more := answer.recv(65536)):
        end = (end + more)[-{len(LAST_CHUNK)}:]
"""


def read_on(response: aiohttp.ClientResponse) -> bool:
    """Leave an answer that has begun to another process, which ends with it; False where that cannot be done."""
    transport = response.connection.transport if response.connection is not None else None
    connection = transport.get_extra_info("socket") if transport is not None else None
    # TLS keeps its state in this process, and Windows hands no sockets on by their number.
    if transport is None or connection is None or transport.get_extra_info("sslcontext") or sys.platform == "win32":
        return False
    try:
        reader = subprocess.Popen(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-I", "-c", READ_ON],
            stdin=connection.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    READERS.append(reader)
    return True
