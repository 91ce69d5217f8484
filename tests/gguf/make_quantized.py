"""Digests of llama-quantize's output for the tiny repositories and SmolLM2, converted by the proxy.

`LLAMA_QUANTIZE=path python -m tests.gguf.make_quantized` runs the llama-quantize of b10488 and writes quantized.json.
The bits are those of x86-64: where the compiler may fuse a multiplication with an addition, ggml makes other bits.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path

from proxy.gguf.draft import DraftRequest
from proxy.gguf.header import read_header
from proxy.gguf.tensor_types import FILE_TYPES
from proxy.gguf.tensors import TensorType
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.drafts import DRAFTS
from tests.gguf.writing import plan, write
from tests.kit.smollm2 import Smollm2, packaged

FIGURES = Path(__file__).with_name("quantized.json")
REFUSED = "refused"
SMOLLM2 = "SmolLM2-135M-"
CALCULATED = ("falcon_h1", "falcon_h1_norm")
"""Repositories with tensors that are calculated in F32 and not rounded before they are quantized."""
NAMES = (*REPOSITORIES, f"{SMOLLM2}BF16", f"{SMOLLM2}F16", *DRAFTS)
_DIGITS = 16


@cache
def figures() -> Mapping[str, Mapping[str, str]]:
    """By repository and file type: the file type's number, the digest of the types and that of the data."""
    content: Mapping[str, Mapping[str, str]] = json.loads(FIGURES.read_bytes())
    return content


def types_digest(types: Mapping[str, TensorType]) -> str:
    """The digest of names and types, in llama.cpp's order."""
    return data_digest(f"{name} {kind.name}\n".encode() for name, kind in types.items())


def data_digest(contents: Iterable[bytes]) -> str:
    """The digest of the tensors' bytes, in llama.cpp's order and without padding."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


@lru_cache(maxsize=1)
def smollm2(dtype: str) -> Mapping[str, bytes] | None:
    """A real model of 135M parameters as a repository, 270 MB; None where its package is not installed."""
    package = packaged()
    if package is None:
        return None
    model = Smollm2(package)
    return {**model.files(dtype), "tokenizer_config.json": model.tokenizer_config(chat_template=model.jinja)}


def files_of(name: str) -> Mapping[str, bytes] | None:
    """The files of a repository, by its name in the figures; None if it cannot be made here."""
    if name.startswith(SMOLLM2):
        return smollm2(name.removeprefix(SMOLLM2))
    return (DRAFTS if name in DRAFTS else REPOSITORIES)[name].files()


def converted(name: str) -> bytes:
    files = files_of(name)
    assert files is not None
    draft = DraftRequest() if name in DRAFTS else None
    return write(plan(files, quantization="F32" if name in CALCULATED else None, draft=draft), files)


def run_quantizer(quantizer: str, source: Path, file_type: str) -> str:
    """The entry for the figures, or `refused` with the reason."""
    target = source.with_suffix(".out")
    process = subprocess.run(
        [quantizer, str(source), str(target), file_type, "2"],
        capture_output=True,
        text=True,
        errors="replace",  # it prints half of a token
        check=False,
        timeout=900,
    )
    if process.returncode:
        reasons = [line for line in (process.stdout + process.stderr).splitlines() if "failed to quantize: " in line]
        return f"{REFUSED}: {reasons[-1].partition('failed to quantize: ')[2]}"
    content = target.read_bytes()
    header = read_header(content, size=len(content))
    starts = ((header.data_start + tensor.offset, tensor.size) for tensor in header.tensors)
    types = {tensor.name: TensorType(tensor.type) for tensor in header.tensors}
    number = header.get("general.file_type", int)
    return f"{number} {types_digest(types)} {data_digest(content[start : start + size] for start, size in starts)}"


def main() -> None:
    quantizer = os.environ["LLAMA_QUANTIZE"]
    entries: dict[str, dict[str, str]] = json.loads(FIGURES.read_bytes()) if sys.argv[1:] else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NAMES:
            source = Path(folder) / "x.gguf"
            source.write_bytes(converted(name))
            entries[name] = {file_type: run_quantizer(quantizer, source, file_type) for file_type in FILE_TYPES}
            print(name, flush=True)
    FIGURES.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
