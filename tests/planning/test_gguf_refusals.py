"""GGUFs that are refused: what would not load or cannot be made, and why."""

from typing import Any

import pytest

from proxy.errors import Refusal
from proxy.gguf.header import Field
from proxy.gguf.tensor_types import NEED_IMPORTANCE
from tests.gguf.splitting import split
from tests.kit.tiny_gguf import finite, tiny_gguf, tiny_projector
from tests.planning.gguf_plans import NEW, OLD, assemble, hex_of, planned, read, requantized

WHOLE = tiny_gguf()


@pytest.mark.parametrize("name", NEED_IMPORTANCE)
def test_importance_matrix_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(
        Refusal, match=f"^acme/model: {name} needs an importance matrix, .* without one is {NEED_IMPORTANCE[name]}$"
    ):
        planned({"m-F16.gguf": tiny_gguf("F16")}, name.lower())


@pytest.mark.parametrize("tag", ["TQ1_0", "tq2_0"])
@pytest.mark.parametrize("version", [OLD, NEW, "0.40.0"])
def test_what_no_ollama_runs_is_not_made(tag: str, version: str) -> None:
    with pytest.raises(
        Refusal, match=rf"^acme/model: Ollama {version} does not run {tag.upper()}; pull with .*: Q4_K_M, .*, F16"
    ) as refusal:
        planned({"m-F16.gguf": tiny_gguf("F16")}, tag, version)
    assert "TQ" not in str(refusal.value).partition(";")[2]
    [upload] = planned({f"m-{tag}.gguf": WHOLE}, tag, version).uploads
    assert upload.digest == hex_of(WHOLE)  # what is there goes as it is


def test_a_quantization_without_an_engine_is_refused(only_numpy: None) -> None:
    """The refusal lists what this machine can make."""
    files = {"m-F16.gguf": finite(tiny_gguf("F16"))}
    message = r"^acme/model: nothing on this machine makes Q6_K .*: Q8_0, F16, BF16, F32\. On .* adds the others$"
    with pytest.raises(Refusal, match=message):
        planned(files, "q6_k")
    assert assemble(planned(files, "q8_0").uploads[0].recipe, files) == requantized(list(files.values()), "Q8_0")


@pytest.mark.parametrize(
    ("label", "number", "tag", "message"),
    [
        ("F16", b"\x00\x7c", "q8_0", "Q8_0: it holds a NaN, an infinity or .* Q8_0; pull it as BF16 or F32"),
        ("F32", b"\x00\x00\x80\x7f", "q8_0", "Q8_0: it holds a NaN, an infinity or .* Q8_0; pull it as BF16 or F32"),
        ("F32", b"\x00\x00\x80\x47", "f16", "F16: it holds a number beyond what F16 can hold; pull it as BF16 or F32"),
    ],
)
def test_a_number_that_does_not_fit_names_file_and_tensor(label: str, number: bytes, tag: str, message: str) -> None:
    """Only the bytes show it."""
    content = bytearray(finite(tiny_gguf(label)))
    at = read(bytes(content)).data_start
    content[at : at + len(number)] = number
    files = {f"m-{label}.gguf": bytes(content)}
    recipe = planned(files, tag).uploads[0].recipe
    with pytest.raises(Refusal, match=f"^m-{label}.gguf: token_embd.weight cannot become {message}$"):
        assemble(recipe, files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiny_projector(), r"acme/model/x-F16.gguf is not a complete model \(mmproj\)"),
        (tiny_gguf(general__architecture=Field.string("clip"), general__type=None), r"not a complete model \(clip\)"),
        (tiny_gguf(general__architecture=None, general__type=None), r"not a complete model \(no architecture\)"),
        (tiny_gguf(general__type=Field.string("adapter")), r"not a complete model \(adapter\)"),
        (tiny_gguf(general__type=Field.string("imatrix")), r"not a complete model \(imatrix\)"),
        (
            tiny_gguf(split__count=Field.uint16(2)),
            "is the first of 2 shards, but the names of the others do not show it",
        ),
        (
            tiny_gguf(general__architecture=Field.uint32(1)),
            "cannot be used: general.architecture is of the kind uint32",
        ),
        (tiny_gguf(general__type=Field.uint32(1)), "cannot be used: general.type is of the kind uint32"),
        (tiny_gguf(split__count=Field.string("2")), "cannot be used: split.count is of the kind string"),
    ],
)
@pytest.mark.parametrize("tag", ["F16", "latest"])
def test_what_is_no_model_is_refused(content: bytes, message: str, tag: str) -> None:
    with pytest.raises(Refusal, match=message):
        planned({"x-F16.gguf": content}, tag)


