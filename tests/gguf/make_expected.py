"""Records what llama.cpp's converter makes of tiny repositories, in `expected`.

`LLAMA_CPP=FOLDER python -m tests.gguf.make_expected NAME…` needs llama.cpp's sources (b11434), and torch,
transformers, sentencepiece and protobuf, which this project does not depend on.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from proxy.gguf.families import FAMILIES
from proxy.gguf.header import read_header
from tests.gguf.differences import EXPECTED
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.__main__ import write
from tests.gguf.tiny_repositories.tiktoken import LISTED
from tests.gguf.writing import figures, written_to

FOLDER = "tiny-model"
"""The converter makes general.name of it."""
_CONVERT = (
    f"LISTED = {LISTED}"
    """
import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import conversion.base
import conversion.chatglm
import conversion.deci
import conversion.deepseek
import convert_hf_to_gguf
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
pre, folder = sys.argv[2], Path(sys.argv[3])
conversion.deci.DeciModel.set_vocab = conversion.base.TextModel._set_vocab_gpt2
conversion.base.TextModel.get_vocab_base_pre = lambda *_: pre
conversion.deepseek.DeepseekV32Model.set_vocab = conversion.base.TextModel._set_vocab_gpt2
path = next((one for one in ("tiktoken.model", *LISTED) if (folder / one).exists()), None)
if (folder / "tokenization_chatglm.py").exists():
    path = "tokenizer.model"
    def set_vocab(model):
        model.hparams["vocab_size"] = model.hparams["padded_vocab_size"]
        model._set_vocab_qwen()
    conversion.chatglm.ChatGLMModel.set_vocab = set_vocab
if path:
    lines = (line.split() for line in (folder / path).read_text().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    names = {int(at): token["content"] for at, token in config.get("added_tokens_decoder", {}).items()}
    reserved = [names.get(at, f"<|reserved_token_{at}|>") for at in range(len(ranks), len(ranks) + 256)]
    named = names.values() if path == "tokenizer.model" else reserved
    specials = {text: at for at, text in enumerate(LISTED.get(path, named), len(ranks))}
    tokenizer = SimpleNamespace(
        model=SimpleNamespace(_mergeable_ranks=ranks), mergeable_ranks=ranks, vocab_size=len(ranks) + len(specials),
        special_tokens=specials, eos_id=specials.get(config.get("eos_token")), get_vocab=lambda: specials,
    )
    transformers.AutoTokenizer.from_pretrained = lambda *_, **__: tokenizer
if json.loads((folder / "config.json").read_text())["model_type"] == "step3p5":
    transformers.AutoTokenizer.from_pretrained = transformers.PreTrainedTokenizerFast.from_pretrained
for model_type in ("bailing_hybrid", "mimo_v2_flash", "step3p5"):
    CONFIG_MAPPING._mapping.pop(model_type)
sys.argv[1:] = sys.argv[3:]
convert_hf_to_gguf.main()
"""
)
"""The converter knows a pre-tokenizer by the tokens that real tokenizers make of a text, so it does not know tiny
ones. It gets the name from here; tests/gguf/test_vocabulary.py holds how the proxy finds the name. For DeciLM it takes
every vocabulary of another size than Llama 3's for that of DeciLM-7B. For DeepSeek V3.2 it demands an attribute that
tokenizers of transformers 5 never have. For a vocabulary of tiktoken it runs the repository's code, which tiny ones
lack; for GLM-4's it demands merges that no file has, so it reads it as Qwen's. It reads config.json of MiMo V2, Ling 3
and Step 3.5 in the authors' form, which transformers 5.24 would change; Step's makes no tokenizer then."""

WITHOUT_PREDICTION = frozenset(("deepseek32", "glm_dsa", "mimo_v2", "step35"))
"""Repositories with a layer for multi-token prediction, which the converter leaves out only if it is told to."""


def _leaves_out_prediction(name: str) -> bool:
    has_draft = name in REPOSITORIES and FAMILIES[REPOSITORIES[name].architecture].draft is not None
    return has_draft or name in WITHOUT_PREDICTION


def record(name: str, llama_cpp: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository, file = Path(folder) / FOLDER, Path(folder) / "theirs.gguf"
        write(name, repository)
        ours = written_to(Path(folder) / "ours.gguf", repository).read_bytes()
        pre = read_header(ours, size=len(ours)).metadata.get("tokenizer.ggml.pre")
        arguments = [str(llama_cpp), str(pre.value if pre else "default"), str(repository), "--outfile", str(file)]
        options = ["--outtype", "auto", *(["--no-nextn"] if _leaves_out_prediction(name) else [])]
        subprocess.run([sys.executable, "-c", _CONVERT, *arguments, *options], check=True)
        content = file.read_bytes()
        made = {
            part: dict(sorted(one.items()))
            for part, one in figures(read_header(content, size=len(content)), content).items()
        }
        (EXPECTED / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    for one in sys.argv[1:]:
        record(one, Path(os.environ["LLAMA_CPP"]))
