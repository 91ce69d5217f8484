"""Step 3.5, and Ling 3 with limits, by the package `mlx-lm` (0.32.2), for `make_logprobs.py`.

transformers has no class for a Step without a vision part, and its class for Ling 3 ignores the limits of the
activations. mlx-lm's class for Ling ignores them too, but its class for Step has them, as vLLM has them for both
(`SwigluStepAndMul`).
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

LING, STEP = "bailing_moe_v3", "step3p5"
MODEL_TYPES = (LING, STEP)
"""mlx-lm's names. `READ_AS` gives Ling's config.json the first one."""


def logits_of(folder: Path) -> Callable[[list[int]], Any]:
    """The logits of the token after these tokens."""
    mlx, torch = import_module("mlx.core"), import_module("torch")
    config = json.loads((folder / "config.json").read_bytes())
    family = import_module(f"mlx_lm.models.{config['model_type']}")
    model = family.Model(family.ModelArgs.from_dict(config))
    if config["model_type"] == LING:
        _limit(model, config)
    weights = {
        name: (tensor.reshape(-1) if name.endswith("A_log") else tensor).astype(mlx.float32)
        for name, tensor in mlx.load(f"{folder}/model.safetensors").items()
    }
    model.load_weights(list(model.sanitize(weights).items()))
    return lambda tokens: torch.tensor(model(mlx.array([tokens]))[0, -1].tolist())


def _limit(model: Any, config: dict[str, Any]) -> None:
    """Gives each layer of a Ling the activations of a Step, whose weights have the same names."""
    step = import_module(f"mlx_lm.models.{STEP}")
    size = config["moe_shared_expert_intermediate_size"]
    for key, shared in (("expert_swiglu_limit_list", False), ("share_expert_swiglu_limit_list", True)):
        for layer, limit in zip(model.layers, config[key], strict=False):
            if limit and shared:
                args = type("Args", (), {"hidden_size": config["hidden_size"]})
                layer.mlp.shared_experts = step.Step3p5MLP(args, size, limit)
            elif limit:
                layer.mlp.switch_mlp.activation = step.ClampedSwiGLU(limit)
