"""What is known of an Ollama by its version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.gguf.families import FAMILIES
from proxy.gguf.loader_names import BEFORE_LLAMA_SERVER, PRE_TOKENIZERS, SINCE_LLAMA_SERVER
from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES
from proxy.planning.capabilities import LLAMA_SERVER, NEWEST, RUNS, Version, capabilities_of


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("0.24.0", (0, 24, 0)),
        ("v0.24.1", (0, 24, 1)),
        ("0.33.0-rc2", (0, 33, 0)),
        ("0.6", (0, 6, 0)),
        ("0.12.11-3-gabcdef", (0, 12, 11)),
        ("1.0.0", (1, 0, 0)),
    ],
)
def test_a_version_is_read_as_ollama_says_it(said: str, version: tuple[int, int, int]) -> None:
    found = capabilities_of(said)
    assert found.version == Version(*version)
    assert found.warning is None
    assert found.ollama == "Ollama " + ".".join(map(str, version))


@pytest.mark.parametrize("said", ["0.0.0", "0.0.0-dev", "", "main", "built at home", None])
def test_an_ollama_of_no_version_is_taken_for_the_newest_with_a_warning(said: str | None) -> None:
    found = capabilities_of(said)
    assert found.version == NEWEST
    assert found.warning is not None
    assert "set ollama.version" in found.warning
    assert ("could not be asked" in found.warning) is (said is None)


@pytest.mark.parametrize("said", ["0.0.0", "0.24.0", None])
def test_the_configured_version_wins(said: str | None) -> None:
    found = capabilities_of(said, "v0.6.8")
    assert found.version == Version(0, 6, 8)
    assert found.warning is None


@given(said=st.text() | st.from_regex(r"v?\d+\.\d+(\.\d+)?.*"))
def test_whatever_ollama_calls_itself_it_is_some_version(said: str) -> None:
    assert capabilities_of(said).version >= Version(0, 0, 0)
    assert capabilities_of("9" * 5000 + ".1").version == NEWEST


@pytest.mark.parametrize(
    ("version", "usable"), [("0.5.4", False), ("0.5.5", True), ("0.1.48", False), ("0.33.0", True)]
)
def test_an_ollama_that_makes_no_models_of_uploads_is_refused_with_the_first_that_does(
    version: str, usable: bool
) -> None:
    if usable:
        capabilities_of(version).check_usable()
    else:
        with pytest.raises(Refusal, match=f"Ollama {version} is too old .* update it to 0.5.5 or newer"):
            capabilities_of(version).check_usable()


@pytest.mark.parametrize(
    ("version", "architecture", "pre_tokenizer", "since"),
    [
        ("0.5.12", "phi3", "gpt-4o", "0.5.13"),
        ("0.6.8", "llama", "seed-coder", "0.7.0"),
        ("0.24.0", "qwen2", "qwen35", "0.30.0"),
        ("0.24.0", "llama", "llama-bpe", "0.5.5"),
        ("0.11.11", "qwen3", "llama-bpe", "0.5.5"),
        ("0.12.0", "qwen3", "llama-bpe", "0.30.0"),
        ("0.24.0", "qwen3moe", "default", "0.30.0"),
        ("0.24.0", "qwen3", "qwen2", "0.5.5"),
        ("0.24.0", "qwen3next", "qwen2", "0.5.5"),
        ("0.24.0", "qwen3next", "llama-bpe", "0.30.0"),
        ("0.24.0", "qwen35", "qwen35", "0.30.0"),
        ("0.33.0", "qwen3", "llama-bpe", "0.30.0"),
        ("0.24.0", "gpt-oss", "gpt-4o", "0.5.13"),
        ("0.14.2", "lfm2", "smaug-bpe", "0.5.5"),
        ("0.14.3", "lfm2", "smaug-bpe", "0.30.0"),
        ("0.24.0", "lfm2moe", "llama-bpe", "0.5.5"),
        ("0.24.0", "gpt-oss", "llama-bpe", "0.30.0"),
    ],
)
def test_which_release_cuts_texts_as_a_tokenizer(
    version: str, architecture: str, pre_tokenizer: str, since: str
) -> None:
    assert str(capabilities_of(version).pre_tokenizer_since(architecture, pre_tokenizer)) == since


@pytest.mark.parametrize(("pre_tokenizer", "since"), [("deepseek-v3", "0.30.0"), ("deepseek-llm", "0.5.5")])
def test_which_release_calculates_deepseek_as_llama_cpp(pre_tokenizer: str, since: str) -> None:
    assert str(capabilities_of("0.24.0").correct_since("deepseek2", pre_tokenizer)) == since


@pytest.mark.parametrize(
    ("version", "architecture", "scaling", "since"),
    [
        ("0.24.0", "qwen3", "yarn", "0.30.0"),
        ("0.24.0", "qwen3next", "yarn", "0.30.0"),
        ("0.24.0", "qwen3next", "linear", "0.5.5"),
        ("0.24.0", "qwen2", "yarn", "0.5.5"),
        ("0.11.11", "qwen3", "yarn", "0.5.5"),
    ],
)
def test_which_release_scales_positions_as_a_model(version: str, architecture: str, scaling: str, since: str) -> None:
    assert str(capabilities_of(version).rope_scaling_since(architecture, scaling)) == since


@pytest.mark.parametrize("version", ["0.6.8", "0.24.0", "0.34.1", "0.40.0", None])
def test_two_quantizations_load_nowhere(version: str | None) -> None:
    found = capabilities_of(version)
    assert [one for one in Quantization if not found.runs_quantization(one)] == ["TQ1_0", "TQ2_0"]


def test_what_the_proxy_makes_is_known_to_load() -> None:
    architectures = {family.architecture for family in FAMILIES.values()}
    assert architectures <= BEFORE_LLAMA_SERVER | SINCE_LLAMA_SERVER
    assert set(PRE_TOKENIZER_NAMES.values()) <= PRE_TOKENIZERS
    for architecture in architectures:
        assert capabilities_of("0.40.0").architecture_since(architecture) <= RUNS.get(architecture, LLAMA_SERVER)
