"""What each version of Ollama can run, and where it differs from llama.cpp. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy.errors import Refusal
from proxy.gguf.keeping import NVFP4
from proxy.gguf.loader_names import (
    BEFORE_LLAMA_SERVER,
    PRE_TOKENIZERS,
    RUN_BY_OWN_ENGINE,
    SINCE_LLAMA_SERVER,
    TOKENIZERS,
    TRANSLATED,
)
from proxy.gguf.wordpiece import CASED, UNCASED


class Version(NamedTuple):
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


NUMBERS = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
DEVELOPMENT = Version(0, 0, 0)
NEVER = Version(1_000_000, 0, 0)
OLDEST = Version(0, 5, 5)
"""The first version that makes models from uploaded files."""
NEWEST = Version(0, 40, 0)
"""The newest version whose source was read: pull requests 14969 and 16590, which became 0.34.1 and 0.40."""
LLAMA_SERVER = Version(0, 30, 0)
"""From this version on llama.cpp's server runs the models; before, Ollama's own engine runs some of them."""

# The first version that runs each architecture, read from llama/llama.cpp/src/llama-arch.cpp at every release. OLDEST
# already runs those that are not listed. For Qwen with linear attention it is the first version whose own engine loads
# files of llama.cpp's converter (8da09b1e7).
RUNS_SINCE: Mapping[str, Version] = {
    "apertus": Version(0, 12, 6),
    "arcee": Version(0, 11, 5),
    "bailingmoe": Version(0, 6, 6),
    "bailingmoe2": Version(0, 12, 11),
    "bailingmoe3": Version(0, 32, 15),
    "cohere2moe": Version(0, 30, 10),
    "deci": Version(0, 7, 0),  # older versions do not know layers without a feed-forward
    "deepseek32": LLAMA_SERVER,
    "deepseek4": Version(0, 32, 2),  # 0.31 answers nonsense with a quantized KV cache (llama.cpp #25202)
    "dots1": Version(0, 11, 5),
    "ernie4_5": Version(0, 11, 5),
    "ernie4_5-moe": Version(0, 11, 5),
    "eurobert": LLAMA_SERVER,
    "exaone-moe": LLAMA_SERVER,
    "exaone4": Version(0, 11, 5),
    "falcon-h1": Version(0, 11, 5),
    "gemma-embedding": Version(0, 12, 6),  # 0.12.4 and 0.12.5 leave out the dense layers after the pooling
    "gemma3": Version(0, 6, 0),
    # Ollama's own engine leaves out a scale of each layer and the cap of the logits.
    "gemma3n": LLAMA_SERVER,
    "gemma4": Version(0, 20, 0),
    "glm-dsa": Version(0, 32, 6),  # older versions attend to all tokens
    "glm4": Version(0, 6, 6),
    "glm4moe": Version(0, 11, 5),
    "gpt-oss": Version(0, 11, 5),
    "granitehybrid": Version(0, 11, 5),
    "hunyuan-dense": Version(0, 11, 5),
    "hunyuan-moe": Version(0, 11, 5),
    "hy_v3": Version(0, 32, 2),
    "jais2": LLAMA_SERVER,
    "jamba": Version(0, 11, 5),
    "jina-bert-v2": Version(0, 11, 5),  # older versions expect the two halves of the MLP in two tensors
    "kimi-linear": LLAMA_SERVER,
    "laguna": Version(0, 32, 3),  # older versions have other names for its tensors and keys
    "lfm2": Version(0, 11, 5),
    "lfm2moe": Version(0, 12, 6),
    "llama-embed": LLAMA_SERVER,
    # Ollama's own engine also normalizes the heads of layers without RoPE.
    "llama4": LLAMA_SERVER,
    "maincoder": LLAMA_SERVER,
    "mamba2": Version(0, 11, 5),
    "mellum": Version(0, 30, 9),
    "mimo2": LLAMA_SERVER,
    "minimax-m2": Version(0, 13, 2),
    # Ollama's own engine does not read yarn_log_multiplier; 0.40 refuses the key that it reads instead.
    "mistral3": LLAMA_SERVER,
    "mistral4": LLAMA_SERVER,
    "modern-bert": LLAMA_SERVER,
    "nanbeige": Version(0, 32, 6),
    # Ollama's own engine splits texts differently from the models' tokenizers.
    "nemotron_h": LLAMA_SERVER,
    "nemotron_h_moe": LLAMA_SERVER,
    "neo-bert": Version(0, 11, 5),
    "nomic-bert-moe": Version(0, 6, 8),
    "paddleocr": LLAMA_SERVER,
    "pangu-embedded": Version(0, 13, 2),
    "plamo": Version(0, 7, 0),  # older versions rotate other pairs of numbers
    "plamo2": Version(0, 11, 5),
    "plamo3": LLAMA_SERVER,
    "qwen3": Version(0, 6, 6),
    "qwen35": Version(0, 17, 5),
    "qwen35moe": Version(0, 17, 5),
    "qwen3moe": Version(0, 6, 6),
    # Ollama's own engine reads other keys for the axes of RoPE.
    "qwen3vl": LLAMA_SERVER,
    "qwen3vlmoe": LLAMA_SERVER,
    "qwen3next": Version(0, 17, 5),
    "rwkv6": Version(0, 5, 13),  # older versions expect five tensors where the file has one
    "rwkv7": Version(0, 6, 6),
    "seed_oss": Version(0, 12, 4),
    "smallthinker": Version(0, 11, 5),
    "smollm3": Version(0, 11, 5),
    "step35": LLAMA_SERVER,
    "talkie": LLAMA_SERVER,
}
NAMES_SINCE: Mapping[str, Version] = {
    "SolarOpenForCausalLM": LLAMA_SERVER,  # it has no biases; before, llama.cpp loads a glm4moe only with them (v0.24)
}
"""By a name in config.json's `architectures`, where earlier versions run other models of the same architecture."""
# Read from llama-vocab.cpp at every release. Older versions use their default pre-tokenizer without a warning.
PRE_TOKENIZER_SINCE: Mapping[str, Version] = {
    CASED: LLAMA_SERVER,  # Ollama's own engine turns all letters into lower case
    "exaone-moe": LLAMA_SERVER,
    "gpt-4o": Version(0, 5, 13),
    "jais-2": LLAMA_SERVER,
    "kimi-k2": Version(0, 11, 5),
    "laguna": Version(0, 32, 3),
    "qwen35": LLAMA_SERVER,
    "sarvam-moe": LLAMA_SERVER,
    "seed-coder": Version(0, 7, 0),
    "tiny_aya": LLAMA_SERVER,
}
CORRECT_SINCE: Mapping[tuple[str, str], Version] = {("deepseek2", "deepseek-v3"): LLAMA_SERVER}
"""By architecture and pre-tokenizer. Ollama's own engine scales the attention of these by another size (v0.24)."""
EMBEDDING_ARCHITECTURES = ("bert", "gemma-embedding", "jina-bert-v2", "qwen3")
"""These make embeddings before LLAMA_SERVER too. With others the runner crashes at the first text (v0.24: qwen2),
supports one kind of pooling only (llama), or splits each text as a cased WordPiece (nomic-bert, nomic-bert-moe).
"""
OWN_ENGINE = Version(0, 12, 0)
RUN_AS_QWEN3 = ("qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next")
"""From OWN_ENGINE to LLAMA_SERVER Ollama's own engine runs these. It divides by YaRN's factor in the attention too
(v0.24: logarithms of probabilities are off by 0.1 to 0.2).
"""
EQUIVALENT_PRE_TOKENIZERS: Mapping[str, tuple[Version, str]] = {
    "gpt-oss": (Version(0, 11, 5), "gpt-4o"),
    "lfm2": (Version(0, 14, 3), "llama-bpe"),
    "lfm2moe": (Version(0, 17, 1), "llama-bpe"),
    **dict.fromkeys(RUN_AS_QWEN3, (OWN_ENGINE, "qwen2")),
}
"""From this version to LLAMA_SERVER Ollama's own engine runs these, always with this pre-tokenizer."""
NEWER_TENSOR_TYPE = 40
"""The first number of a tensor type, NVFP4, that ggml does not have in Ollama 0.24."""
NVFP4_SINCE = LLAMA_SERVER
"""Its llama.cpp (b9452) multiplies by the scales that `proxy/gguf/keeping.py` relies on. Tried: 0.33, 0.34.1, 0.40."""
DRAFTS_SINCE: Mapping[str, Version] = {
    "nemotron_h": Version(0, 32, 10),
    "qwen3next": Version(0, 32, 6),
}
"""The first version whose llama.cpp drafts tokens with the layers for multi-token prediction of an architecture, read
from src/models at the llama.cpp of every release. LLAMA_SERVER does with those that are not listed, and it is the first
version that asks for it: `hasMTPDraft` in llm/llama_server.go."""
PROJECTORS_SINCE = LLAMA_SERVER
"""The first version that uses the projectors that the proxy makes: its llama.cpp (b9453) knows all their kinds
(tools/mtmd/clip-impl.h)."""
NO_DRAFTS: Mapping[str, tuple[int, int]] = {"nemotron_h": (0, 40)}
"""A release with an older llama.cpp (b10242) than those before it. Its loader refuses the layer."""
UNSUPPORTED = ("TQ1_0", "TQ2_0")
"""From 0.30 on a create fails with "size overflow"; the engine of 0.24 answers with newlines (both were tried)."""


