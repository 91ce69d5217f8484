"""Writes bitsandbytes.json and bitnet.json: digests of the F32 numbers that the reference libraries make.

`TORCH_COMPILE_DISABLE=1 python -m tests.gguf.packing.make_bnb_records` needs torch, bitsandbytes and transformers,
which this project does not depend on. The figures are from bitsandbytes 0.50.2 (its CPU library) and transformers 5.24
with torch 2.15. The dtype of each quant_state is replaced by float32, so that nothing is rounded twice.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.gguf.tiny_repositories.packed import WEIGHTS
from tests.gguf.tiny_repositories.packed_bnb import FOUR_BITS, INT8, TERNARY

FOLDER = Path(__file__).parent


def loaded(files: Mapping[str, bytes]) -> dict[str, Any]:
    tensors: dict[str, Any] = import_module("safetensors.torch").load(files[WEIGHTS])
    return tensors


def four_bit(files: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    functional = import_module("bitsandbytes.functional")
    tensors = loaded(files)
    for name, numbers in tensors.items():
        parts = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        if parts:
            state = functional.QuantState.from_dict(parts, device="cpu")
            state.dtype = import_module("torch").float32
            yield name, functional.dequantize_4bit(numbers, state)


def int8(files: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    functional = import_module("bitsandbytes.functional")
    tensors = loaded(files)
    for name, scales in tensors.items():
        if name.endswith(".SCB"):
            weight = f"{name.removesuffix('.SCB')}.weight"
            yield weight, functional.int8_vectorwise_dequant(tensors[weight], scales)


def ternary(files: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    """What the layer answers to the unit vectors: a row of its weights each."""
    bitnet, torch = import_module("transformers.integrations.bitnet"), import_module("torch")
    settings = json.loads(files["config.json"])["quantization_config"]
    tensors = loaded(files)
    for name, scale in tensors.items():
        if name.endswith(".weight_scale"):
            weight = name.removesuffix("_scale")
            numbers = bitnet.unpack_weights(tensors[weight], torch.float32)
            one = torch.ones(())
            if settings.get("linear_class") == "autobitlinear":
                layer = bitnet.AutoBitLinear(*numbers.shape[::-1], bias=False, dtype=torch.float32)
                layer.weight.data, layer.weight_scale = numbers, scale.float()
                yield weight, layer(torch.eye(numbers.shape[1])).T.contiguous()
            else:
                yield weight, bitnet.BitLinear.post_quant_process(None, numbers, one, scale.float())


def digests(tensors: Iterator[tuple[str, Any]]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest() for name, tensor in sorted(tensors)}


def main() -> None:
    for path, makers in {
        "bitsandbytes.json": {four_bit: FOUR_BITS, int8: INT8},
        "bitnet.json": {ternary: TERNARY},
    }.items():
        figures = {
            name: digests(make(packed.files())) for make, each in makers.items() for name, packed in each.items()
        }
        # bitnet.json has figures of llama.cpp's converter too.
        kept = json.loads((FOLDER / path).read_text()) if (FOLDER / path).exists() else {}
        (FOLDER / path).write_text(json.dumps({**kept, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
