"""Writes configurations.json: the defaults of transformers for each key of each family's config.json.

Run it with `python -m tests.gguf.make_configurations` where transformers is installed; this project does not need it.
The present file is from 5.24.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from proxy.gguf.families import FAMILIES

TARGET = Path(__file__).parent / "configurations.json"
CHOSEN_TYPES = {
    "Ernie4_5_ForCausalLM": "ernie4_5",
    "ExaoneMoEForCausalLM": "exaone_moe",
    "LFM2ForCausalLM": "lfm2",
    "Llama4ForCausalLM": "llama4_text",
    "LlamaForCausalLM": "llama",
    "LlamaModel": "llama",
    "MPTForCausalLM": "mpt",
    "Qwen3_5ForCausalLM": "qwen3_5_text",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe_text",
    "SarvamMoEForCausalLM": "sarvam_moe",
}
"""Architecture → model type, if several types share it or transformers does not have this name."""
_MAPPINGS = (
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
)


def _types() -> dict[str, str]:
    """Architecture → model type in transformers."""
    types: dict[str, str] = {}
    modeling = import_module("transformers.models.auto.modeling_auto")
    for mapping in _MAPPINGS:
        for model_type, names in getattr(modeling, mapping).items():
            for name in (names,) if isinstance(names, str) else names:
                types.setdefault(name, model_type)
    return {**types, **CHOSEN_TYPES}


def _defaults(model_type: str) -> dict[str, Any]:
    """Of the text part if the model has others. An alias of another key has no default of its own."""
    full_config = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING[model_type]()
    config = type(full_config.get_text_config())()
    return {**dict.fromkeys(config.attribute_map), **config.to_dict()}


def main() -> None:
    types = _types()
    lines = [f"{json.dumps(name)}: {json.dumps(_defaults(types[name]))}" for name in sorted(FAMILIES) if name in types]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
