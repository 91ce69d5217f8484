"""Values in the text_config of multimodal models that are refused; each error names the key."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.model_config import CannotConvert
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import YARN
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import repository


def _mistral4_rope(**change: Any) -> dict[str, Any]:
    return {"rope_parameters": {**REPOSITORIES["mistral4_eyes"].change["rope_parameters"], **change}}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"model_type": "mistral5"}, "mistral5"),
        ({"sliding_window": 1024}, "sliding_window = 1024"),
        ({"rope_scaling": YARN}, "yarn"),
        ({"rms_norm_eps": None}, "epsilon"),
    ],
)
def test_text_config_of_a_vision_model_is_refused(text: Mapping[str, Any], named: str) -> None:
    files = dict(repository("mistral3_eyes"))
    config = json.loads(files["config.json"])
    with pytest.raises(CannotConvert, match=named):
        plan(files | {"config.json": dump({**config, "text_config": config["text_config"] | text})})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"n_group": 2}, "n_group = 2"),
        ({"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "type 'default'"),
        (_mistral4_rope(mscale=0.5), "mscale_all_dim = 1.0 and another mscale"),
        (_mistral4_rope(mscale=0.5, mscale_all_dim=0.5), "mscale = 0.5"),
        (_mistral4_rope(beta_fast=4.0), "beta_fast = 4.0"),
        (_mistral4_rope(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
        (_mistral4_rope(llama_4_scaling_beta=None), "no llama_4_scaling_beta"),
    ],
)
def test_text_config_of_mistral_4_is_refused(text: Mapping[str, Any], named: str) -> None:
    files = dict(repository("mistral4_eyes"))
    config = json.loads(files["config.json"])
    with pytest.raises(CannotConvert, match=named):
        plan(files | {"config.json": dump({**config, "text_config": config["text_config"] | text})})
