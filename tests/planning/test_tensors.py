"""Which tensors an architecture has, and how Ollama's converter calls them."""

import pytest

from proxy.planning.tensors import FAMILIES, USELESS, ollamas_name
from tests.planning.shapes import FAMILIES as SHAPED
from tests.planning.shapes import config, shapes

GEMMA3_VISION, MISTRAL3 = "Gemma3ForConditionalGeneration", "Mistral3ForConditionalGeneration"


@pytest.mark.parametrize("architecture", SHAPED)
def test_a_family_needs_exactly_the_tensors_of_its_model(architecture: str) -> None:
    """`shapes` was written from transformers' classes, not from this table."""
    assert set(FAMILIES[architecture].required(config(architecture))) == shapes(architecture).keys()


def test_mistral_has_the_tensors_of_llama() -> None:
    assert FAMILIES["MistralForCausalLM"] is FAMILIES["LlamaForCausalLM"]


@pytest.mark.parametrize(
    ("architecture", "own_output"),
    [(family, not family.startswith("Gemma")) for family in FAMILIES],
)
def test_an_output_matrix_of_its_own_is_of_use_or_not(architecture: str, own_output: bool) -> None:
    family = FAMILIES[architecture]
    assert ("lm_head.weight" in family.optional) is own_output
    assert ("lm_head.weight" in family.useless) is not own_output


@pytest.mark.parametrize(
    ("architecture", "name", "known"),
    [
        ("LlamaForCausalLM", "model.layers.0.mlp.w2.weight", "model.layers.0.mlp.w2.weight"),
        ("MixtralForCausalLM", "a.experts.0.w1.weight", "a.experts.0.w1.weight"),
        ("MixtralForCausalLM", "a.experts.0.w2.weight", "a.experts.0.w3.weight"),
        ("MixtralForCausalLM", "a.experts.0.w3.weight", "a.experts.0.w2.weight"),
        ("Qwen2_5_VLForConditionalGeneration", "model.language_model.norm.weight", "model.norm.weight"),
        ("Qwen2_5_VLForConditionalGeneration", "model.visual.blocks.0.x", "visual.blocks.0.x"),
        ("Qwen2_5_VLForConditionalGeneration", "lm_head.weight", "lm_head.weight"),
        (GEMMA3_VISION, "model.language_model.norm.weight", "language_model.model.norm.weight"),
        (GEMMA3_VISION, "model.vision_tower.x", "vision_tower.x"),
        (GEMMA3_VISION, "model.multi_modal_projector.x", "multi_modal_projector.x"),
        (GEMMA3_VISION, "language_model.model.norm.weight", "language_model.model.norm.weight"),
        (MISTRAL3, "lm_head.weight", "language_model.lm_head.weight"),
        (MISTRAL3, "model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("BertModel", "bert.encoder.x", "encoder.x"),
        ("BertModel", "0.auto_model.encoder.x", "encoder.x"),
        ("BertModel", "encoder.x", "encoder.x"),
        ("NomicBertModel", "bert.encoder.x", "bert.encoder.x"),
    ],
)
def test_a_tensor_is_called_what_the_converter_knows(architecture: str, name: str, known: str) -> None:
    assert ollamas_name(name, architecture, bare=False) == known


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("layers.0.x", "model.layers.0.x"),
        ("embed_tokens.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.norm.weight", "model.norm.weight"),
    ],
)
def test_a_bare_model_gets_its_prefix(name: str, known: str) -> None:
    assert ollamas_name(name, "LlamaForCausalLM", bare=True) == known


@pytest.mark.parametrize(
    ("name", "useless"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", True),
        ("model.layers.0.self_attn.masked_bias", True),
        ("model.layers.0.mlp.up_proj.input_scale", True),
        ("model.layers.0.mlp.up_proj.activation_scale", True),
        ("model.layers.0.self_attn.k_scale", True),
        ("model.layers.0.self_attn.attn.output_scale", True),
        ("model.layers.0.mlp.up_proj.weight_scale", False),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", False),
        ("model.layers.0.mlp.up_proj.weight", False),
        ("model.layers.0.self_attn.q_proj.bias", False),
    ],
)
def test_what_follows_from_the_configuration_is_useless(name: str, useless: bool) -> None:
    assert bool(USELESS.fullmatch(name)) is useless
