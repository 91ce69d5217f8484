"""Writes configurations.json: what transformers takes for each key of a family's config.json that is not there.

It is run where transformers is, which this project does not need (`python -m tests.gguf.make_configurations`); the
figures are those of 5.24.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from proxy.gguf.families import FAMILIES

TARGET = Path(__file__).parent / "configurations.json"
CHOSEN = {
    "Ernie4_5_ForCausalLM": "ernie4_5",
    "LFM2ForCausalLM": "lfm2",
    "Llama4ForCausalLM": "llama4_text",
    "LlamaForCausalLM": "llama",
    "LlamaModel": "llama",
    "Qwen3_5ForCausalLM": "qwen3_5_text",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe_text",
}
"""The types of models where several have one architecture, or transformers does not know it by this name."""
_MAPPINGS = (
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
)


def _types() -> dict[str, str]:
    """The type of model by its architecture, for those that transformers has."""
    types: dict[str, str] = {}
    modeling = import_module("transformers.models.auto.modeling_auto")
    for mapping in _MAPPINGS:
        for kind, names in getattr(modeling, mapping).items():
            for name in (names,) if isinstance(names, str) else names:
                types.setdefault(name, kind)
    return {**types, **CHOSEN}


def _defaults(kind: str) -> dict[str, Any]:
    """Of the text alone where the model has more; names that stand for another key have none."""
    whole = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING[kind]()
    config = type(whole.get_text_config())()
    return {**dict.fromkeys(config.attribute_map), **config.to_dict()}


def main() -> None:
    types = _types()
    lines = [f"{json.dumps(name)}: {json.dumps(_defaults(types[name]))}" for name in sorted(FAMILIES) if name in types]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
