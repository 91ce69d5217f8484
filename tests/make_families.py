"""Writes docs/families.md: the measurements of each family that the proxy converts (`python -m tests.make_families`).

The figures come from tests/gguf/expected and from tests/real/measured.json. Runs of tests/real add to the latter:
`MEASURED=tests/real/measured.json OLLAMA_BIN=… python -m pytest tests/real/test_{conversion,logprobs,embedding}.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from proxy.gguf.families import FAMILIES
from proxy.gguf.families.family import Family
from proxy.gguf.families.refused import REFUSED
from proxy.gguf.header import read_header
from proxy.gguf.projectors import TOWERS
from proxy.planning.capabilities import (
    CORRECT_SINCE,
    EMBEDDING_ARCHITECTURES,
    LLAMA_SERVER,
    OLDEST,
    PRE_TOKENIZER_SINCE,
    PROJECTORS_SINCE,
    RUNS_SINCE,
    Version,
    runs_since,
)
from tests.gguf.differences import LEFT_OUT, WITHOUT_FIGURES, differences, llama_cpp_figures
from tests.gguf.projecting import ONLY_OURS, OTHER_NAMES, OTHER_VALUES, TOWERED
from tests.gguf.tiny_repositories.sighted import SIGHTED
from tests.kit.tiny_conversions import plan_with
from tests.real.make_logprobs import TOLERANCE, WITHOUT_LOGPROBS
from tests.real.measuring import ALL_FILES, FILES, MEASURED
from tests.real.test_embedding import EMBEDDERS
from tests.real.test_logprobs import DEVIATIONS, LOGPROBS, WINDOWS, WINDOWS_REASON

PRE = "tokenizer.ggml.pre"
PAGE = Path(__file__).parent.parent / "docs" / "families.md"
INTRODUCTION = f"""# Measurements of each family

`python -m tests.make_families` writes this page from recorded figures. Each family has tiny repositories with random
weights (`tests/gguf/tiny_repositories`). An architecture without its own repository has the figures of the same
family under another name: Qwen2Model has those of Qwen2ForCausalLM. The columns:

- **GGUF**: llama.cpp's name of the architecture.
- **from**: the first Ollama that runs the family. A repository may need a newer one for its tokenizer or its RoPE.
- **sees**: llama.cpp's name of the projector that the proxy makes too; [below](#models-that-see-and-hear) is how it
  was compared. Without one, only the text of such a model is converted, and the pull says so.
