"""The text of SmolVLM and Idefics 3, a Llama. Pure."""

from dataclasses import replace

from proxy.gguf.families.common_keys import ANY_SILU
from proxy.gguf.families.llama import LLAMA
from proxy.gguf.families.text_part import TextPart

SMOLVLM = replace(
    LLAMA,
    # Those of transformers' LlamaConfig, which the published files leave out.
    defaults={
        **LLAMA.defaults,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    accepted_values={
        **ANY_SILU,
        "qk_layer_norms": (False, None),
        "rope_interleaved": (False, None),
        "use_resampler": (False, None),
    },
    # Of code that came before that of transformers.
    harmless_keys=LLAMA.harmless_keys | {"is_llama_config", "perceiver_config", "pixel_shuffle_factor"},
    keeps_output=True,
    text_part=TextPart({"model.text_model.": "model."}, ("model.vision_model.", "model.connector."), "see"),
)
