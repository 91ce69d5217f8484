"""What llama-quantize makes of the tiny repositories and of SmolLM2, which our converter wrote, as digests.

`LLAMA_QUANTIZE=path python -m tests.gguf.make_quantized` runs that of b10488 and writes quantized.json. The bits are
those of x86-64: where the compiler may fuse a multiplication with an addition, ggml makes others.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from proxy.gguf.header import read_header
from proxy.gguf.tensor_types import FILE_TYPES
from proxy.gguf.tensors import TensorType
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import plan, write
from tests.kit.smollm2 import Smollm2, packaged

FIGURES = Path(__file__).with_name("quantized.json")
REFUSED = "refused"
SMOLLM2 = "SmolLM2-135M-"
CALCULATED = ("falcon_h1", "falcon_h1_norm")
"""Whose numbers are calculated in F32, and not rounded before they are quantized."""
NAMES = (*REPOSITORIES, f"{SMOLLM2}BF16", f"{SMOLLM2}F16")
_DIGITS = 16


def types_digest(types: Mapping[str, TensorType]) -> str:
    """Of the names and types in llama.cpp's order."""
    return data_digest(f"{name} {kind.name}\n".encode() for name, kind in types.items())


def data_digest(contents: Iterable[bytes]) -> str:
    """Of the tensors' bytes in llama.cpp's order, without what fills up between them."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


def smollm2(dtype: str) -> Mapping[str, bytes] | None:
    """A real model of 135M parameters as a repository; None where its package is not installed."""
    packed = packaged()
    if packed is None:
        return None
    model = Smollm2(packed)
    return {**model.files(dtype), "tokenizer_config.json": model.tokenizer_config(chat_template=model.jinja)}


def files_of(name: str) -> Mapping[str, bytes] | None:
    """A repository's, by its name in the figures; None where it cannot be made here."""
    return smollm2(name.removeprefix(SMOLLM2)) if name.startswith(SMOLLM2) else REPOSITORIES[name].files()


def converted(name: str) -> bytes:
    files = files_of(name)
    assert files is not None
    return write(plan(files, quantization="F32" if name in CALCULATED else None), files)


def made(quantizer: str, source: Path, file_type: str) -> str:
    """`general.file_type`, the digest of the types and that of the data; or that it refuses, and why."""
    target = source.with_suffix(".out")
    done = subprocess.run(
        [quantizer, str(source), str(target), file_type, "2"],
        capture_output=True,
        text=True,
        errors="replace",  # it prints half of a token
        check=False,
        timeout=900,
    )
    if done.returncode:
        why = [line for line in (done.stdout + done.stderr).splitlines() if "failed to quantize: " in line]
        return f"{REFUSED}: {why[-1].partition('failed to quantize: ')[2]}"
    content = target.read_bytes()
    header = read_header(content, size=len(content))
    starts = ((header.data_start + tensor.offset, tensor.size) for tensor in header.tensors)
    types = {tensor.name: TensorType(tensor.type) for tensor in header.tensors}
    number = header.get("general.file_type", int)
    return f"{number} {types_digest(types)} {data_digest(content[start : start + size] for start, size in starts)}"


def main() -> None:
    quantizer = os.environ["LLAMA_QUANTIZE"]
    figures: dict[str, dict[str, str]] = json.loads(FIGURES.read_bytes()) if sys.argv[1:] else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NAMES:
            source = Path(folder) / "x.gguf"
            source.write_bytes(converted(name))
            figures[name] = {file_type: made(quantizer, source, file_type) for file_type in FILE_TYPES}
            print(name, flush=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
