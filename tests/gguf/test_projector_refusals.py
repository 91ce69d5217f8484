"""Settings of towers that llama.cpp computes otherwise are refused; each error names the key."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.projecting import TOWERED, projection
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_families import Files, pack_safetensors, unpack_safetensors


def _changed(name: str, outer: Mapping[str, Any], vision: Mapping[str, Any], images: Mapping[str, Any]) -> Files:
    files = TOWERED[name].files()
    config, preprocessor = (json.loads(files[path]) for path in ("config.json", "preprocessor_config.json"))
    config |= {**outer, "vision_config": config["vision_config"] | vision}
    return {**files, "config.json": dump(config), "preprocessor_config.json": dump(preprocessor | images)}


@pytest.mark.parametrize(
    ("name", "outer", "named"),
    [
        ("internvl", {"downsample_ratio": 0.3}, "downsample_ratio = 0.3"),
        ("internvl", {"vision_feature_layer": -2}, "vision_feature_layer = -2"),
        ("internvl", {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
        ("internvl", {"projector_hidden_act": "silu"}, "projector_hidden_act"),
        ("internvl_chat", {"ps_version": "v1"}, "ps_version"),
        ("internvl_chat", {"select_layer": -4}, "select_layer = -4"),
        ("internvl_chat", {"dynamic_image_size": False}, "dynamic_image_size"),
        ("internvl_chat", {"force_image_size": 224}, "force_image_size = 224"),
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
        ("internvl_chat", {"hidden_size": 3200, "num_hidden_layers": 45}, "RMS"),
    ],
)
def test_setting_of_a_tower_is_refused(name: str, vision: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        projection(_changed(name, {}, vision, {}))


@pytest.mark.parametrize(("name", "starts"), [("internvl", {"model.": "", "lm_head.": "language_model.lm_head."})])
def test_names_of_another_transformers_give_the_same_files(name: str, starts: Mapping[str, str]) -> None:
    """Those of the published repositories, where transformers 5.24 writes others."""
    files = TOWERED[name].files()
    tensors = unpack_safetensors(files["model.safetensors"])
    older = {_older(tensor, starts): content for tensor, content in tensors.items()}
    assert older.keys() != tensors.keys()
    renamed = {**files, "model.safetensors": pack_safetensors(older)}
    assert projection(renamed).header == projection(files).header
    assert plan(renamed).header == plan(files).header


def _older(name: str, starts: Mapping[str, str]) -> str:
    name = name.replace("model.language_model.", "model.language_model.model.")
    for start, replacement in starts.items():
        if name.startswith(start):
            return replacement + name.removeprefix(start)
    return name


def test_another_text_model_is_refused() -> None:
    files = TOWERED["internvl_chat"].files()
    config = json.loads(files["config.json"])
    config["llm_config"]["model_type"] = "phi3"
    with pytest.raises(CannotConvert, match="phi3"):
        plan({**files, "config.json": dump(config)})
