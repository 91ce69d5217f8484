"""Records what the authors' packages make of packed weights: `python make_compressed.py FOLDER`, without our packages.

FOLDER is what `python -m tests.gguf.tiny_repositories.packed_compressed FOLDER` and `python -m
tests.gguf.tiny_repositories FOLDER gpt_oss` have written. It needs torch 2.15, safetensors, transformers 5.24,
compressed-tensors 0.20.1 and, as `OLD=FOLDER`, compressed-tensors 0.12.2 for what only earlier versions wrote: ordered
columns and padded words. `compressed.json` gets the digest of each matrix in F32, by repository and name.

`llama.cpp` has the digest of each tensor that its converter (b11434, `--outtype f32`) makes of two of the repositories;
its check of the pre-tokenizer was switched off (`TextModel.get_vocab_base_pre`). This script keeps them.

compressed-tensors calculates in the type of the scales, so they are widened to F32 first; `rounded` counts
the matrices whose F32 numbers are, rounded to their type, those that it makes of the scales as they are stored (0 where
version 0.20.1 makes none, and for other packages).
"""

# mypy: disable-error-code="import-not-found,import-untyped"

import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

RESULT = Path(__file__).parent / "compressed.json"


def digest(numbers: Any) -> str:
    return hashlib.sha256(numbers.to(torch.float32).contiguous().numpy().tobytes()).hexdigest()


def scheme_for(config: dict[str, Any], module: str) -> Any:
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils.match import match_targets

    for group in config["config_groups"].values():
        # Version 0.20.1 does not know it any more; `of_old` gets the order itself.
        group["weights"].pop("actorder", None)
    groups = QuantizationConfig.model_validate(config).config_groups.values()
    layer = torch.nn.Linear(1, 1)
    found = [(match_targets(module, layer, group.targets), group) for group in groups]
    ranked = sorted(((min(map(rank, targets)), number) for number, (targets, _) in enumerate(found) if targets))
    return found[ranked[0][1]][1]


def rank(target: str) -> int:
    return 2 if target == "Linear" else 1 if target.startswith("re:") else 0


