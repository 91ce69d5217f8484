"""What an Ollama of some version converts, quantizes and runs (its convert/, server/ and llama.cpp). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy.config import Quantization
from proxy.errors import Refusal
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
GGUF_ONLY = Version(0, 34, 1)
"""From here on Ollama converts nothing and quantizes nothing; it stores and runs GGUF."""
LAST_CONVERTER = Version(0, 34, 0)
ANY_WEIGHTS = Version(0, 6, 5)
"""Before, its converter read model.safetensors and model-N-of-M.safetensors alone."""
SHORT_LIST = Version(0, 7, 0)
"""Before, llama.cpp's library quantized, to all that it knows."""
FP8_AND_BF16 = Version(0, 22, 0)
LLAMA_SERVER = Version(0, 30, 0)
CONVERTED_TO = Quantization.F16
"""What its converter writes first, whatever the repository has (v0.24, v0.33)."""
ROW = 32
"""The llama-quantize of Ollama 0.30 to 0.34.0 takes only rows that its smallest blocks divide."""

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
CUTS: Mapping[str, Version] = {
    CASED: LLAMA_SERVER,  # Ollama's own engine before makes all letters small
    "gpt-4o": Version(0, 5, 13),
    "qwen35": LLAMA_SERVER,
    "seed-coder": Version(0, 7, 0),
}
RUNS_RIGHT: Mapping[tuple[str, str], Version] = {("deepseek2", "deepseek-v3"): LLAMA_SERVER}
"""By architecture and how texts are cut. Ollama's own engine scales the attention of these by another size (v0.24)."""
EMBEDS = ("bert", "gemma-embedding", "qwen3")
"""What makes vectors before LLAMA_SERVER too. Of others the runner dies at the first text (v0.24: qwen2), knows one way
of pooling (llama), or cuts each text as a cased WordPiece (nomic-bert, nomic-bert-moe).
"""
OWN_ENGINE = Version(0, 12, 0)
RUN_AS_QWEN3 = ("qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next")
"""From OWN_ENGINE to LLAMA_SERVER these ran on an engine of Ollama's own, which takes yarn's factor out of attention
too (v0.24: logarithms of probabilities are off by 0.1 to 0.2).
"""
CUTS_ALIKE: Mapping[str, tuple[Version, str]] = {
    "gpt-oss": (Version(0, 11, 5), "gpt-4o"),
    "lfm2": (Version(0, 14, 3), "llama-bpe"),
    "lfm2moe": (Version(0, 17, 1), "llama-bpe"),
    **dict.fromkeys(RUN_AS_QWEN3, (OWN_ENGINE, "qwen2")),
}
"""From here to LLAMA_SERVER these ran on an engine of Ollama's own, which cuts them in this way, whatever they say."""
# Read from convert/convert.go at every release from v0.5.5 to v0.33.0-rc2.
CONVERTS: Mapping[str, Version] = {
    "BertModel": Version(0, 5, 5),
    "Gemma2ForCausalLM": Version(0, 5, 5),
    "GemmaForCausalLM": Version(0, 5, 5),
    "LlamaForCausalLM": Version(0, 5, 5),
    "MixtralForCausalLM": Version(0, 5, 5),
    "Phi3ForCausalLM": Version(0, 5, 5),
    "Qwen2ForCausalLM": Version(0, 5, 6),
    "CohereForCausalLM": Version(0, 5, 7),
    "Gemma3ForCausalLM": Version(0, 6, 0),
    "Gemma3ForConditionalGeneration": Version(0, 6, 0),
    "Mistral3ForConditionalGeneration": Version(0, 6, 5),
    "Llama4ForConditionalGeneration": Version(0, 6, 7),
    "MllamaForConditionalGeneration": Version(0, 7, 0),
    "Qwen2_5_VLForConditionalGeneration": Version(0, 7, 0),
    "Gemma3nForConditionalGeneration": Version(0, 9, 3),
    "GptOssForCausalLM": Version(0, 11, 0),
    "Qwen3VLForConditionalGeneration": Version(0, 12, 7),
    "Qwen3VLMoeForConditionalGeneration": Version(0, 12, 7),
    "DeepseekOCRForCausalLM": Version(0, 13, 0),
    "DeepseekV3ForCausalLM": Version(0, 13, 2),
    "Ministral3ForCausalLM": Version(0, 13, 3),
    "NomicBertModel": Version(0, 13, 3),
    "NomicBertMoEModel": Version(0, 13, 3),
    "Olmo3ForCausalLM": Version(0, 13, 4),
    "Glm4MoeLiteForCausalLM": Version(0, 14, 3),
    "Lfm2ForCausalLM": Version(0, 14, 3),
    "GlmOcrForConditionalGeneration": Version(0, 15, 5),
    "Qwen3NextForCausalLM": Version(0, 15, 5),
    "Lfm2MoeForCausalLM": Version(0, 17, 1),
    "Lfm2VlForConditionalGeneration": Version(0, 17, 1),
    "NemotronHForCausalLM": Version(0, 17, 1),
    "Qwen3_5ForConditionalGeneration": Version(0, 17, 1),
    "Qwen3_5MoeForConditionalGeneration": Version(0, 17, 1),
    "Gemma4ForCausalLM": Version(0, 20, 0),
    "Gemma4ForConditionalGeneration": Version(0, 20, 0),
    "LagunaForCausalLM": Version(0, 22, 0),
    "NemotronH_Nano_Omni_Reasoning_V3": Version(0, 22, 0),
    "NemotronH_Nano_VL_V2": Version(0, 22, 0),
    "Gemma3TextModel": Version(0, 30, 0),
}
OF_TEXT_ALONE = frozenset({"Gemma3nForConditionalGeneration"})
"""Of what its converter takes, what it leaves out all but the text of (v0.24, v0.33)."""
CONVERTED_ONCE: Mapping[str, tuple[Version, Version]] = {"MistralForCausalLM": (Version(0, 5, 5), Version(0, 6, 5))}
"""From the first version up to the second, which gave it up."""
QUANTIZES_TO = ("F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M")
"""What Ollama's own quantizer takes (its `ggml.ParseFileType`), which is asked for what its converter has made."""
OLD_QUANTIZATIONS = (
    *("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K"),
    *("IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"),
)
"""What Ollama before 0.7 quantizes to besides, without an importance matrix."""


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

    def converts(self, architecture: str) -> bool:
        since, until = CONVERTED_ONCE.get(architecture, (CONVERTS.get(architecture, NEVER), NEVER))
        return since <= self.version < min(until, GGUF_ONLY)

    def runs(self, architecture: str) -> bool:
        """Whether it runs a GGUF of this architecture, as llama.cpp calls it."""
        return self.version >= RUNS.get(architecture, OLDEST)

    def runs_right_from(self, architecture: str, pre_tokenizer: str) -> Version:
        """The version to have for a model to be calculated as llama.cpp does it."""
        return RUNS_RIGHT.get((architecture, pre_tokenizer), OLDEST)

    def embeds_from(self, architecture: str) -> Version:
        """The version to have for a model of this architecture to make vectors of texts."""
        return OLDEST if architecture in EMBEDS else LLAMA_SERVER

    def cuts_from(self, architecture: str, pre_tokenizer: str) -> Version:
        """The version to have for texts to be cut as llama.cpp does it by this name."""
        since, alike = CUTS_ALIKE.get(architecture, (NEVER, ""))
        if pre_tokenizer != alike and self.version >= since:
            return LLAMA_SERVER
        return CUTS.get(pre_tokenizer, OLDEST)

    def scales_from(self, architecture: str, rope_scaling: str) -> Version:
        """The version to have for positions to be scaled as llama.cpp does it by this name."""
        wrong = architecture in RUN_AS_QWEN3 and rope_scaling == "yarn" and self.version >= OWN_ENGINE
        return LLAMA_SERVER if wrong else OLDEST

    @property
    def takes_fp8(self) -> bool:
        return self.version >= FP8_AND_BF16

    def runs_quantization(self, quantization: str) -> bool:
        """Whether a GGUF of this file type loads and answers as it should."""
        return quantization not in NOT_RUN

    @property
    def runs_llama_server(self) -> bool:
        """Whether llama.cpp's programs quantize and run models, instead of Ollama itself."""
        return self.version >= LLAMA_SERVER

    @property
    def spoils_output(self) -> bool:
        """Whether `quantize` to BF16 or F32 makes the output matrix Q6_K."""
        return SHORT_LIST <= self.version < LLAMA_SERVER

    def warnings_of_cut(self, pre_tokenizer: str) -> tuple[str, ...]:
        """What a person should know of how it cuts texts."""
        if pre_tokenizer == UNCASED and not self.runs_llama_server:
            return (
                f"{self.ollama} does not take accents off, as this tokenizer does: words with them are unknown to it",
            )
        return ()

    def warnings_of(self, quantization: str | None) -> tuple[str, ...]:
        """What a person should know of asking its own quantizer for this."""
        if quantization in (Quantization.BF16, Quantization.F32) and self.spoils_output:
            return (f"{self.ollama} makes the output matrix Q6_K when it is asked for {quantization}",)
        return ()

    @property
    def quantizations(self) -> tuple[str, ...]:
        """What its own quantizer makes of what its converter has made."""
        return (*QUANTIZES_TO, *(OLD_QUANTIZATIONS if self.version < SHORT_LIST else ()))

    def quantization(self, tag: str) -> str | None:
        """What `quantize` is to be for a tag in any case; None where this Ollama has no such quantization."""
        wanted = "Q4_K_M" if tag.upper() == "Q4_K" else tag.upper()
        return wanted if wanted in self.quantizations else None


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
