"""The conversion of safetensors to GGUF, compared with llama.cpp's converter (b11434).

The figures in `expected` were computed once, from the folders that `python -m tests.gguf.tiny_repositories` writes.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gguf.conversion import ModelDescription, convert
from proxy.gguf.families import FAMILIES
from proxy.gguf.header import read_header
from proxy.gguf.tensor_sources import SourceRange
from proxy.gguf.tensors import GgufError
from proxy.planning.safetensors import Tensor
from tests.gguf.differences import (
    ADD_EOS,
    ADDED,
    HALVES,
    ONLY_OURS,
    ONLY_THEIRS,
    OTHER_ORDER,
    OTHER_VALUES,
    WITHOUT_FIGURES,
    llama_cpp_figures,
)
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.repository import HEAD, HIDDEN
from tests.gguf.tiny_repositories.sighted import SIGHTED
from tests.gguf.writing import figures, plan, write
from tests.kit.tiny_conversions import ODD_VALUES, check_refused_or_valid, converted, repository

COMPARED = sorted(REPOSITORIES.keys() - WITHOUT_FIGURES.keys())


# In this scope pytest runs the tests of one repository together, so that it is converted once.
@pytest.mark.parametrize("name", COMPARED, scope="module")
def test_metadata_and_tensors_match_llama_cpp(name: str) -> None:
    content = converted(name)
    ours = figures(read_header(content, size=len(content)), content)
    theirs = llama_cpp_figures(name)
    if ADD_EOS not in ours["metadata"] and ours["metadata"]["tokenizer.ggml.model"]["value"] == "gpt2":
        assert theirs["metadata"].pop(ADD_EOS, {"value": False})["value"] is False
    for key, (value, _) in OTHER_VALUES.get(name, {}).items():
        made = ours["metadata"].pop(key)
        assert made.get("value", value) == value  # long arrays are digests
        assert made != theirs["metadata"].pop(key)
    for key in ONLY_THEIRS.get(name, ()):
        assert key not in ours["metadata"]
        del theirs["metadata"][key]
    for key in ONLY_OURS.get(name, ()):
        assert key not in theirs["metadata"]
        del ours["metadata"][key]
    assert ours["metadata"] == theirs["metadata"]
    for tensor in ADDED.get(name, ()):
        assert tensor not in theirs["tensors"]
        del ours["tensors"][tensor]
    for tensor in [one for one in ours["tensors"] if one.split(".")[-2] in OTHER_ORDER.get(name, ())]:
        assert ours["tensors"][tensor].pop("sha256") != theirs["tensors"][tensor].pop("sha256")
    for tensors in (ours["tensors"], theirs["tensors"]):
        for tensor in [tensor for tensor in tensors if tensor.split(".")[-2] in HALVES.get(name, ())]:
            del tensors[tensor]
    assert ours["tensors"] == theirs["tensors"]


@pytest.mark.parametrize("name", HALVES)
def test_halves_together_match_llama_cpps_one_tensor(name: str) -> None:
    content = converted(name)
    header = read_header(content, size=len(content))
    expected = llama_cpp_figures(name)["tensors"]
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    for layer in ("blk.0", "blk.1"):
        first, second = (f"{layer}.{half}.weight" for half in HALVES[name])
        together = b"".join(content[starts[half] : starts[half] + sizes[half]] for half in (first, second))
        assert sizes[first] == sizes[second]
        assert hashlib.sha256(together).hexdigest() == expected[first]["sha256"]


def test_rows_that_rope_rotates_are_permuted_in_each_head() -> None:
    """llama.cpp's converter makes the same rows of each head, in the order of a RoPE that rotates all of them."""
    content = converted("bamba")
    header = read_header(content, size=len(content))
    theirs = llama_cpp_figures("bamba")["tensors"]
    tensors = [tensor for tensor in header.tensors if tensor.name.split(".")[-2] in OTHER_ORDER["bamba"]]
    assert tensors
    for tensor in tensors:
        start = header.data_start + tensor.offset
        rows = np.frombuffer(content[start : start + tensor.size], np.uint16).reshape(-1, HEAD, tensor.shape[0])
        rotated, others = rows[:, : HEAD // 2], rows[:, HEAD // 2 :]
        source = np.concatenate((rotated[:, ::2], rotated[:, 1::2], others), axis=1)
        whole = np.stack((source[:, : HEAD // 2], source[:, HEAD // 2 :]), axis=2)
        assert hashlib.sha256(whole.tobytes()).hexdigest() == theirs[tensor.name]["sha256"]


def test_every_family_has_a_repository() -> None:
    architectures = {tiny.architecture for tiny in (*REPOSITORIES.values(), *SIGHTED.values())}
    same_as_others = {
        "ChatGLMForConditionalGeneration",
        "Ernie4_5_ForCausalLM",
        "ExaoneMoEForCausalLM",
        "LFM2ForCausalLM",
        "Qwen2Model",
        "Qwen3Model",
        "BertModel",
        "XLMRobertaModel",
    }
    same_as_others |= {"NomicBertMoEModel", "PLaMo2ForCausalLM", "PLaMo3ForCausalLM"}
    assert FAMILIES.keys() - same_as_others == architectures


@pytest.mark.parametrize("name", [*COMPARED, *WITHOUT_FIGURES], scope="module")
def test_window_size_does_not_change_the_file(name: str) -> None:
    files = repository(name)
    assert write(plan(files), files, window=999) == converted(name)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral"])
def test_tensors_are_listed_in_the_order_of_the_data(name: str) -> None:
    content = converted(name)
    header = read_header(content, size=len(content))
    offsets = [tensor.offset for tensor in header.tensors]
    assert offsets == sorted(offsets)
    assert header.data_start + header.data_size <= len(content)


@pytest.mark.parametrize("name", ["llama_v5", "qwen3", "olmo2"])
def test_dense_models_read_each_file_once(name: str) -> None:
    conversion = plan(repository(name))
    assert conversion.in_file_order
    places = [(piece.path, piece.start, piece.stop) for piece in conversion.pieces if isinstance(piece, SourceRange)]
    assert places == sorted(places)
    assert all(path != other or stop <= start for (path, _, stop), (other, start, _) in pairwise(places))


def test_experts_are_ordered_block_by_block() -> None:
    conversion = plan(repository("mixtral"))
    assert not conversion.in_file_order
    header = read_header(conversion.header)
    blocks = [tensor.name.split(".")[1] for tensor in header.tensors if tensor.name.startswith("blk.")]
    assert blocks == sorted(blocks)


def test_matrix_that_becomes_two_is_read_twice() -> None:
    assert not plan(repository("llama4")).in_file_order


def test_planned_size_is_the_size_of_the_file() -> None:
    assert plan(repository("qwen2moe")).size == len(converted("qwen2moe"))


def test_matrices_keep_their_type() -> None:
    for dtype, number in (("F32", 0), ("F16", 1), ("BF16", 30)):
        files = replace(REPOSITORIES["olmo"], dtype=dtype).files()
        header = read_header(plan(files).header)
        assert {tensor.type for tensor in header.tensors if len(tensor.shape) > 1} == {number}


def test_only_large_heads_are_ranges_of_their_own() -> None:
    """A request for a few bytes is expensive, so small heads of one tensor are put in order in memory."""
    conversion = plan(repository("qwen3_5"))
    assert min(piece.size for piece in conversion.pieces if isinstance(piece, SourceRange)) >= 8 * 4
    sizes = [piece.stop - piece.start for piece in conversion.pieces if isinstance(piece, SourceRange)]
    heads, of_a_layer = 8, 64 * HIDDEN * 2
    assert sizes.count(of_a_layer) >= 2 * 2 * heads


NAMES = sorted(REPOSITORIES)
KEYS = sorted({key for tiny in REPOSITORIES.values() for key in tiny.config()} - {"architectures"})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(KEYS), ODD_VALUES, min_size=1, max_size=3))
def test_any_config_is_refused_or_makes_a_valid_file(name: str, change: Mapping[str, Any]) -> None:
    files = dict(repository(name))
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | dict(change)).encode()
    check_refused_or_valid(files)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_any_header_is_refused_or_makes_a_valid_file(name: str, data: st.DataObject) -> None:
    """With tensors that are missing, have another name, or another shape or type."""
    files = dict(repository(name))
    path = data.draw(st.sampled_from(sorted(path for path in files if path.endswith(".safetensors"))))
    length = struct.unpack("<Q", files[path][:8])[0]
    header = json.loads(files[path][8 : 8 + length])
    names = sorted(header.keys() - {"__metadata__"})
    for victim in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        tensor = header.pop(victim)
        match data.draw(st.integers(0, 3)):
            case 1:
                header[victim.replace("layers.0", "layers.7")] = tensor
            case 2:
                shape = tensor["shape"]
                header[victim] = tensor | {"shape": [1, *shape[1:], *shape[:1]]}
            case 3:
                header[victim + data.draw(st.sampled_from([".weight", "x", ".0"]))] = tensor
    weights = {
        each: {
            tensor_name: Tensor(fields["dtype"], tuple(fields["shape"]), *fields["data_offsets"])
            for tensor_name, fields in header.items()
            if tensor_name != "__metadata__"
        }
        for each in [path]
    }
    try:
        conversion = convert(json.loads(files["config.json"]), files, weights, ModelDescription("x"))
    except GgufError:
        return
    assert read_header(conversion.header, size=conversion.size).tensors