def of_compressed_tensors(tensors: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format

    digests: dict[str, str] = {}
    rounded: list[str] = []
    for name in [one for one in tensors if one.endswith(".weight_packed")]:
        module = name.removesuffix(".weight_packed")
        scheme = scheme_for(config, module)
        state = {key.rpartition(".")[2]: one for key, one in tensors.items() if key.rpartition(".")[0] == module}
        is_old = "weight_g_idx" in state or is_padded(state, scheme)
        is_unpacked = "weight_zero_point" in state and state["weight_zero_point"].dtype == torch.int8
        if is_old or is_unpacked:
            digests[module + ".weight"] = digest(of_old(state, scheme))
            continue
        compressor = BaseCompressor.get_value_from_registry(infer_module_format(torch.nn.Linear, scheme))
        stored = compressor.decompress(dict(state), scheme)["weight"]
        if state["weight_scale"].dtype in (torch.bfloat16, torch.float16):
            state["weight_scale"] = state["weight_scale"].float()
        exact = decompressed_in_f32(compressor, state, scheme)
        digests[module + ".weight"] = digest(exact)
        if torch.equal(exact.to(stored.dtype), stored):
            rounded.append(module + ".weight")
    return digests, rounded


def decompressed_in_f32(compressor: Any, state: dict[str, Any], scheme: Any) -> Any:
    """As `decompress` does, but FP4 is not rounded to BF16 at the end."""
    if state["weight_packed"].dtype != torch.uint8:
        return compressor.decompress(dict(state), scheme)["weight"]
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    rows, size = state["weight_packed"].shape
    unpacked = unpack_fp4_from_uint8(state["weight_packed"], rows, 2 * size)
    scale = compressor._decompress_scale(state["weight_scale"], torch.float32)
    return dequantize(
        x_q=unpacked,
        scale=scale,
        args=scheme.weights,
        global_scale=state.get("weight_global_scale"),
        dtype=torch.float32,
    )


def is_padded(state: dict[str, Any], scheme: Any) -> bool:
    bits, columns = scheme.weights.num_bits, int(state["weight_shape"][1]) if "weight_shape" in state else 0
    return bool(32 % bits) and bool(state["weight_packed"].shape[1] != -(-columns * bits // 32))


def of_old(state: dict[str, Any], scheme: Any) -> Any:
    """compressed-tensors 0.12.2 in another process: two versions cannot be in one."""
    import pickle
    import subprocess

    work = {
        "state": {
            key: one.numpy() if one.dtype != torch.bfloat16 else one.float().numpy() for key, one in state.items()
        },
        "args": scheme.weights.model_dump(mode="json"),
    }
    env = {**os.environ, "PYTHONPATH": os.environ["OLD"] + ":" + os.environ["PYTHONPATH"]}
    made = subprocess.run(
        [sys.executable, __file__, "--old"], input=pickle.dumps(work), env=env, check=True, stdout=subprocess.PIPE
    )
    return torch.from_numpy(pickle.loads(made.stdout))


def old() -> None:
    import pickle

    from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    work = pickle.loads(sys.stdin.buffer.read())
    args = QuantizationArgs.model_validate(work["args"])
    state = {key: torch.from_numpy(one) for key, one in work["state"].items()}
    shape = torch.Size(state["weight_shape"].tolist())
    scale = state["weight_scale"].float()
    zeros = state.get("weight_zero_point")
    if zeros is not None and zeros.dtype == torch.int32:
        zeros = unpack_from_int32(zeros, args.num_bits, torch.Size((shape[0], scale.shape[-1])), packed_dim=0)
    numbers = unpack_from_int32(state["weight_packed"], args.num_bits, shape)
    made = dequantize(x_q=numbers, scale=scale, zero_point=zeros, g_idx=state.get("weight_g_idx"), args=args)
    sys.stdout.buffer.write(pickle.dumps(made.float().numpy()))


def of_modelopt(tensors: dict[str, Any]) -> dict[str, str]:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    digests = {}
    for name in [one for one in tensors if one.endswith(".weight_scale_2")]:
        stem = name.removesuffix("_scale_2")
        packed = tensors[stem]
        tensor = NVFP4QTensor(torch.Size((packed.shape[0], 2 * packed.shape[1])), torch.float32, packed)
        made = tensor.dequantize(
            torch.float32, scale=tensors[stem + "_scale"], double_scale=tensors[name], block_sizes={-1: 16}
        )
        digests[stem] = digest(made)
    return digests


def of_gpt_oss(tensors: dict[str, Any]) -> dict[str, str]:
    """By the GGUF's names: gate and up apart, and a row for each output."""
    convert = importlib.import_module("transformers.integrations.mxfp4").convert_moe_packed_tensors
    digests = {}
    for name in [one for one in tensors if one.endswith("_blocks")]:
        stem = name.removesuffix("_blocks")
        made = convert(tensors[name], tensors[stem + "_scales"], dtype=torch.float32).transpose(1, 2)
        layer = f"blk.{stem.split('.')[2]}.ffn_"
        if stem.endswith("down_proj"):
            digests[f"{layer}down_exps.weight"] = digest(made)
        else:
            digests[f"{layer}gate_exps.weight"] = digest(made[:, ::2])
            digests[f"{layer}up_exps.weight"] = digest(made[:, 1::2])
    return digests


def main(folder: Path) -> None:
    kept = json.loads(RESULT.read_text())["llama.cpp"] if RESULT.exists() else {}
    result: dict[str, Any] = {"matrices": {}, "rounded": {}, "llama.cpp": kept}
    for repository in sorted(folder.iterdir()):
        config = json.loads((repository / "config.json").read_text())["quantization_config"]
        tensors = load_file(repository / "model.safetensors")
        method = config["quant_method"]
        rounded: list[str] = []
        if method == "mxfp4":
            digests = of_gpt_oss(tensors)
        elif method == "modelopt":
            digests = of_modelopt(tensors)
        else:
            digests, rounded = of_compressed_tensors(tensors, config)
        result["matrices"][repository.name] = digests
        result["rounded"][repository.name] = f"{len(rounded)} of {len(digests)}"
        print(repository.name, len(digests), len(rounded), file=sys.stderr)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    np.seterr(all="ignore")
    old() if sys.argv[1] == "--old" else main(Path(sys.argv[1]))
