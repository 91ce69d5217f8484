"""Which quantization a tag means, which ones this machine and this Ollama support, and how large each is."""

from functools import lru_cache
from typing import Any

import pytest

from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf import engine_ggml
from proxy.gguf.cast import NoEngine
from proxy.gguf.conversion import AGAIN, Conversion
from proxy.gguf.keeping import Fallback
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensor_types import FILE_TYPES, NEED_IMPORTANCE
from proxy.gguf.tensors import TensorType
from proxy.gguf.transforms import Transform
from proxy.planning.capabilities import Capabilities, capabilities_of
from proxy.planning.quantizations import is_available, naming_file, no_engine_refusal, offers, read_quantization
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import repository

NEW = capabilities_of("0.40.0")
RUN = [one for one in Quantization if not one.startswith("TQ")]

beside_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


def read(tag: str, default: Quantization = Quantization.Q4_K_M, capabilities: Capabilities = NEW) -> str | Fallback:
    return read_quantization("acme/model", tag, default, capabilities)


def test_every_quantization_has_a_file_type() -> None:
    assert {str(one) for one in Quantization} == FILE_TYPES.keys()
    assert not {str(one) for one in Quantization} & NEED_IMPORTANCE.keys()


@pytest.mark.parametrize("quantization", RUN)
def test_a_tag_is_read_in_any_case(quantization: Quantization) -> None:
    for tag in (quantization.lower(), quantization.upper(), quantization.capitalize(), quantization.swapcase()):
        assert read(tag) is quantization


@pytest.mark.parametrize("tag", ["Q3_K", "q4_k", "Q5_k"])
def test_a_short_name_is_the_middle_one(tag: str) -> None:
    """As llama.cpp reads it."""
    assert read(tag) == f"{tag.upper()}_M"


@pytest.mark.parametrize("default", [Quantization.Q8_0, Quantization.IQ4_XS])
@pytest.mark.parametrize("tag", ["latest", "LATEST"])
def test_no_tag_is_the_default(tag: str, default: Quantization) -> None:
    """Unless the weights are NVFP4, which an older Ollama does not run."""
    assert read(tag, default) == Fallback(default)
    assert read(tag, default, capabilities_of("0.24.0")) is default


@pytest.mark.parametrize("tag", ["NVFP4", "nvfp4"])
def test_nvfp4_is_a_tag_but_no_quantization_that_we_make(tag: str) -> None:
    assert read(tag) == "NVFP4"
    assert "NVFP4" not in {*Quantization, *FILE_TYPES}
    with pytest.raises(Refusal, match=r"Ollama 0.29.9 does not run NVFP4; update it to 0.30.0 or newer, or pull with"):
        read(tag, capabilities=capabilities_of("0.29.9"))
    assert read(tag, capabilities=capabilities_of("0.30.0")) == "NVFP4"


@pytest.mark.parametrize("name", NEED_IMPORTANCE)
def test_importance_matrix_is_refused_with_the_nearest_tag(name: str) -> None:
    nearest = NEED_IMPORTANCE[name]
    assert read(nearest) == nearest
    for tag in (name, name.lower()):
        with pytest.raises(
            Refusal, match=rf"^acme/model: {name} needs an importance matrix, .* without one is {nearest}$"
        ):
            read(tag)


