"""Records what llama.cpp's converter (b10488) makes of NVFP4: `python make_nvfp4.py LLAMA_CPP FOLDER`.

It needs torch and transformers, and neither our packages nor `gguf`, which LLAMA_CPP has. FOLDER is what `python -m
tests.gguf.tiny_repositories.packed_nvfp4 FOLDER` has written. The check of the pre-tokenizer is switched off.
`nvfp4.json` gets, by repository and tensor, the type, the shape and the beginning of the digest of the bytes.
"""

# mypy: disable-error-code="import-not-found"

import hashlib
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "nvfp4.json"
DIGITS = 16
WITHOUT_FIGURES = ("mixtral_compressed", "mixtral_modelopt", "nemotron_h_compressed", "nemotron_h_modelopt")
"""The converter does not know the names of Mixtral's experts in NVFP4, and wants a key of experts of each NemotronH."""


def converted(converter: Any, folder: Path, target: Path) -> dict[str, str]:
    no_drafts = ["--no-mtp"] if folder.name.startswith("qwen3_5") else []
    sys.argv = ["convert", "--no-lazy", *no_drafts, "--outfile", str(target), str(folder)]
    converter.main()
    reader = importlib.import_module("gguf").GGUFReader(target)
    return {
        tensor.name: f"{tensor.tensor_type.name} {'x'.join(map(str, tensor.shape))} "
        f"{hashlib.sha256(tensor.data.tobytes()).hexdigest()[:DIGITS]}"
        for tensor in reader.tensors
    }


def main(llama_cpp: Path, repositories: Path) -> None:
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    importlib.import_module("conversion.base").TextModel.get_vocab_base_pre = lambda *_: "llama-bpe"
    converter = importlib.import_module("convert_hf_to_gguf")
    with tempfile.TemporaryDirectory() as scratch:
        figures = {
            folder.name: converted(converter, folder, Path(scratch) / f"{folder.name}.gguf")
            for folder in sorted(repositories.iterdir())
            if folder.name not in WITHOUT_FIGURES
        }
    lines = [f"{json.dumps(name)}: {json.dumps(one, indent=0, sort_keys=True)}" for name, one in figures.items()]
    RESULT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