- **converter**: `equal` if tensors and metadata are bit by bit those of llama.cpp's converter (b11434), without the
  keys that the proxy never writes. Otherwise the number of keys that differ,
  [with the reasons](#differences-from-llamacpps-converter). `1 of 2` means that llama.cpp's converter does
  [not make](#what-llamacpps-converter-does-not-make) the other repository.
- **a column for each Ollama**: first the largest difference between the logprobs of the first token in Ollama and in
  transformers 5.24, both in F32; for RWKV-7 in its authors' package rwkv 0.8.32. The limit is {TOLERANCE}, and lower
  for flat logits. The prompts had equally many tokens in both, and the greedy tokens were the same. For models that
  embed texts, it is the smallest cosine between the vectors of both. Then the quantization that was pulled, loaded
  and gave an answer. `1 of 2` means that the other repository was [refused](#refusals) before the download, because
  this Ollama is too old for it.
"""


@dataclass(frozen=True)
class Row:
    """One of config.json's `architectures`, and the repositories that represent it."""

    architecture: str
    family: Family
    repositories: tuple[str, ...]
    """Names in FILES."""
    embedders: tuple[str, ...]
    """Names in vectors.json."""


def _config(files: Mapping[str, bytes]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(files["config.json"])
    return config


@cache
def _configs() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The config.json of each repository, and of each repository whose vectors are compared."""
    return (
        {name: _config(files()) for name, files in ALL_FILES.items()},
        {name: _config(files()) for name, files in EMBEDDERS.items()},
    )


def _family(config: Mapping[str, Any]) -> Family:
    family = FAMILIES[config["architectures"][0]]
    return family.resolve(family.config(config))


def _representatives(architecture: str) -> list[tuple[str, ...]]:
    """Repositories and embedders with this architecture; if there are none, those of the same family."""
    own = [
        tuple(name for name, config in configs.items() if config["architectures"][0] == architecture and name in names)
        for configs, names in zip(_configs(), (FILES, EMBEDDERS), strict=True)
    ]
    if any(own):
        return own
    if sighted := tuple(name for name, tiny in SIGHTED.items() if tiny.architecture == architecture):
        return [sighted, ()]
    return [
        tuple(name for name, config in configs.items() if name in names and _is_same(architecture, config))
        for configs, names in zip(_configs(), (FILES, EMBEDDERS), strict=True)
    ]


def _is_same(architecture: str, config: Mapping[str, Any]) -> bool:
    is_same = FAMILIES[architecture].architecture == FAMILIES[config["architectures"][0]].architecture
    return is_same and _family({**config, "architectures": [architecture]}) is _family(config)


def rows() -> list[Row]:
    return [Row(name, FAMILIES[name], *_representatives(name)) for name in sorted(FAMILIES, key=str.casefold)]


def _names(row: Row) -> list[str]:
    configs, _ = _configs()
    return sorted({_family(configs[name]).architecture for name in row.repositories})


def _first_ollama(row: Row) -> Version:
    has_no_head = row.architecture.endswith("Model") and not row.architecture.endswith("LMHeadModel")
    only_embeds = (has_no_head or row.family.embeds) and row.family.architecture not in EMBEDDING_ARCHITECTURES
    return max(min(map(_repository_first_ollama, row.repositories)), LLAMA_SERVER if only_embeds else OLDEST)


def _repository_first_ollama(name: str) -> Version:
    """The first Ollama that runs a repository, by the architecture and the pre-tokenizer of its GGUF."""
    configs, _ = _configs()
    config = configs[name]
    family = _family(config)
    pre = _pre_tokenizer(name)
    return max(
        runs_since(config["architectures"][0], FAMILIES[config["architectures"][0]].architecture),
        RUNS_SINCE.get(family.architecture, OLDEST),
        CORRECT_SINCE.get((family.architecture, pre), OLDEST),
        PRE_TOKENIZER_SINCE.get(pre, OLDEST),
    )


def _pre_tokenizer(name: str) -> str:
    """Empty if the GGUF names none."""
    if name not in WITHOUT_FIGURES:
        return str(llama_cpp_figures(name)["metadata"].get(PRE, {}).get("value", ""))
    conversion = plan_with(name)
    field = read_header(conversion.header, size=conversion.size).metadata.get(PRE)
    return "" if field is None else str(field.value)


def _converter(row: Row) -> str:
    compared = [name for name in row.repositories if name not in WITHOUT_FIGURES]
    if not compared:
        return "not compared"
    keys = {key for name in compared for key in differences(name)}
    result = f"{len(keys)} key{'s' if len(keys) > 1 else ''}" if keys else "equal"
    return result + _share(compared, row.repositories)


def _share(part: Sequence[str], whole: Sequence[str]) -> str:
    return "" if len(part) == len(whole) else f" ({len(part)} of {len(whole)})"


def _cell(row: Row, measured: Mapping[str, Mapping[str, Any]]) -> str:
    if SIGHTED.keys() >= set(row.repositories):
        return "[below](#models-that-see-and-hear)"
    deltas, cosines, quantizations = (measured.get(kind, {}) for kind in ("delta", "cosine", "quantization"))
    parts = []
    with_logprobs = [name for name in row.repositories if name in LOGPROBS]
    if compared := [name for name in with_logprobs if name in deltas]:
        parts.append(f"{max(deltas[name] for name in compared):.5f}{_share(compared, with_logprobs)}")
    if compared := [name for name in row.embedders if name in cosines]:
        parts.append(f"cosine {min(cosines[name] for name in compared):.6f}{_share(compared, row.embedders)}")
    if answered := [name for name in row.repositories if name in quantizations]:
        types = ", ".join(sorted({quantizations[name] for name in answered}))
        parts.append(f"{types}{_share(answered, row.repositories)}")
    return "; ".join(parts) or "refused"


def _table(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    titles = ["`architectures`", "GGUF", "from", "sees", "converter", *measured]
    lines = [titles, ["---"] * len(titles)]
    for row in rows():
        sees = ", ".join(tower.kind for tower in TOWERS.get(row.architecture, ()))
        cells = [row.architecture, ", ".join(_names(row)), str(_first_ollama(row)), sees, _converter(row)]
        lines.append([*cells, *(_cell(row, figures) for figures in measured.values())])
    return [f"| {' | '.join(cells)} |" for cells in lines]


SEEN = """Each has a tiny repository with a tower of random weights. The columns:

- **from**: the first Ollama that uses the projector. For an older one the pull is refused, with how to get the text
  alone.
- **converter**: `equal` if all tensors and keys of the projector (F16) are bit by bit those of llama.cpp's converter
  (b11434). Otherwise the keys that differ.
- **a column for each Ollama**: the largest difference between the logprobs of the first token in Ollama and in
  transformers 5.24, over three pictures (red, blue, four colors) or three sounds. The text is F32 and the projector
  F16, without flash attention (`OLLAMA_FLASH_ATTENTION=0`): with it, llama.cpp (b10488) adds up in F16 on a CPU,
  which is 0.08 for a Qwen2.5-VL picture of 4,096 patches. The prompts had equally many tokens, and the greedy tokens
  were the same. Where a pull warns that llama.cpp
  computes otherwise than the authors' code, transformers was changed to do the same (Gemma 4, Llama 4, Qwen2-Audio,
  Voxtral); InternVL's difference is the one that its pull warns of.
"""


def _sights(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = {version: figures["sight"] for version, figures in measured.items() if "sight" in figures}
    titles = ["`architectures`", "projector", "it can", "from", "converter", *columns]
    lines = [titles, ["---"] * len(titles)]
    for architecture, towers in sorted(TOWERS.items()):
        names = [name for name, tiny in TOWERED.items() if tiny.architecture == architecture]
        keys = {key for name in names for key in {**ONLY_OURS.get(name, {}), **OTHER_VALUES.get(name, {})}}
        keys |= {OTHER_NAMES[name][1].strip(".") for name in names if name in OTHER_NAMES}
        kinds, abilities = (dict.fromkeys(getattr(tower, key) for tower in towers) for key in ("kind", "ability"))
        deltas = [
            f"{max(figures[name] for name in names if name in figures):.5f}"
            if any(name in figures for name in names)
            else "not run"
            for figures in columns.values()
        ]
        equal = ", ".join(f"`{key}`" for key in sorted(keys)) or "equal"
        lines.append([architecture, ", ".join(kinds), ", ".join(abilities), str(PROJECTORS_SINCE), equal, *deltas])
    return [SEEN, *(f"| {' | '.join(cells)} |" for cells in lines)]


def _differences() -> list[str]:
    """One line for each key and reason."""
    repositories: dict[tuple[str, str], list[str]] = {}
    for name in FILES.keys() - WITHOUT_FIGURES.keys():
        for key, reason in differences(name).items():
            repositories.setdefault((key, reason), []).append(name)
    return [
        *(f"- `{key}` (all): {reason}." for key, reason in LEFT_OUT.items()),
        *(f"- `{key}` ({_listed(names)}): {reason}." for (key, reason), names in sorted(repositories.items())),
    ]


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"- {_listed(alike)}: {reason}." for reason, alike in sorted(names.items())]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _refusals(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The error texts, without the names of the test repositories at their start."""
    return [
        line
        for figures in measured.values()
        for line in _by_reason({name: text.partition(": ")[2] for name, text in figures.get("refusal", {}).items()})
    ]


MODELS_PAGE = PAGE.with_name("models.md")
START, END = "<!-- python -m tests.make_families writes this table -->", "<!-- end of the table -->"
MODELS: Mapping[str, str] = {
    "Gemma3ForConditionalGeneration": "Gemma 3 from 4B on",
    "Gemma4ForConditionalGeneration": "Gemma 4",
    "Idefics3ForConditionalGeneration": "Idefics 3, SmolVLM",
    "InternVLChatModel": "InternVL with InternViT-300M",
    "InternVLForConditionalGeneration": "InternVL (-hf)",
    "Lfm2VlForConditionalGeneration": "LFM2-VL",
    "Llama4ForConditionalGeneration": "Llama 4",
    "Mistral3ForConditionalGeneration": "Mistral Small 3.1 to 4, Ministral 3",
    "PaddleOCRVLForConditionalGeneration": "PaddleOCR-VL",
    "Qwen2AudioForConditionalGeneration": "Qwen2-Audio",
    "Qwen2VLForConditionalGeneration": "Qwen2-VL",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL",
    "Qwen3VLForConditionalGeneration": "Qwen3-VL",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3-VL with experts",
    "Qwen3_5ForConditionalGeneration": "Qwen3.5",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3.5 with experts",
    "SmolVLMForConditionalGeneration": "SmolVLM 2",
    "VoxtralForConditionalGeneration": "Voxtral",
}
"""Architecture → the names that people know."""


def models_table() -> str:
    """What sees and hears, by the declarations."""
    lines = ["| model | `architectures` | sees | hears | from Ollama |", "|---|---|---|---|---|"]
    for architecture, towers in sorted(TOWERS.items(), key=lambda one: MODELS[one[0]].casefold()):
        abilities = {tower.ability for tower in towers}
        marks = ("yes" if ability in abilities else "" for ability in ("see", "hear"))
        since = max(PROJECTORS_SINCE, runs_since(architecture, FAMILIES[architecture].architecture))
        lines.append(f"| {MODELS[architecture]} | {architecture} | {' | '.join(marks)} | {since} |")
    return "\n".join(lines)


def models_page() -> str:
    """docs/models.md with this table."""
    before, _, rest = MODELS_PAGE.read_text().partition(START)
    return f"{before}{START}\n\n{models_table()}\n\n{END}{rest.partition(END)[2]}"


def page() -> str:
    measured = json.loads(MEASURED.read_bytes())
    sections = [
        ("", _table(measured)),
        ("## Models that see and hear\n", _sights(measured)),
        ("## Differences from llama.cpp's converter\n", _differences()),
        ("## What llama.cpp's converter does not make\n", _by_reason(WITHOUT_FIGURES)),
        (
            "## Logprobs that differ\n",
            [
                *_by_reason({name: reason for name, (_, reason) in DEVIATIONS.items()}),
                *_by_reason(dict.fromkeys(WINDOWS, WINDOWS_REASON)),
            ],
        ),
        ("## Logprobs that were not compared\n", _by_reason(WITHOUT_LOGPROBS)),
        ("## Refusals\n", _refusals(measured)),
        ("## Architectures that are refused by name\n", _by_reason(REFUSED)),
    ]
    return "\n".join([INTRODUCTION, *("\n".join([title, *lines]).lstrip("\n") + "\n" for title, lines in sections)])


if __name__ == "__main__":
    PAGE.write_text(page())
    MODELS_PAGE.write_text(models_page())
