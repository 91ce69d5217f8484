"""Writes gptq.json: what the libraries that made GPTQ and AWQ read and write, for each tiny repository.

`python -m tests.gguf.packing.make_gptq FOLDER` needs torch 2.15, transformers 5.24, gptqmodel 7.7.0, auto-gptq 0.7.1,
autoawq 0.2.9 and auto-round 0.16.1, which this project does not depend on. FOLDER has files of llama.cpp's converter
(b11434, `--outtype f32`), NAME.gguf for each of CONVERTED, from the folders that
`python -m tests.gguf.tiny_repositories FOLDER NAME…` writes. Three figures are digests:

- `tensors`: each tensor of the converter's file;
- `rows`: the rows of all layers, by library, in the type of the scales, to which the libraries round products;
- `packed`: what a library's own packer makes of the numbers that the tiny repository stands for.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.gguf.tiny_repositories.packed import WEIGHTS
from tests.gguf.tiny_repositories.packed_gptq import HOWS, REPOSITORIES, How
from tests.kit.tiny_conversions import tensors_of
from tests.kit.tiny_families import StoredTensor, unpack_safetensors

FIGURES = Path(__file__).with_name("gptq.json")
CONVERTED = ("llama_gptq", "llama_gptq_act_order", "qwen2_gptq_8bit", "qwen3moe_gptq", "phi3_gptq_2bit")
"""The converter reads neither 3 bits nor layers without g_idx; it does not know AWQ and AutoRound."""

Layer = Mapping[str, Any]
"""torch's tensors, by the end of their name."""


def stand_in(package: str) -> None:
    """Lets modules of a package be imported whose own initialization needs old versions of other packages."""
    spec = find_spec(package.partition(".")[0])
    assert spec is not None
    assert spec.submodule_search_locations
    name, path = "", Path(spec.submodule_search_locations[0]).parent
    for part in package.split("."):
        name, path = f"{name}.{part}".lstrip("."), path / part
        module = ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module