@beside_ggml
@pytest.mark.parametrize("tag", ["nonsense", "q4", "Q6_K_M", "mxfp4", "7b", "Q2_K_L", ""])
def test_an_unknown_tag_names_those_that_there_are(tag: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(tag)
    text = str(refused.value)
    assert text == (
        f"acme/model: there is no quantization {tag!r}; pull with one of these tags: {', '.join(RUN)} "
        "(no tag means Q4_K_M)"
    )


@beside_ggml
@pytest.mark.parametrize("version", ["0.24.0", "0.40.0"])
@pytest.mark.parametrize("tag", ["TQ1_0", "tq2_0"])
def test_what_ollama_does_not_run_is_refused(tag: str, version: str) -> None:
    with pytest.raises(
        Refusal, match=rf"^acme/model: Ollama {version} does not run {tag.upper()}; .*: {', '.join(RUN)}$"
    ):
        read(tag, capabilities=capabilities_of(version))


@pytest.mark.parametrize("tag", ["latest", "mxfp4_moe"])
def test_weights_that_are_quantized_already_stay_so(tag: str) -> None:
    """Unless a tag asks for another quantization."""
    kept = Quantization.MXFP4_MOE
    assert read_quantization("acme/model", tag, Quantization.Q4_K_M, NEW, kept=kept) == kept
    assert read_quantization("acme/model", "q8_0", Quantization.Q4_K_M, NEW, kept=kept) == "Q8_0"
    with pytest.raises(Refusal, match=r"no quantization 'nonsense'; .* \(no tag means MXFP4_MOE\)"):
        read_quantization("acme/model", "nonsense", Quantization.Q4_K_M, NEW, kept=kept)


@lru_cache(maxsize=64)
def conversion(name: str, quantization: str | None = None) -> Conversion | None:
    """None if it is refused."""
    options: dict[str, Any] = {} if quantization is None else {"quantization": quantization}
    try:
        return plan(repository(name), **options)
    except CannotConvert:
        return None


def offered(name: str) -> dict[str, int]:
    made = conversion(name)
    assert made is not None
    found = offers(len(made.header), made.facts, made.sources, NEW, AGAIN)
    return {offer.quantization: offer.size for offer in found}


@beside_ggml
@pytest.mark.parametrize("name", ["llama", "llama_f32", "qwen3", "mixtral", "glm4", "mamba", "jamba", "gpt_oss"])
def test_an_offer_has_the_size_of_the_file(name: str) -> None:
    """Byte for byte. Not offered: what cannot be made, and MXFP4_MOE for a model without experts."""
    expected = {}
    for quantization in RUN:
        made = conversion(name, quantization)
        kinds = {tensor.type for tensor in made.tensors} if made is not None else set()
        if made is not None and (quantization != "MXFP4_MOE" or TensorType.MXFP4 in kinds):
            expected[str(quantization)] = made.size
    assert offered(name) == expected
    assert list(expected) == [one for one in RUN if one in expected]
    assert "Q4_K_M" in expected
    assert ("MXFP4_MOE" in expected) == (name in ("gpt_oss", "mixtral"))


@beside_ggml
def test_the_usual_six_come_first() -> None:
    assert list(offered("llama"))[:6] == ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16"]


@pytest.mark.usefixtures("only_numpy")
def test_what_no_engine_makes_is_not_offered() -> None:
    assert [one for one in Quantization if is_available(one)] == ["Q8_0", "F16", "BF16", "F32"]
    made = plan(repository("llama"))
    found = offers(len(made.header), made.facts, made.sources, NEW)
    assert [offer.quantization for offer in found] == ["Q8_0", "F16", "BF16", "F32"]


@pytest.mark.usefixtures("only_numpy")
def test_what_no_engine_makes_is_refused_with_what_to_install() -> None:
    with pytest.raises(NoEngine) as error:
        plan(repository("llama"), quantization="IQ4_XS")
    text = str(no_engine_refusal("acme/model", error.value))
    assert text.startswith("acme/model: nothing on this machine makes ")
    assert "pull with one of these tags: Q8_0, F16, BF16, F32. " in text
    assert "`pip install libggml-python` adds the others" in text


def test_what_only_the_numbers_tell_is_refused_with_the_file() -> None:
    """Nothing else changes."""

    def change(content: bytes) -> bytes:
        if content == b"bad!":
            raise CannotConvert("x.weight cannot become Q8_0: it holds a NaN")
        return content[:2]

    transform = naming_file("model.safetensors", Transform(4, 2, change))
    assert (transform.block, transform.output_block, transform.change(b"good")) == (4, 2, b"go")
    with pytest.raises(
        Refusal,
        match=r"^model\.safetensors: x\.weight cannot become Q8_0: it holds a NaN$",
    ):
        transform.change(b"bad!")
