"""What an Ollama of some version runs, and how it differs from llama.cpp where it does. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy.errors import Refusal
from proxy.gguf.loader_names import BEFORE_LLAMA_SERVER, PRE_TOKENIZERS, SINCE_LLAMA_SERVER
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
"""The first that makes a model of uploaded files."""
NEWEST = Version(0, 40, 0)
"""The last whose source was read: pull requests 14969 and 16590, which became 0.34.1 and 0.40."""
LLAMA_SERVER = Version(0, 30, 0)

# Read from llama/llama.cpp/src/llama-arch.cpp at every release; what is not here it has run since before OLDEST. Those
# of Qwen with linear attention are from when its own engine takes files of llama.cpp's converter (8da09b1e7).
RUNS: Mapping[str, Version] = {
    "arcee": Version(0, 11, 5),
    "bailingmoe2": Version(0, 12, 11),
    "ernie4_5": Version(0, 11, 5),
    "ernie4_5-moe": Version(0, 11, 5),
    "eurobert": LLAMA_SERVER,
    "exaone4": Version(0, 11, 5),
    "falcon-h1": Version(0, 11, 5),
    "gemma-embedding": Version(0, 12, 6),  # from 0.12.4 on, but without the matrices behind the pooling
    "gemma3": Version(0, 6, 0),
    # Ollama's own engine, which has 3n before, leaves out a scale of each layer and the cap of the logits.
    "gemma3n": LLAMA_SERVER,
    "gemma4": Version(0, 20, 0),
    "glm4": Version(0, 6, 6),
    "glm4moe": Version(0, 11, 5),
    "gpt-oss": Version(0, 11, 5),
    "granitehybrid": Version(0, 11, 5),
    "hunyuan-dense": Version(0, 11, 5),
    "jamba": Version(0, 11, 5),
    "jina-bert-v2": Version(0, 11, 5),  # before not with both halves of the MLP in one tensor
    "laguna": Version(0, 32, 3),  # before with names of its own for tensors and keys
    # The engine of Ollama's own before it norms the heads of layers without a rope too.
    "llama4": LLAMA_SERVER,
    # The same takes no yarn_log_multiplier, and what it takes instead, 0.40 refuses.
    "mistral3": LLAMA_SERVER,
    # The same cuts their texts in another way than their tokenizers.
    "nemotron_h": LLAMA_SERVER,
    "nemotron_h_moe": LLAMA_SERVER,
    "lfm2": Version(0, 11, 5),
    "lfm2moe": Version(0, 12, 6),
    "modern-bert": LLAMA_SERVER,
    "nomic-bert-moe": Version(0, 6, 8),
    "qwen3": Version(0, 6, 6),
    "qwen35": Version(0, 17, 5),
    "qwen35moe": Version(0, 17, 5),
    "qwen3moe": Version(0, 6, 6),
    "qwen3next": Version(0, 17, 5),
    "seed_oss": Version(0, 12, 4),
    "smollm3": Version(0, 11, 5),
}
# Read from llama-vocab.cpp at every release; before, Ollama cuts by its default and says nothing.
PRE_TOKENIZER_SINCE: Mapping[str, Version] = {
    CASED: LLAMA_SERVER,  # Ollama's own engine before makes all letters small
    "gpt-4o": Version(0, 5, 13),
    "laguna": Version(0, 32, 3),
    "qwen35": LLAMA_SERVER,
    "seed-coder": Version(0, 7, 0),
}
RUNS_RIGHT: Mapping[tuple[str, str], Version] = {("deepseek2", "deepseek-v3"): LLAMA_SERVER}
"""By architecture and how texts are cut. Ollama's own engine scales the attention of these by another size (v0.24)."""
EMBEDS = ("bert", "gemma-embedding", "jina-bert-v2", "qwen3")
"""What makes vectors before LLAMA_SERVER too. Of others the runner dies at the first text (v0.24: qwen2), knows one way
of pooling (llama), or cuts each text as a cased WordPiece (nomic-bert, nomic-bert-moe).
"""
OWN_ENGINE = Version(0, 12, 0)
RUN_AS_QWEN3 = ("qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next")
"""From OWN_ENGINE to LLAMA_SERVER these ran on an engine of Ollama's own, which takes yarn's factor out of attention
too (v0.24: logarithms of probabilities are off by 0.1 to 0.2).
"""
EQUIVALENT_PRE_TOKENIZERS: Mapping[str, tuple[Version, str]] = {
    "gpt-oss": (Version(0, 11, 5), "gpt-4o"),
    "lfm2": (Version(0, 14, 3), "llama-bpe"),
    "lfm2moe": (Version(0, 17, 1), "llama-bpe"),
    **dict.fromkeys(RUN_AS_QWEN3, (OWN_ENGINE, "qwen2")),
}
"""From here to LLAMA_SERVER these ran on an engine of Ollama's own, which cuts them in this way, whatever they say."""
NOT_RUN = ("TQ1_0", "TQ2_0")
"""From 0.30 on a create ends in "size overflow"; the engine of 0.24 answers with newlines (both were tried)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One Ollama's. `warning` is set where its version had to be guessed."""

    version: Version
    warning: str | None = None

    def check_usable(self) -> None:
        """Raises Refusal for an Ollama that makes no models of what is uploaded."""
        if self.version < OLDEST:
            raise Refusal(f"{self.ollama} is too old to make models of uploaded files; update it to {OLDEST} or newer")

    @property
    def ollama(self) -> str:
        """What a person is told that it is."""
        return f"Ollama {self.version}"

    def runs(self, architecture: str) -> bool:
        """Whether it runs a GGUF of this architecture, as llama.cpp calls it."""
        return self.version >= RUNS.get(architecture, OLDEST)

    def architecture_since(self, architecture: str) -> Version:
        """The version to have for a GGUF of this architecture to load; NEVER where none up to NEWEST does."""
        if architecture in BEFORE_LLAMA_SERVER or self.version > NEWEST:
            return OLDEST
        return LLAMA_SERVER if architecture in SINCE_LLAMA_SERVER else NEVER

    def knows_pre_tokenizer(self, name: str) -> bool:
        """Whether a GGUF whose texts are cut by this name may load."""
        return name in PRE_TOKENIZERS or self.version > NEWEST

    def correct_since(self, architecture: str, pre_tokenizer: str) -> Version:
        """The version to have for a model to be calculated as llama.cpp does it."""
        return RUNS_RIGHT.get((architecture, pre_tokenizer), OLDEST)

    def embeddings_since(self, architecture: str) -> Version:
        """The version to have for a model of this architecture to make vectors of texts."""
        return OLDEST if architecture in EMBEDS else LLAMA_SERVER

    def pre_tokenizer_since(self, architecture: str, pre_tokenizer: str) -> Version:
        """The version to have for texts to be cut as llama.cpp does it by this name."""
        since, alike = EQUIVALENT_PRE_TOKENIZERS.get(architecture, (NEVER, ""))
        if pre_tokenizer != alike and self.version >= since:
            return LLAMA_SERVER
        return PRE_TOKENIZER_SINCE.get(pre_tokenizer, OLDEST)

    def rope_scaling_since(self, architecture: str, rope_scaling: str) -> Version:
        """The version to have for positions to be scaled as llama.cpp does it by this name."""
        wrong = architecture in RUN_AS_QWEN3 and rope_scaling == "yarn" and self.version >= OWN_ENGINE
        return LLAMA_SERVER if wrong else OLDEST

    def runs_quantization(self, quantization: str) -> bool:
        """Whether a GGUF of this file type loads and answers as it should."""
        return quantization not in NOT_RUN

    @property
    def runs_llama_server(self) -> bool:
        """Whether llama.cpp's server runs models, instead of an engine of Ollama's own."""
        return self.version >= LLAMA_SERVER

    def pre_tokenizer_warnings(self, pre_tokenizer: str) -> tuple[str, ...]:
        """What a person should know of how it cuts texts."""
        if pre_tokenizer == UNCASED and not self.runs_llama_server:
            return (
                f"{self.ollama} does not take accents off, as this tokenizer does: words with them are unknown to it",
            )
        return ()


def capabilities_of(said: str | None, configured: str = "") -> Capabilities:
    """From what `GET /api/version` says, None where nobody could ask, and from `ollama.version`, which wins."""
    if version := _version(configured) or _version(said or ""):
        return Capabilities(version)
    why = (
        "Ollama could not be asked for its version"
        if said is None
        else f"Ollama calls itself {said}, as a build of one's own does"
    )
    return Capabilities(
        NEWEST, f"{why}; it is taken for {NEWEST}: set ollama.version in the proxy's configuration where it is another"
    )


def _version(text: str) -> Version | None:
    match = NUMBERS.match(text)
    version = Version(int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
    return None if version == DEVELOPMENT else version
