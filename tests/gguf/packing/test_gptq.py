"""Weights of GPTQ, compared with llama.cpp's converter (b11434) and the libraries that write them (make_gptq.py)."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.gguf.engine_numpy import NumpyEngine
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.packing.packed import Found
from proxy.gguf.packing.schemes import find_packed
from proxy.gguf.tensors import TensorType
from tests.gguf.packing.rows import located, rows_of, tensor_digests
from tests.gguf.tiny_repositories import REPOSITORIES as TINY
from tests.gguf.tiny_repositories.packed import WEIGHTS, Packed
from tests.gguf.tiny_repositories.packed_gptq import HOWS, REPOSITORIES, How, Layer, auto_round, random_layer, settings
from tests.gguf.writing import plan, write
from tests.kit.dtypes import to_bytes, to_floats
from tests.kit.tiny_families import StoredTensor, pack_safetensors, unpack_safetensors

EXPECTED = json.loads((Path(__file__).parent / "gptq.json").read_text())
GPTQ = [name for name, how in HOWS.items() if how.form != "gemm"]


def found_in(
    tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any]
) -> tuple[list[Found], Mapping[str, bytes]]:
    """The packed tensors of a file, and the file."""
    weights, content = located(tensors)
    return find_packed(weights, settings), {"x": content}


def rows(how: How, layer: Layer, config: Mapping[str, Any], first: int = 0, stop: int | None = None) -> Any:
    [found], files = found_in({f"w{end}": stored for end, stored in how.pack(layer).items()}, config)
    assert (found.name, found.tensor.form) == ("w.weight", "AWQ" if how.form == "gemm" else "GPTQ")
    return rows_of(found.tensor, files, first, stop)


def products(how: How, layer: Layer) -> Any:
    """Each difference of integers, times the scale as it is stored, rounded once to F32."""
    scales = to_floats(how.scales, to_bytes(how.scales, layer.scales.reshape(-1))).reshape(layer.scales.shape)
    return ((layer.codes - layer.zeros[layer.groups]).astype(np.float32) * scales[layer.groups]).T


def rounded(dtype: str, numbers: Any) -> bytes:
    """To the nearest, ties to even."""
    return NumpyEngine().quantize(TensorType[dtype], "F32", np.ascontiguousarray(numbers).tobytes())


def digest(parts: Iterator[bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


@pytest.mark.parametrize("name", [name for name in HOWS if "tensors" in EXPECTED[name]])
def test_tensors_match_llama_cpp(name: str) -> None:
    files = REPOSITORIES[name].files()
    conversion = plan(files, quantization="F32")
    assert tensor_digests(write(conversion, files)) == EXPECTED[name]["tensors"]
    assert conversion.stored_as == ("GPTQ",)


@pytest.mark.parametrize("name", HOWS)
def test_rows_match_the_libraries(name: str) -> None:
    """Rounded to the type of the scales, as the libraries round them."""
    repository = REPOSITORIES[name]
    found, files = found_in(unpack_safetensors(repository.files()[WEIGHTS]), repository.quantization_config)
    ours = digest(
        rounded(HOWS[name].scales, rows_of(one.tensor, files)) for one in sorted(found, key=lambda one: one.name)
    )
    assert set(EXPECTED[name]["rows"].values()) == {ours}


@pytest.mark.parametrize("name", [name for name in HOWS if EXPECTED[name]["packed"]])
def test_the_tiny_repositories_are_what_gptqmodel_packs(name: str) -> None:
    tensors = unpack_safetensors(REPOSITORIES[name].files()[WEIGHTS])
    stems = sorted(one.removesuffix(".qweight") for one in tensors if one.endswith(".qweight"))
    ours = digest(tensors[stem + end].data for stem in stems for end in (".qweight", ".qzeros", ".g_idx"))
    assert EXPECTED[name]["packed"] == {"gptqmodel": ours}


@pytest.mark.parametrize("scales", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2", "gptqmodel"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_any_rows_are_the_products(bits: int, form: Any, scales: str) -> None:
    random = np.random.default_rng(bits)
    for act_order in (False, True):
        for outputs, inputs, group in ((96, 160, 32), (64, 192, None), (32, 4128, 96), (224, 96, 8)):
            how = How(bits, form, group, act_order, scales=scales)
            layer = random_layer(random, (outputs, inputs), how)
            expected = products(how, layer)
            for first, stop in ((0, outputs), (0, 1), (outputs - 1, outputs), (outputs // 3, outputs - 5)):
                np.testing.assert_array_equal(rows(how, layer, settings(how), first, stop), expected[first:stop])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words_may_have_unused_bits(bits: int) -> None:
    """Gptqmodel writes layers of any size; the end of the last word is not read."""
    how = How(bits, "gptq_v2", 20)
    layer = random_layer(np.random.default_rng(1), (37, 50), how)
    np.testing.assert_array_equal(rows(how, layer, settings(how)), products(how, layer))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_all_bits_of_a_zero_point_may_be_set(bits: int) -> None:
    """auto-gptq and llama.cpp add 1 to the number; gptqmodel adds it to words, which takes the carry along."""
    how = How(bits, "gptq", 32)
    layer = random_layer(np.random.default_rng(1), (32, 64), how)
    layer.zeros[0, :] = 1 << bits
    np.testing.assert_array_equal(rows(how, layer, settings(how)), products(how, layer))
    how = replace(how, form="gptqmodel")
    layer.zeros[0, :] = 0
    np.testing.assert_array_equal(rows(how, layer, settings(how)), products(how, layer))


def test_negative_scales_keep_the_sign_of_zero() -> None:
    how = How(4, "gptq_v2", 32)
    layer = random_layer(np.random.default_rng(1), (32, 64), how)
    layer.scales[:] *= -1
    assert rows(how, layer, settings(how)).tobytes() == np.ascontiguousarray(products(how, layer)).tobytes()


@pytest.mark.parametrize("group", [32, 96])
def test_layers_without_g_idx(group: int) -> None:
    """The last group may have fewer inputs. Where config.json has another size, the shapes decide."""
    how = How(4, "gptq_v2", group, has_groups=False)
    layer = random_layer(np.random.default_rng(1), (64, 256), how)
    config = {**auto_round(how, "auto_round:gptqmodel"), "group_size": 128 if group == 32 else group}
    np.testing.assert_array_equal(rows(how, layer, config), products(how, layer))


def test_a_g_idx_of_zeros_means_consecutive_groups() -> None:
    how = How(4, "gptq", 32)
    layer = random_layer(np.random.default_rng(1), (64, 128), how)
    stored = layer._replace(groups=np.zeros(128, np.int64))
    np.testing.assert_array_equal(rows(how, stored, settings(how)), products(how, layer))


@pytest.mark.parametrize("group", [-1, 4])
def test_a_g_idx_of_groups_that_are_not_there_is_refused(group: int) -> None:
    how = How(4, "gptq", 32)
    layer = random_layer(np.random.default_rng(1), (64, 128), how)
    layer.groups[5] = group
    with pytest.raises(CannotConvert, match=r"a g_idx has groups from .*, but there are 4"):
        rows(how, layer, settings(how))


FOUR = How(4, "gptq", 32)
PACKED = {
    f"a.b{end}": stored for end, stored in FOUR.pack(random_layer(np.random.default_rng(1), (64, 128), FOUR)).items()
}


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "GPTQ", "checkpoint_format": "gptq", "format": "gptq"}, "gptq"),
        ({"method": "gptq", "format": "gptq_v2"}, "gptq_v2"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq", "meta": {"quantizer": "gptqmodel:2.0"}}, "gptqmodel"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, "gptq"),
        ({"quant_method": "auto-round", "packing_format": "auto_round"}, "gptq_v2"),
        ({"quant_method": "intel/auto-round", "backend": "auto_round:gptq:exllamav2"}, "gptq"),
        ({"quant_method": "gptq", "bits": 8, "dynamic": {"+:a": {"bits": 4}}}, "gptq"),
    ],
)
def test_config_json_says_how_zero_points_are_stored(config: Mapping[str, Any], form: Any) -> None:
    how = replace(FOUR, form=form)
    layer = random_layer(np.random.default_rng(1), (64, 128), how)
    np.testing.assert_array_equal(rows(how, layer, config), products(how, layer))


def other(end: str, **changes: Any) -> dict[str, StoredTensor | None]:
    return {f"a.b{end}": PACKED[f"a.b{end}"]._replace(**changes)}


@pytest.mark.parametrize(
    ("changed", "config", "reason"),
    [
        ({}, {}, r"a\.b\.qweight is quantized, but config\.json has no quantization_config"),
        ({}, {"bits": 4}, "has no quantization_config that says how"),
        ({}, {"checkpoint_format": "marlin"}, "method gptq with the format marlin; known are gptq, gptq_v2"),
        ({}, {"is_marlin_format": True}, "with the format marlin"),
        ({}, {"format": "gptq_p"}, "with the format gptq_p"),
        ({}, {"format": "gptq", "checkpoint_format": "gptq_v2"}, "with the format gptq and gptq_v2"),
        ({}, {"quant_method": "auto-round"}, "method auto-round with the format None"),
        ({}, {"quant_method": "auto-round", "packing_format": "mlx"}, "with the format mlx"),
        ({}, {"rotation": "hadamard"}, "with rotation, which llama.cpp does not run"),
        ({}, {"adapter": {"name": "lora"}}, "with adapter, which llama.cpp does not run"),
        ({}, {"act_bits": 8}, "with activations of 8 bits"),
        ({}, {"quant_method": "awq"}, r"a\.b has .*: they do not fit each other as AWQ's of 4 bits do"),
        ({"a.b.qzeros": None}, {}, r"a\.b\.qweight is there without a\.b\.qzeros"),
        ({"a.b.scales": None, "a.b.qzeros": None}, {}, r"without a\.b\.qzeros and a\.b\.scales"),
        ({"a.b.g_idx": None}, {"group_size": 31}, None),
        (other(".qzeros", shape=(8, 4)), {}, r"qzeros I32 \[8, 4\].* they do not fit each other as GPTQ's do"),
        (other(".scales", shape=(2, 128)), {}, "they do not fit each other as GPTQ's do"),
        (other(".scales", shape=(256,)), {}, "these are not the types and dimensions"),
        (other(".scales", dtype="I16"), {}, "these are not the types and dimensions"),
        (other(".qweight", dtype="I16"), {}, "these are not the types and dimensions"),
        (other(".g_idx", shape=(64, 2)), {}, "g_idx does not fit numbers of 4 bits"),
        (other(".g_idx", shape=(160,)), {}, "g_idx does not fit numbers of 4 bits"),
        (other(".g_idx", dtype="I64"), {}, "g_idx does not fit numbers of 4 bits"),
    ],
)
def test_what_is_not_known_is_refused(
    changed: Mapping[str, StoredTensor | None], config: Mapping[str, Any], reason: str | None
) -> None:
    """Before any number is read."""
    tensors = {name: stored for name, stored in {**PACKED, **changed}.items() if stored is not None}
    full = config if config in ({}, {"bits": 4}) and not changed else {"quant_method": "gptq", **config}
    find = partial(found_in, tensors, full)
    if reason is None:
        assert len(find()[0]) == 1
        return
    with pytest.raises(CannotConvert, match=reason):
        find()


def test_layers_without_a_known_group_size_are_refused() -> None:
    how = How(4, "gptq", 96, has_groups=False)
    layer = random_layer(np.random.default_rng(1), (64, 256), how)
    with pytest.raises(CannotConvert, match="there is no g_idx: how many inputs are in a group is not known"):
        rows(how, layer, {"quant_method": "gptq"})


def test_embeddings_are_refused() -> None:
    tensors = {name.replace("a.b", "model.embed_tokens"): stored for name, stored in PACKED.items()}
    with pytest.raises(CannotConvert, match=r"model\.embed_tokens is an embedding"):
        found_in(tensors, {"quant_method": "gptq"})


def test_layers_of_other_methods_are_left() -> None:
    assert found_in(PACKED, {"quant_method": "qqq"})[0] == []


def test_unquantized_layers_stay() -> None:
    """`dynamic` of gptqmodel leaves layers as they are; a bias is plain in any case."""
    bias = {"a.b.bias": StoredTensor("F16", (64,), bytes(128)), "c.weight": StoredTensor("F16", (2, 2), bytes(8))}
    [found], _ = found_in(PACKED | bias, {"quant_method": "gptq"})
    assert found.replaced == ("a.b.qweight", "a.b.qzeros", "a.b.scales", "a.b.g_idx")


def test_a_repository_may_be_mixed() -> None:
    """Layers of 4 and of 8 bits, and an unquantized one."""
    eight = replace(FOUR, bits=8)
    layer = random_layer(np.random.default_rng(1), (64, 128), eight)
    tensors = PACKED | {f"c{end}": stored for end, stored in eight.pack(layer).items()}
    _, found = found_in(tensors, settings(FOUR))[0]
    files = found_in(tensors, settings(FOUR))[1]
    np.testing.assert_array_equal(rows_of(found.tensor, files), products(eight, layer))


def test_whole_repositories_are_converted() -> None:
    """Also those that the converter does not read."""
    for name, repository in REPOSITORIES.items():
        assert isinstance(repository, Packed)
        conversion = plan(repository.files(), quantization="Q8_0")
        assert conversion.stored_as == (("AWQ",) if HOWS[name].form == "gemm" else ("GPTQ",))


@pytest.mark.parametrize("quantization", [None, "Q4_K_M"])
def test_biases_of_zeros_are_left_out(quantization: str | None) -> None:
    """auto-gptq writes them for layers without a bias, and llama.cpp does not load all of them."""
    with_biases = REPOSITORIES["llama_gptq_act_order"].files()
    tensors = unpack_safetensors(with_biases[WEIGHTS])
    assert any(name.endswith("down_proj.bias") for name in tensors)
    without = with_biases | {
        WEIGHTS: pack_safetensors({name: one for name, one in tensors.items() if not name.endswith(".bias")})
    }
    files = [write(plan(each, quantization=quantization), each) for each in (with_biases, without)]
    assert tensor_digests(files[0]) == tensor_digests(files[1])


@pytest.mark.parametrize("name", ["self_attn.q_proj", "mlp.down_proj"])
def test_biases_that_llama_cpp_does_not_load_are_refused(name: str) -> None:
    files = REPOSITORIES["llama_gptq_act_order"].files()
    tensors = unpack_safetensors(files[WEIGHTS])
    bias = tensors[f"model.layers.1.{name}.bias"]
    tensors[f"model.layers.1.{name}.bias"] = bias._replace(data=bias.data[:-1] + b"\x3c")
    with pytest.raises(CannotConvert, match=r"bias"):
        plan(files | {WEIGHTS: pack_safetensors(tensors)})


def test_a_bias_that_llama_cpp_needs_stays_though_it_is_zeros() -> None:
    files = replace(REPOSITORIES["llama_gptq_act_order"], tiny=TINY["starcoder2"]).files()
    tensors = unpack_safetensors(files[WEIGHTS])
    biases = [name for name in tensors if name.endswith("o_proj.bias")]
    tensors |= {name: tensors[name]._replace(data=bytes(len(tensors[name].data))) for name in biases}
    files |= {WEIGHTS: pack_safetensors(tensors)}
    made = tensor_digests(write(plan(files), files))
    assert {f"blk.{number}.attn_output.bias" for number in range(len(biases))} <= made.keys()
