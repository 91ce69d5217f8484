"""Writes digests of the tokens that llama.cpp makes of nasty texts with the tokenizers in our GGUFs.

`LLAMA_SERVER=path python -m tests.tokenizing.make_llama_tokens` runs the server of b10488 and writes llama_tokens.json.
"""

import hashlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from proxy.gguf.header import read_header
from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES
from tests.gguf.pre_tokenizer_cases import TEXTS, covering_bpe, covering_pieces
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.tokenizer import Tokenizer
from tests.gguf.writing import plan, write
from tests.kit.tiny_models import tiny_bert, tiny_xlm_roberta
from tests.tokenizing.nasty_texts import nasty_texts

DIGESTS = Path(__file__).with_name("llama_tokens.json")
RANDOM_TEXTS = 300
_DIGITS = 8
_SECONDS = 60.0

Files = Mapping[str, bytes]


def with_tokenizer(name: str, tokenizer: Tokenizer) -> dict[str, bytes]:
    return replace(REPOSITORIES[name], tokenizer=lambda: tokenizer).files()


def _cut(name: str) -> dict[str, bytes]:
    cut = next(cut for cut, known in PRE_TOKENIZER_NAMES.items() if known == name)
    return with_tokenizer("qwen2", covering_bpe(cut, name))


CASES: Mapping[str, tuple[Callable[[], Files], str]] = {
    **{name: (partial(_cut, name), "Tiny") for name in sorted(set(PRE_TOKENIZER_NAMES.values()))},
    "pieces": (lambda: with_tokenizer("llama-2", covering_pieces(model=True)), "Tiny"),
    "pieces of tokenizer.json": (lambda: with_tokenizer("llama-2", covering_pieces(model=False)), "Tiny"),
    "pieces that eat spaces": (lambda: with_tokenizer("llama-2", _as_phi_3()), "Tiny Phi-3"),
    **{
        name: (REPOSITORIES[name].files, "Tiny")
        for name in ("llama", "llama_pieces", "internlm2", "gemma", "gemma3_json", "gemma4", "olmo2_tokens", "sarvam")
    },
    "bert": (tiny_bert, "Tiny"),
    "xlm_roberta": (tiny_xlm_roberta, "Tiny"),
}
"""Repositories, and the names of their GGUFs."""


def _as_phi_3() -> Tokenizer:
    """With the four tokens that llama.cpp finds by name, and others that strip the spaces after them."""
    pieces = covering_pieces(model=False)
    tokenizer, config = (json.loads(pieces.files[path]) for path in ("tokenizer.json", "tokenizer_config.json"))
    added = tokenizer["added_tokens"]
    added.append({**added[-1], "id": added[-1]["id"] + 1, "content": "<|endoftext|>"})
    for token in added:
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    config.pop("added_tokens_decoder")
    files = {"tokenizer.json": json.dumps(tokenizer).encode(), "tokenizer_config.json": json.dumps(config).encode()}
    return Tokenizer(files, pieces.rows + 1, pieces.specials)


def texts_of(gguf: bytes) -> list[str]:
    """The fixed texts, and random texts with special tokens of this tokenizer."""
    header = read_header(gguf)
    tokens, types = (header.get(f"tokenizer.ggml.{key}", list) or [] for key in ("tokens", "token_type"))
    specials = [text for text, kind in zip(tokens, types, strict=True) if kind in (2, 3, 4) and len(text) > 1]
    return [*TEXTS, *nasty_texts(RANDOM_TEXTS, specials[:50])]


def digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:_DIGITS]


@contextmanager
def _serving(program: str, gguf: Path) -> Iterator[Callable[[str, bool], list[int]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port), "-c", "256", "--no-warmup"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path: str, body: object = None) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content)
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return bytes(response.read())

    def tokenize(text: str, add_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return list(json.loads(ask("/tokenize", body))["tokens"])

    try:
        until = time.monotonic() + _SECONDS
        while True:
            try:
                ask("/health")
                break
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield tokenize
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    program = os.environ["LLAMA_SERVER"]
    digests: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, (make, name) in CASES.items():
            files, path = make(), Path(folder) / "x.gguf"
            path.write_bytes(write(plan(files, name=name), files))
            with _serving(program, path) as tokenize:
                texts = texts_of(path.read_bytes())
                digests[case] = [digest(tokenize(text, bool(at % 2))) for at, text in enumerate(texts)]
            print(case, flush=True)
    lines = (f"{json.dumps(case)}: {json.dumps(' '.join(values))}" for case, values in digests.items())
    DIGESTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
