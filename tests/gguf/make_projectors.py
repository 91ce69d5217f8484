"""Records the projectors that llama.cpp's converter makes of tiny repositories, in `expected/projectors`.

`LLAMA_CPP=FOLDER python -m tests.gguf.make_projectors [NAME…]` needs what `make_expected.py` needs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from proxy.gguf.header import read_header
from tests.gguf.make_expected import FOLDER
from tests.gguf.projecting import EXPECTED, TOWERED
from tests.gguf.tiny_repositories.__main__ import write
from tests.gguf.writing import figures

_CONVERT = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import conversion.llava
import convert_hf_to_gguf
of_pictures = conversion.llava.LlavaVisionModel.filter_tensors
conversion.llava.LlavaVisionModel.filter_tensors = classmethod(
    lambda _, item: item if item[0].endswith("embed_tokens.weight") else of_pictures(item)
)
sys.argv[1:] = sys.argv[2:]
convert_hf_to_gguf.main()
"""
"""b11434 drops all tensors of the text before it takes the row of [IMG_BREAK] for Pixtral from them, and its loader
refuses what it makes (https://github.com/ggml-org/llama.cpp/issues/24235): here it keeps the embeddings."""


def record(name: str, llama_cpp: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository, file = Path(folder) / FOLDER, Path(folder) / "theirs.gguf"
        write(name, repository)
        script = [sys.executable, "-c", _CONVERT, str(llama_cpp), str(repository)]
        subprocess.run([*script, "--mmproj", "--outtype", "f16", "--outfile", str(file)], check=True)
        content = file.read_bytes()
        made = figures(read_header(content, size=len(content)), content)
        ordered = {part: dict(sorted(one.items())) for part, one in made.items()}
        (EXPECTED / f"{name}.json").write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    for one in sys.argv[1:] or sorted(TOWERED):
        record(one, Path(os.environ["LLAMA_CPP"]))