def runs_since(name: str, architecture: str) -> Version:
    """The first version that runs what config.json gives this name, and llama.cpp this architecture."""
    return max(RUNS_SINCE.get(architecture, OLDEST), NAMES_SINCE.get(name, OLDEST))


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one Ollama can do, according to its version."""

    version: Version
    warning: str | None = None
    """Set if the version had to be guessed."""

    def check_usable(self) -> None:
        """Raises Refusal for an Ollama that cannot make models from uploaded files."""
        if self.version < OLDEST:
            raise Refusal(f"{self.ollama} is too old to make models of uploaded files; update it to {OLDEST} or newer")

    @property
    def ollama(self) -> str:
        """For error texts."""
        return f"Ollama {self.version}"

    def runs(self, architecture: str) -> bool:
        """Whether it runs a GGUF of this architecture (llama.cpp's name)."""
        return self.version >= RUNS_SINCE.get(architecture, OLDEST)

    def architecture_since(self, architecture: str) -> Version:
        """The first version that loads a GGUF of this architecture; NEVER if no version up to NEWEST does."""
        if architecture in BEFORE_LLAMA_SERVER or self.version > NEWEST:
            return OLDEST
        return LLAMA_SERVER if architecture in SINCE_LLAMA_SERVER else NEVER

    def loads_unchanged(self, architecture: str) -> bool:
        """Whether llama.cpp loads a GGUF of this architecture as the file is, so that its loader's rules hold.

        False for Ollama's own engine, and for files that Ollama translates.
        """
        return architecture not in (TRANSLATED if self.runs_llama_server else RUN_BY_OWN_ENGINE)

    def knows_tokenizer(self, model: str) -> bool:
        """Whether a GGUF with this `tokenizer.ggml.model` may load."""
        return model in TOKENIZERS or self.version > NEWEST

    def tensor_type_since(self, tensor_type: int) -> Version:
        """The first version that loads tensors of this type (ggml.h)."""
        return OLDEST if tensor_type < NEWER_TENSOR_TYPE else LLAMA_SERVER

    def knows_pre_tokenizer(self, name: str) -> bool:
        """Whether a GGUF with this pre-tokenizer may load."""
        return name in PRE_TOKENIZERS or self.version > NEWEST

    def correct_since(self, architecture: str, pre_tokenizer: str) -> Version:
        """The first version that computes this model as llama.cpp does."""
        return CORRECT_SINCE.get((architecture, pre_tokenizer), OLDEST)

    def embeddings_since(self, architecture: str) -> Version:
        """The first version that makes embeddings with this architecture."""
        return OLDEST if architecture in EMBEDDING_ARCHITECTURES else LLAMA_SERVER

    def pre_tokenizer_since(self, architecture: str, pre_tokenizer: str) -> Version:
        """The first version that splits texts as llama.cpp does with this pre-tokenizer."""
        since, equivalent = EQUIVALENT_PRE_TOKENIZERS.get(architecture, (NEVER, ""))
        if pre_tokenizer != equivalent and self.version >= since:
            return LLAMA_SERVER
        return PRE_TOKENIZER_SINCE.get(pre_tokenizer, OLDEST)

    def rope_scaling_since(self, architecture: str, rope_scaling: str) -> Version:
        """The first version that scales positions as llama.cpp does for this kind of RoPE scaling."""
        differs = architecture in RUN_AS_QWEN3 and rope_scaling == "yarn" and self.version >= OWN_ENGINE
        return LLAMA_SERVER if differs else OLDEST

    def runs_quantization(self, quantization: str) -> bool:
        """Whether a GGUF of this file type loads and answers correctly."""
        return quantization not in UNSUPPORTED and (quantization != NVFP4 or self.version >= NVFP4_SINCE)

    def draft_problem(self, architecture: str) -> str:
        """Why it uses no layers for multi-token prediction in a GGUF of this architecture; empty if it does."""
        since = DRAFTS_SINCE.get(architecture, LLAMA_SERVER)
        if self.version[:2] == NO_DRAFTS.get(architecture):
            return f"{self.ollama} does not use them; the releases from {since} on do, before this one"
        return "" if self.version >= since else f"{self.ollama} does not use them; {since} or newer does"

    @property
    def runs_llama_server(self) -> bool:
        """Whether llama.cpp's server runs the models, not Ollama's own engine."""
        return self.version >= LLAMA_SERVER

    def pre_tokenizer_warnings(self, pre_tokenizer: str) -> tuple[str, ...]:
        """What the user should know about how this Ollama splits texts."""
        if pre_tokenizer == UNCASED and not self.runs_llama_server:
            return (
                f"{self.ollama} does not remove accents as this tokenizer does: it does not know words with accents",
            )
        return ()


def capabilities_of(reported: str | None, configured: str = "") -> Capabilities:
    """`reported` is the answer of `GET /api/version`, None if there was none; `configured` (ollama.version) wins."""
    if version := _version(configured) or _version(reported or ""):
        return Capabilities(version)
    reason = (
        "Ollama could not be asked for its version"
        if reported is None
        else f"Ollama reports the version {reported}, as a development build does"
    )
    return Capabilities(
        NEWEST, f"{reason}; the proxy assumes {NEWEST}: set ollama.version in its configuration if that is wrong"
    )


def _version(text: str) -> Version | None:
    match = NUMBERS.match(text)
    version = Version(int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
    return None if version == DEVELOPMENT else version
