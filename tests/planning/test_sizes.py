"""How large a model becomes, against files that real servers wrote."""

from collections.abc import Iterable

import pytest

from proxy.planning.sizes import Shape, count_numbers


def quantized_size(shapes: Iterable[Shape], quantization: str) -> int:
    return count_numbers(shapes).size(quantization)


def llama(vocabulary: int, hidden: int, inner: int, layers: int, keys: int, *, tied: bool) -> list[Shape]:
    matrices = [(hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden)]
    matrices += [(inner, hidden), (inner, hidden), (hidden, inner)]
    made = [Shape("model.embed_tokens.weight", vocabulary * hidden, hidden)]
    if not tied:
        made.append(Shape("lm_head.weight", vocabulary * hidden, hidden))
    for layer in range(layers):
        made += [Shape(f"model.layers.{layer}.x.weight", rows * row, row) for rows, row in matrices]
        made += [Shape(f"model.layers.{layer}.norm.weight", hidden, 0)] * 2
    return made


@pytest.mark.parametrize(
    ("model", "quantization", "measured", "off"),
    [
        (llama(128256, 2048, 8192, 16, 512, tied=True), "Q4_K_M", 800e6, 0.05),  # Llama-3.2-1B
        (llama(128256, 3072, 8192, 28, 1024, tied=True), "Q4_K_M", 2012e6, 0.05),  # Llama-3.2-3B
        (llama(128256, 4096, 14336, 32, 1024, tied=False), "Q4_K_M", 4913e6, 0.05),  # Llama-3.1-8B
        (llama(128256, 4096, 14336, 32, 1024, tied=False), "Q4_K_S", 0.583 * 8.03e9, 0.05),
        (llama(128256, 4096, 14336, 32, 1024, tied=False), "Q8_0", 1.0625 * 8.03e9, 0.01),
        (llama(128256, 4096, 14336, 32, 1024, tied=False), "F16", 2 * 8.03e9, 0.01),
        (llama(128256, 4096, 14336, 32, 1024, tied=False), "BF16", 2 * 8.03e9, 0.01),
        (llama(128256, 4096, 14336, 32, 1024, tied=False), "F32", 4 * 8.03e9, 0.01),
        (llama(151936, 896, 4864, 24, 128, tied=True), "Q4_K_M", 392e6, 0.05),  # Qwen2.5-0.5B, rows of 896
        (llama(49152, 576, 1536, 30, 192, tied=True), "Q4_K_M", 104e6, 0.05),  # SmolLM2-135M, rows of 576
    ],
)
def test_an_estimate_is_near_what_was_measured(
    model: list[Shape], quantization: str, measured: float, off: float
) -> None:
    assert quantized_size(model, quantization) == pytest.approx(measured, off)


def test_vectors_stay_whole_in_every_quantization() -> None:
    assert {quantized_size([Shape("norm", 1000, 0)], kind) for kind in ("F16", "Q8_0", "Q4_K_M")} == {4000}


def test_the_embedding_is_larger_than_a_layers_matrix() -> None:
    sizes = [quantized_size([Shape(name, 2560, 256)], "Q4_K_M") for name in ("lm_head.weight", "x.weight")]
    assert sizes == [2100, 1536]
    fallbacks = [quantized_size([Shape(name, 2560, 32)], "Q4_K_M") for name in ("token_embd.weight", "x.weight")]
    assert fallbacks == [2720, 1760]


def test_an_old_quantization_is_guessed_generously() -> None:
    shapes = [Shape("x", 2560, 256)]
    assert quantized_size(shapes, "IQ4_NL") == quantized_size(shapes, "Q8_0")
    assert quantized_size([], "Q4_K_M") == 0