def to_torch(stored: StoredTensor) -> Any:
    torch = import_module("torch")
    kinds = {"I32": torch.int32, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    return torch.frombuffer(bytearray(stored.data), dtype=kinds[stored.dtype]).reshape(tuple(stored.shape))


def layers(name: str) -> Iterator[tuple[str, Layer]]:
    tensors = unpack_safetensors(REPOSITORIES[name].files()[WEIGHTS])
    for stem in sorted(one.removesuffix(".qweight") for one in tensors if one.endswith(".qweight")):
        ends = ("qweight", "qzeros", "scales", "g_idx")
        yield stem, {end: to_torch(tensors[f"{stem}.{end}"]) for end in ends if f"{stem}.{end}" in tensors}


def digest(parts: Iterator[Any]) -> str:
    torch, sha = import_module("torch"), hashlib.sha256()
    for part in parts:
        sha.update(part.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def filled(module: Any, layer: Layer, how: How) -> Any:
    """A library's empty layer with the layer's tensors. Those of auto-gptq and AutoRound answer with the weights."""
    for key, tensor in layer.items():
        setattr(module, key, tensor.clone())
    module.bias = None
    if hasattr(module, "wf") and how.bits != 3:
        module.wf = module.wf.to("cpu")
    return module.eval()


def shape_of(layer: Layer, how: How) -> tuple[int, int]:
    return layer["qweight"].shape[0] * 32 // how.bits, layer["qweight"].shape[1]


def answered(module: Any, inputs: int, layer: Layer) -> Any:
    """The weights as a layer's answers to unit vectors: sums of one product and zeros, which change nothing."""
    torch = import_module("torch")
    with torch.no_grad():
        return module(torch.eye(inputs, dtype=layer["scales"].dtype)).T


def by_auto_gptq(layer: Layer, how: How) -> Any:
    kind = import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear
    inputs, outputs = shape_of(layer, how)
    return answered(filled(kind(how.bits, how.group or -1, inputs, outputs, bias=False), layer, how), inputs, layer)


def by_gptqmodel(layer: Layer, how: How) -> Any:
    linear = filled(gptqmodel_layer(layer, how), layer, how)
    if how.form != "gptq_v2":
        torch = import_module("torch")
        import_module("gptqmodel.utils.model").convert_gptq_v1_to_v2_format_module(linear, how.bits, torch.int32)
    return linear.dequantize_weight().T


def gptqmodel_layer(layer: Layer, how: How) -> Any:
    kind = import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    inputs, outputs = shape_of(layer, how)
    return kind(how.bits, how.group or -1, how.is_symmetric, how.act_order, inputs, outputs)


def by_auto_round(layer: Layer, how: How) -> Any:
    end = "" if how.form == "gptq_v2" else "_zp"
    kind = import_module(f"auto_round_extension.torch.qlinear_torch{end}").QuantLinear
    inputs, outputs = shape_of(layer, how)
    # With g_idx it calculates no more outputs than there are inputs.
    consecutive = {key: tensor for key, tensor in layer.items() if key != "g_idx"}
    module = filled(kind(how.bits, how.group or -1, inputs, outputs, bias=False), consecutive, how)
    return answered(module, inputs, layer)


def by_awq(module: str, layer: Layer, how: How) -> Any:
    weights = import_module(module).dequantize_gemm(
        layer["qweight"], layer["qzeros"], layer["scales"], how.bits, how.group or len(layer["qweight"])
    )
    return weights.T


def readers(how: How) -> Mapping[str, Callable[[Layer, How], Any]]:
    if how.form == "gemm":
        modules = {
            "autoawq": "awq.utils.packing_utils",
            "gptqmodel": "gptqmodel.quantization.awq.utils.packing_utils",
            "auto-round": "auto_round.export.export_to_awq.utils",
        }
        return {library: partial(by_awq, module) for library, module in modules.items()}
    found: dict[str, Callable[[Layer, How], Any]] = {}
    if how.has_groups:
        found["gptqmodel"] = by_gptqmodel
    if how.form == "gptq" and how.scales == "F16":
        found["auto-gptq"] = by_auto_gptq
    if how.form != "gptqmodel" and not how.act_order:
        found["auto-round"] = by_auto_round
    return found


def packed(name: str) -> Mapping[str, str]:
    """By gptqmodel, from the weights that it reads: the digest of qweight, qzeros and g_idx of all layers."""
    how = HOWS[name]
    if how.form == "gemm" or not how.has_groups:
        return {}
    return {"gptqmodel": digest(part for _, layer in layers(name) for part in repacked(layer, how))}


def repacked(layer: Layer, how: How) -> Iterator[Any]:
    torch, model = import_module("torch"), import_module("gptqmodel.utils.model")
    exact = filled(gptqmodel_layer(layer, how), {**layer, "scales": layer["scales"].float()}, how)
    if how.form != "gptq_v2":
        model.convert_gptq_v1_to_v2_format_module(exact, how.bits, torch.int32)
    weights = exact.dequantize_weight().T.contiguous()
    integers = filled(gptqmodel_layer(layer, how), {**layer, "scales": torch.ones_like(exact.scales)}, how)
    integers.qzeros, integers.qweight = exact.qzeros, torch.zeros_like(exact.qweight)
    zeros = -integers.dequantize_weight()[[layer["g_idx"].tolist().index(group) for group in range(len(exact.scales))]]
    target = gptqmodel_layer(layer, how)
    linear = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    linear.weight.data = weights
    target.pack_original(linear, exact.scales.T.contiguous(), zeros.float().T.contiguous(), layer["g_idx"])
    if how.form != "gptq_v2":
        target.qzero_format(format=2)
        model.convert_gptq_v2_to_v1_format_module(target, SimpleNamespace(bits=how.bits, pack_dtype=torch.int32))
    yield from (target.qweight, target.qzeros, target.g_idx)


def figures(name: str, folder: Path) -> dict[str, Any]:
    how = HOWS[name]
    found: dict[str, Any] = {
        "rows": {
            library: digest(read(layer, how) for _, layer in layers(name)) for library, read in readers(how).items()
        },
        "packed": packed(name),
    }
    if name in CONVERTED:
        tensors = tensors_of((folder / f"{name}.gguf").read_bytes())
        found["tensors"] = {tensor: hashlib.sha256(content).hexdigest() for tensor, (_, content) in tensors.items()}
    return found


if __name__ == "__main__":
    for package in ("auto_gptq.nn_modules.qlinear", "awq.utils"):
        stand_in(package)
    FIGURES.write_text(json.dumps({name: figures(name, Path(sys.argv[1])) for name in HOWS}, indent=1) + "\n")
