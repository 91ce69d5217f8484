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


def record(name: str, llama_cpp: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository, file = Path(folder) / FOLDER, Path(folder) / "theirs.gguf"
        write(name, repository)
        script = [sys.executable, str(llama_cpp / "convert_hf_to_gguf.py"), str(repository)]
        subprocess.run([*script, "--mmproj", "--outtype", "f16", "--outfile", str(file)], check=True)
        content = file.read_bytes()
        made = figures(read_header(content, size=len(content)), content)
        ordered = {part: dict(sorted(one.items())) for part, one in made.items()}
        (EXPECTED / f"{name}.json").write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    for one in sys.argv[1:] or sorted(TOWERED):
        record(one, Path(os.environ["LLAMA_CPP"]))
