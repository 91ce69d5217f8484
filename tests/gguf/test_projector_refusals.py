"""Settings of towers that llama.cpp computes otherwise are refused; each error names the key."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.projecting import projection, towered
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_families import Files, pack_safetensors, unpack_safetensors

_QWEN_VL = ("qwen2vl", "qwen2_5_vl", "qwen3vl", "qwen3_5_eyes")
_MISTRAL = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}


def _changed(name: str, outer: Mapping[str, Any], vision: Mapping[str, Any], images: Mapping[str, Any]) -> Files:
    files = towered(name)
    config, preprocessor = (json.loads(files[path]) for path in ("config.json", "preprocessor_config.json"))
    config |= {**outer, **({"vision_config": config["vision_config"] | vision} if "vision_config" in config else {})}
    return {**files, "config.json": dump(config), "preprocessor_config.json": dump(preprocessor | images)}


@pytest.mark.parametrize(
    ("name", "outer", "named"),
    [
        ("internvl", {"downsample_ratio": 0.3}, "downsample_ratio = 0.3"),
        ("internvl", {"vision_feature_layer": -2}, "vision_feature_layer = -2"),
        ("internvl", {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
        ("internvl", {"projector_hidden_act": "silu"}, "projector_hidden_act"),
        ("internvl_chat", {"ps_version": "v1"}, "ps_version"),
        ("mistral3_eyes", {"vision_feature_layer": -2}, "vision_feature_layer = -2"),
        ("mistral3_eyes", {"projector_hidden_act": "relu"}, "projector_hidden_act"),
        ("mistral3_eyes", {"spatial_merge_size": 4}, "mm.patch_merger"),
        ("smolvlm", {"scale_factor": 1}, "scale_factor = 1"),
        ("smolvlm", {"scale_factor": 3}, "scale_factor = 3"),
        ("smolvlm", {"scale_factor": 4}, "mm.model.fc"),
        ("internvl_chat", {"select_layer": -4}, "select_layer = -4"),
        ("internvl_chat", {"dynamic_image_size": False}, "dynamic_image_size"),
        ("internvl_chat", {"force_image_size": 224}, "force_image_size = 224"),
        ("lfm2_vl", {"projector_hidden_act": "silu"}, "projector_hidden_act"),
        ("lfm2_vl", {"vision_feature_layer": -2}, "vision_feature_layer = -2"),
        ("voxtral", {"projector_hidden_act": "relu"}, "projector_hidden_act"),
    ],
)
def test_setting_beside_the_towers_is_refused(name: str, outer: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        projection(_changed(name, outer, {}, {}))


@pytest.mark.parametrize(
    ("name", "vision", "named"),
    [
        ("internvl", {"hidden_act": "quick_gelu"}, "hidden_act"),
        ("internvl", {"norm_type": "rms_norm"}, "norm_type"),
        ("internvl", {"use_qk_norm": True}, "use_qk_norm = True"),
        ("internvl", {"use_mean_pooling": False}, "use_mean_pooling = False"),
        ("internvl", {"image_size": [112, 224]}, "image_size"),
        ("internvl_chat", {"qk_normalization": True}, "qk_normalization = True"),
        ("mistral3_eyes", {"hidden_act": "relu"}, "hidden_act"),
        ("mistral3_eyes", {"rope_theta": 1e6}, "rope_theta"),
        ("mistral3_eyes", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        ("mistral3_eyes", {"head_dim": 32}, "head_dim = 32"),
        ("mistral3_eyes", {"num_channels": 1}, "num_channels = 1"),
        ("smolvlm", {"hidden_act": "gelu"}, "hidden_act"),
        ("smolvlm", {"image_size": 56}, "v.position_embd"),
        ("internvl_chat", {"hidden_size": 3200, "num_hidden_layers": 45}, "RMS"),
        ("llama4_eyes", {"hidden_act": "quick_gelu"}, "hidden_act"),
        ("llama4_eyes", {"norm_eps": 1e-6}, "norm_eps"),
        ("llama4_eyes", {"pixel_shuffle_ratio": 0.3}, "pixel_shuffle_ratio = 0.3"),
        ("llama4_eyes", {"pixel_shuffle_ratio": 0.25}, "intermediate_size"),
        ("llama4_eyes", {"rope_theta": 100.0}, "rope_theta = 100.0"),
        ("llama4_eyes", {"multi_modal_projector_bias": True}, "multi_modal_projector_bias"),
        ("llama4_eyes", {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
        ("gemma4_inputs", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("gemma4_inputs", {"pooling_kernel_size": 2}, "pooling_kernel_size = 2"),
        ("gemma4_inputs", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("gemma4_inputs", {"num_key_value_heads": 2}, "2 of K and V"),
        ("gemma4_inputs", {"rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}}, "rope_parameters"),
        ("gemma4_inputs", {"position_embedding_size": 512}, "position_embedding_table"),
        ("gemma4_inputs", {"standardize": False}, "v.std_bias"),
        ("gemma4_inputs", {"use_clipped_linears": False}, "input_max"),
        ("lfm2_vl", {"hidden_act": "gelu"}, "hidden_act"),
        ("paddleocr_vl", {"hidden_act": "gelu"}, "hidden_act"),
        ("paddleocr_vl", {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ("paddleocr_vl", {"spatial_merge_size": 4}, "spatial_merge_size = 4"),
        ("paddleocr_vl", {"rope_parameters": {"rope_theta": 5000.0}}, "rope_parameters"),
        ("lfm2_vl", {"patch_size": 14}, "patch_size = 14"),
        *((name, {"spatial_merge_size": 3}, "spatial_merge_size = 3") for name in _QWEN_VL),
        *((name, {"temporal_patch_size": 1}, "temporal_patch_size = 1") for name in _QWEN_VL),
        *((name, {"hidden_act": "gelu"}, "hidden_act = 'gelu'") for name in _QWEN_VL),
        *((name, {"rope_parameters": {"rope_theta": 5000.0}}, "rope_theta = 5000.0") for name in _QWEN_VL),
        ("qwen2vl", {"mlp_ratio": 3}, "mlp_ratio = 3"),
        ("qwen2vl", {"in_chans": 1}, "in_channels = 1"),
        ("qwen2_5_vl", {"window_size": 56}, "window_size = 56"),
        ("qwen2_5_vl", {"fullatt_block_indexes": [0, 3]}, "fullatt_block_indexes"),
        ("qwen2_5_vl", {"fullatt_block_indexes": [1]}, "fullatt_block_indexes"),
        ("qwen3vl", {"num_position_embeddings": 65}, "num_position_embeddings = 65"),
        ("qwen3vl", {"deepstack_visual_indexes": [2, 1]}, "deepstack_visual_indexes"),
        ("qwen3vl", {"deepstack_visual_indexes": [1, 4]}, "deepstack_visual_indexes"),
        ("qwen3vl", {"deepstack_visual_indexes": [1]}, "only 1 of them"),
        ("qwen3_5_eyes", {"deepstack_visual_indexes": [1]}, "deepstack_visual_indexes"),
    ],
)
def test_setting_of_a_tower_is_refused(name: str, vision: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        projection(_changed(name, {}, vision, {}))


@pytest.mark.parametrize(
    ("name", "audio", "named"),
    [
        ("gemma4_inputs", {"hidden_act": "gelu"}, "hidden_act"),
        ("gemma4_inputs", {"attention_context_left": 25}, "attention_context_left = 25"),
        ("gemma4_inputs", {"attention_logit_cap": 30.0}, "attention_logit_cap"),
        ("gemma4_inputs", {"input_feat_size": 80}, "num_mel_bins = 80"),
        ("gemma4_inputs", {"subsampling_conv_channels": [128, 32]}, "a.conv1d.1.weight"),
        ("gemma4_inputs", {"use_clipped_linears": False}, "input_max"),
        ("gemma4_inputs", {"conv_kernel_size": 3}, "conv_kernel_size = 3"),
        ("qwen2_audio", {"activation_function": "relu"}, "activation_function"),
        ("qwen2_audio", {"max_source_positions": 3000}, "max_source_positions = 3000"),
        ("qwen2_audio", {"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ("qwen2_audio", {"d_model": 128}, "a.conv1d.1.weight"),
        ("qwen2_audio", {"encoder_layers": 4}, r"a\.blk\.3"),
        ("voxtral", {"intermediate_size": 160}, "intermediate_size = 160"),
    ],
)
def test_setting_of_a_tower_for_sounds_is_refused(name: str, audio: Mapping[str, Any], named: str) -> None:
    config = json.loads(towered(name)["config.json"])
    with pytest.raises(CannotConvert, match=named):
        projection(_changed(name, {"audio_config": config["audio_config"] | audio}, {}, {}))


@pytest.mark.parametrize(
    "images", [{"n_fft": 512}, {"hop_length": 80}, {"sampling_rate": 8000}, {"chunk_length": 60}, {"dither": 0.1}]
)
def test_other_spectrogram_than_that_of_whisper_is_refused(images: Mapping[str, Any]) -> None:
    with pytest.raises(CannotConvert, match=next(iter(images))):
        projection(_changed("qwen2_audio", {}, {}, images))


@pytest.mark.parametrize("tensor", ["audio_tower.layers.0.self_attn.q_proj.bias", "audio_tower.conv1.bias"])
def test_bias_that_llama_cpp_demands_must_be_there(tensor: str) -> None:
    files = towered("qwen2_audio")
    tensors = unpack_safetensors(files["model.safetensors"])
    del tensors[tensor]
    with pytest.raises(CannotConvert, match=r"a\.(blk\..\.attn_q|conv1d\.1)\.bias"):
        projection({**files, "model.safetensors": pack_safetensors(tensors)})


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"feature_extractor": {"frame_length": 400}}, "frame_length = 400"),
    ],
)
def test_numbers_of_pictures_and_sounds_that_llama_cpp_takes_otherwise(images: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        projection(_changed("gemma4_inputs", {}, {}, images))


def test_model_without_ears_has_only_eyes() -> None:
    """The larger models of Gemma 4 have none."""
    files = _changed("gemma4_inputs", {"audio_config": None}, {}, {})
    tensors = unpack_safetensors(files["model.safetensors"])
    ears = ("model.audio_tower.", "model.embed_audio.")
    deaf = {name: content for name, content in tensors.items() if not name.startswith(ears)}
    planned = projection({**files, "model.safetensors": pack_safetensors(deaf)})
    assert planned.kinds == ("gemma4v",)
    assert b"audio" not in planned.header


@pytest.mark.parametrize(
    ("name", "images", "named"),
    [
        ("lfm2_vl", {"do_image_splitting": False}, "do_image_splitting = False"),
        ("lfm2_vl", {"max_image_tokens": 512}, "max_image_tokens = 512"),
        ("lfm2_vl", {"image_mean": [0.5]}, "image_mean"),
        ("paddleocr_vl", {"max_pixels": None}, "max_pixels"),
    ],
)
def test_setting_of_the_preprocessor_is_refused(name: str, images: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        projection(_changed(name, {}, {}, images))


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("internvl", {"model.": "", "lm_head.": "language_model.lm_head."}),
        ("mistral3_eyes", {**_MISTRAL, "": "model."}),
        ("lfm2_vl", {"model.vision_tower.vision_model.": "model.vision_tower."}),
        ("qwen2_audio", {**_MISTRAL, "": "model."}),
        ("voxtral", {**_MISTRAL, "": "model."}),
        ("qwen2vl", {"visual.": "model.visual.", "model.": "model.language_model."}),
        ("qwen2_5_vl", {"visual.": "model.visual.", "model.": "model.language_model."}),
        (
            "paddleocr_vl",
            {"visual.": "model.visual.", "mlp_AR.": "model.projector.", "model.": "model.language_model."},
        ),
    ],
)
def test_names_of_another_transformers_give_the_same_files(name: str, starts: Mapping[str, str]) -> None:
    """Those of the published repositories, and those of transformers 5.24 where it has others."""
    files = towered(name)
    tensors = unpack_safetensors(files["model.safetensors"])
    others = {_other(tensor, starts): content for tensor, content in tensors.items()}
    assert others.keys() != tensors.keys()
    renamed = {**files, "model.safetensors": pack_safetensors(others)}
    assert projection(renamed).header == projection(files).header
    assert plan(renamed).header == plan(files).header


def _other(name: str, starts: Mapping[str, str]) -> str:
    if "lm_head." in starts:
        name = name.replace("model.language_model.", "model.language_model.model.")
    for start, replacement in starts.items():
        if name.startswith(start):
            return replacement + name.removeprefix(start)
    return name


def test_another_text_model_is_refused() -> None:
    files = towered("internvl_chat")
    config = json.loads(files["config.json"])
    config["llm_config"]["model_type"] = "phi3"
    with pytest.raises(CannotConvert, match="phi3"):
        plan({**files, "config.json": dump(config)})


def test_pictures_need_a_token_at_the_ends_of_rows() -> None:
    files = dict(towered("mistral3_eyes"))
    for path in ("tokenizer.json", "tokenizer_config.json"):
        files[path] = files[path].replace(b"[IMG_BREAK]", b"[ROW_BREAK]")
    with pytest.raises(CannotConvert, match=r"no \[IMG_BREAK\]"):
        projection(files)


@pytest.mark.parametrize(
    ("name", "outer", "images", "named"),
    [
        ("ministral3_eyes", {}, {}, "epsilon of 1e-05, not of 0.0001"),
        ("mistral3_eyes", {}, {"size": {"longest_edge": 1540}}, "1024 tokens, and the authors' code to 3025"),
        ("smolvlm", {}, {"do_image_splitting": False}, "the authors' code does not"),
        (
            "smolvlm",
            {},
            {"max_image_size": {"longest_edge": 224}},
            "of 112 pixels, and the authors' code into tiles of 224",
        ),
    ],
)
def test_user_hears_what_llama_cpp_computes_otherwise(
    name: str, outer: Mapping[str, Any], images: Mapping[str, Any], named: str
) -> None:
    assert named in " ".join(projection(_changed(name, outer, {}, images)).warnings)
    usual = "mistral3_eyes" if name == "ministral3_eyes" else name
    assert named not in " ".join(projection(towered(usual)).warnings)


@pytest.mark.parametrize("name", ["qwen2vl", "qwen2_5_vl"])
@pytest.mark.parametrize("outer", [False, True])
def test_settings_of_the_text_may_stand_in_text_config(name: str, outer: bool) -> None:
    """Transformers 5.24 writes them there, and reads `tie_word_embeddings` from both levels."""
    files = towered(name)
    flat = json.loads(files["config.json"])
    kept = {key: flat.pop(key) for key in ("architectures", "vision_config", "model_type")}
    tied = {"tie_word_embeddings": flat["tie_word_embeddings"]} if outer else {}
    nested = {**files, "config.json": dump({**kept, **tied, "text_config": {**flat, "model_type": f"{name}_text"}})}
    assert plan(nested).header == plan(files).header
    assert plan(nested).warnings == plan(files).warnings == ()
    assert projection(nested).header == projection(files).header


def test_deepstack_needs_a_layer_more_than_it_has() -> None:
    """llama.cpp adds to a layer's result for all tokens, and the last layer computes only those that are asked for."""
    files = towered("qwen3vl")
    config = json.loads(files["config.json"])
    config["vision_config"]["deepstack_visual_indexes"] = [0, 1, 2]
    with pytest.raises(CannotConvert, match="3 deepstack_visual_indexes for 3 layers"):
        plan({**files, "config.json": dump(config)})


@pytest.mark.parametrize("sections", [[16, 24, 24], [8, 12], [0, 0, 0], [8, 12, 12.0]])
def test_axes_that_do_not_fill_a_head_are_refused(sections: list[float]) -> None:
    files = towered("qwen2vl")
    config = json.loads(files["config.json"])
    config["rope_scaling"]["mrope_section"] = sections
    with pytest.raises(CannotConvert, match="mrope_section"):
        plan({**files, "config.json": dump(config)})


def test_settings_of_a_text_at_the_outer_level_give_the_same_file() -> None:
    """As in the published PaddleOCR-VL, where transformers 5.24 writes `text_config`."""
    files = towered("paddleocr_vl")
    config = json.loads(files["config.json"])
    flat = {**files, "config.json": dump({**config.pop("text_config"), **config})}
    assert plan(flat).header == plan(files).header
    assert projection(flat).header == projection(files).header
