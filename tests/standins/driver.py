"""A client of the stand-in Ollama that parses its answers."""

import io
from typing import Any

import aiohttp
import orjson
from yarl import URL

from proxy.gguf.header import Field
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import digest_of
from tests.kit.tiny_gguf import tiny_gguf

FILES = {path: data for path, data in tiny_llama().items() if path.endswith((".json", ".safetensors"))}
CHAT = Field.string("{{ '<|start_header_id|>' }}")
GGUF = {"model.gguf": tiny_gguf("F16", tokenizer__chat_template=CHAT)}
UNKNOWN_DIGEST = "sha256:" + "1" * 64


def statuses(answer: list[dict[str, Any]]) -> list[str]:
    return [line["status"] for line in answer]


class Driver:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def upload(self, files: dict[str, bytes]) -> dict[str, str]:
        """Upload the files as blobs; return their digests by path, as a create takes them."""
        for data in files.values():
            async with self.session.post(f"/api/blobs/{digest_of(data)}", data=io.BytesIO(data)) as response:
                assert response.status in {200, 201}
        return {path: digest_of(data) for path, data in files.items()}

    async def lines(self, path: str, **body: Any) -> list[dict[str, Any]]:
        async with self.session.post(path, json=body) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/x-ndjson"
            return [orjson.loads(line) for line in (await response.read()).splitlines()]

    async def request(self, method: str, path: str | URL, **body: Any) -> tuple[int, Any]:
        async with self.session.request(method, path, json=body) as response:
            data = await response.read()
            return response.status, orjson.loads(data) if data else None
