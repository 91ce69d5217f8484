"""A GGUF that this Ollama cannot load is refused, also in shards; what it may load passes."""

from collections.abc import Mapping
from typing import Any

import pytest

from proxy.errors import Refusal
from proxy.gguf.header import Field, ValueType, read_header, write_header
from proxy.gguf.tensors import TensorInfo, TensorType, lay_out
from tests.gguf.splitting import split
from tests.kit.tiny_gguf import finite, tiny_gguf
from tests.planning.gguf_plans import assemble, planned, read

OLD, NEW = "0.24.0", "0.33.0"
SHARDS = pytest.mark.parametrize("shards", [1, 3])
TEXTS = [f"t{number}" for number in range(512)]


def files_of(content: bytes, shards: int, label: str = "Q4_K_M") -> Mapping[str, bytes]:
    return {f"x-{label}.gguf": content} if shards == 1 else split(content, shards, prefix=f"x-{label}")


def model(label: str = "Q4_K_M", /, **changes: Field | None) -> bytes:
    fields: dict[str, Any] = {
        "tokenizer__ggml__model": Field.string("llama"),
        "tokenizer__ggml__tokens": Field.strings(TEXTS),
        "llama__embedding_length": Field.uint32(256),
        **changes,
    }
    return tiny_gguf(label, **fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer__ggml__model": Field.string("abacus")},
            "has the tokenizer 'abacus', which no Ollama",
        ),
        ({"tokenizer__ggml__tokens": Field.strings(TEXTS[:-2])}, "has 510 tokens, but token_embd.weight has 512 rows"),
        ({"tokenizer__ggml__tokens": Field.strings([*TEXTS[:-1], "t1"])}, "has two tokens with the text 't1'"),
        ({"tokenizer__ggml__scores": Field.array(ValueType.FLOAT32, [0.5])}, "scores has 1 values"),
        ({"llama__block_count": Field.uint32(9)}, "the tensor blk.4.attn_norm.weight is missing"),
        ({"llama__embedding_length": Field.uint32(64)}, "embedding_length is 64"),
    ],
)
@pytest.mark.parametrize("version", [OLD, NEW])
@SHARDS
def test_what_does_not_load_is_refused(changes: dict[str, Any], message: str, version: str, shards: int) -> None:
    assert planned(files_of(model(), shards), version=version).uploads
    with pytest.raises(Refusal, match=f"^acme/model/x-Q4_K_M.*{message}.*; pull another file of the model$"):
        planned(files_of(model(**changes), shards), version=version)


@pytest.mark.parametrize(("architecture", "version"), [("qwen3", OLD), ("gemma3", OLD), ("gemma3", NEW), ("bert", NEW)])
def test_files_that_llama_cpp_does_not_see_as_they_are_pass(architecture: str, version: str) -> None:
    """Ollama's own engine loads them, or Ollama translates them first."""
    content = model(
        general__architecture=Field.string(architecture),
        tokenizer__ggml__tokens=Field.strings(["a", "a"]),
        tokenizer__ggml__model=Field.string("gpt2"),
    )
    assert planned({"x-Q4_K_M.gguf": content}, version=version).uploads


@SHARDS
def test_a_name_of_phi3_without_its_tokens(shards: int) -> None:
    """llama.cpp ends with `unordered_map::at`. A file that is written anew gets another name."""
    content = model(general__name=Field.string("Tiny Phi-3 Chat"))
    files = files_of(content, shards)
    if shards == 1:
        with pytest.raises(Refusal, match="name is 'Tiny Phi-3 Chat', so llama.cpp expects the tokens of Phi-3"):
            planned(files)
        return
    [upload] = planned(files).uploads
    merged = read(assemble(upload.recipe, files))
    assert merged.metadata["general.name"].value == "Tiny Phi 3 Chat"
    assert merged.tensors == read(content).tensors


@SHARDS
def test_a_name_of_phi3_is_changed_when_the_proxy_quantizes(shards: int) -> None:
    files = files_of(finite(model("F16", general__name=Field.string("phi3"))), shards, "F16")
    [upload] = planned(files, "q8_0").uploads
    assert read(assemble(upload.recipe, files)).metadata["general.name"].value == "phi 3"


def test_a_tensor_type_that_only_newer_versions_know() -> None:
    whole = read_header(tiny_gguf())
    tensors = lay_out([TensorInfo("x.weight", (64, 4), TensorType.NVFP4)])
    files = {"x-NVFP4.gguf": write_header(whole.metadata, tensors) + bytes(tensors[0].size)}
    with pytest.raises(
        Refusal,
        match="has the tensor 'x.weight' in NVFP4, which Ollama 0.24.0 does not run; update it to 0.30.0 or newer",
    ):
        planned(files, version=OLD)
    assert planned(files, version=NEW).uploads