@pytest.mark.parametrize(
    ("changes", "version", "message"),
    [
        (
            {"general__architecture": Field.string("ufo")},
            NEW,
            "has the architecture 'ufo', which no Ollama up to 0.40.0",
        ),
        (
            {"general__architecture": Field.string("gptj")},
            OLD,
            "has the architecture 'gptj', which no Ollama up to 0.40",
        ),
        *(
            ({"general__architecture": Field.string(name)}, version, f"{name} {reason}; pull another model")
            for name, version, reason in (
                ("dream", OLD, "generates by diffusion, which Ollama's llama.cpp server cannot do"),
                ("llada-moe", NEW, "generates by diffusion, which Ollama's llama.cpp server cannot do"),
                ("t5", OLD, ".*, and Ollama's llama.cpp server does not run such an encoder"),
                (
                    "minimax-01",
                    NEW,
                    r"runs in no Ollama up to 0\.40: its llama\.cpp \(b10488\) aborts at the first token",
                ),
                ("eagle3", NEW, "drafts tokens for another model, and answers nothing by itself"),
            )
        ),
        ({"general__architecture": Field.string("eurobert")}, OLD, "does not run eurobert; update it to 0.30.0 or"),
        (
            {"tokenizer__ggml__pre": Field.string("scissors")},
            NEW,
            "has the pre-tokenizer 'scissors', which no Ollama up to 0.40.0 knows",
        ),
        ({"tokenizer__ggml__tokens": Field.strings(["a", "", "", "b", "a"])}, NEW, "has two tokens with the text 'a'"),
    ],
)
@pytest.mark.parametrize("shards", [1, 2])
def test_what_ends_the_loader_is_refused(changes: dict[str, Any], version: str, message: str, shards: int) -> None:
    content = tiny_gguf(tokenizer__ggml__model=Field.string("gpt2"), **changes)
    files = {"x-Q4_K_M.gguf": content} if shards == 1 else split(content, shards, prefix="x-Q4_K_M")
    with pytest.raises(Refusal, match=message):
        planned(files, version=version)
    if "tokens" not in message:
        assert planned(files, version="0.41.0").uploads, "a newer Ollama may know more"


@pytest.mark.parametrize("count", [None, Field.string("4"), Field.int32(-1)])
def test_without_a_layer_count_a_gguf_stays_as_it_is(count: Field | None) -> None:
    """The rules for the types need it."""
    files = {"m-F16.gguf": finite(tiny_gguf("F16", llama__block_count=count))}
    with pytest.raises(
        Refusal,
        match=r"m-F16.gguf cannot be used: the metadata has llama\.block_count = .*, which is no count; pull another",
    ):
        planned(files, "q4_k_m")
    assert planned(files, "latest").quantization is None


def test_shards_that_do_not_fit_are_refused() -> None:
    one, other = split(WHOLE, 2), split(WHOLE, 2)
    names = list(one)
    wrong = {names[0]: one[names[0]], names[1]: other[names[0]]}
    with pytest.raises(
        Refusal, match="acme/model/model-00001-of-00002.gguf cannot be used: part 2 of 2 has the split.no"
    ):
        planned(wrong)
