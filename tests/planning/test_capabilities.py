"""What is known of an Ollama by its version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Quantization
from proxy.errors import Refusal
from proxy.planning.capabilities import CONVERTS, NEWEST, Version, capabilities_of


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
    ("architecture", "not_yet", "first"),
    [
        ("LlamaForCausalLM", "0.5.4", "0.5.5"),
        ("Qwen2ForCausalLM", "0.5.5", "0.5.6"),
        ("CohereForCausalLM", "0.5.6", "0.5.7"),
        ("Gemma3ForCausalLM", "0.5.13", "0.6.0"),
        ("MllamaForConditionalGeneration", "0.6.8", "0.7.0"),
        ("GptOssForCausalLM", "0.10.1", "0.11.0"),
        ("NomicBertModel", "0.13.2", "0.13.3"),
        ("Gemma3TextModel", "0.24.0", "0.30.0"),
        ("MistralForCausalLM", "0.6.5", "0.6.4"),
        ("MistralForCausalLM", "0.5.4", "0.5.5"),
    ],
)
def test_an_architecture_is_converted_by_the_releases_that_have_it(architecture: str, not_yet: str, first: str) -> None:
    assert not capabilities_of(not_yet).converts(architecture)
    assert capabilities_of(first).converts(architecture)


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
    assert str(capabilities_of(version).cuts_from(architecture, pre_tokenizer)) == since


@pytest.mark.parametrize(("pre_tokenizer", "since"), [("deepseek-v3", "0.30.0"), ("deepseek-llm", "0.5.5")])
def test_which_release_calculates_deepseek_as_llama_cpp(pre_tokenizer: str, since: str) -> None:
    assert str(capabilities_of("0.24.0").runs_right_from("deepseek2", pre_tokenizer)) == since


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
    assert str(capabilities_of(version).scales_from(architecture, scaling)) == since


def test_the_newest_converts_all_that_is_listed_and_nothing_else() -> None:
    newest = capabilities_of("0.33.0")
    assert all(newest.converts(architecture) for architecture in CONVERTS)
    assert not any(map(newest.converts, ("MistralForCausalLM", "Qwen3ForCausalLM", "XLMRobertaModel", "")))


@pytest.mark.parametrize(
    ("version", "fp8", "llama_server", "spoils"),
    [
        ("0.5.5", False, False, False),
        ("0.6.8", False, False, False),
        ("0.7.0", False, False, True),
        ("0.21.2", False, False, True),
        ("0.22.0", True, False, True),
        ("0.24.0", True, False, True),
        ("0.30.0", True, True, False),
        ("0.33.0", True, True, False),
    ],
)
def test_what_a_release_can_besides(version: str, fp8: bool, llama_server: bool, spoils: bool) -> None:
    found = capabilities_of(version)
    assert found.takes_fp8 is fp8
    assert found.runs_llama_server is llama_server
    assert found.spoils_output is spoils


@pytest.mark.parametrize(
    ("version", "converts"), [("0.33.0", True), ("0.34.0", True), ("0.34.1", False), (None, False)]
)
def test_nothing_is_converted_from_0_34_1_on(version: str | None, converts: bool) -> None:
    """An Ollama of no version counts as the newest."""
    found = capabilities_of(version)
    assert {found.converts(architecture) for architecture in CONVERTS} == {converts}


@pytest.mark.parametrize("version", ["0.6.8", "0.24.0", "0.34.1", "0.40.0", None])
def test_two_quantizations_load_nowhere(version: str | None) -> None:
    found = capabilities_of(version)
    assert [one for one in Quantization if not found.runs_quantization(one)] == ["TQ1_0", "TQ2_0"]


@pytest.mark.parametrize(
    ("tag", "old", "new"),
    [
        ("q4_K_M", "Q4_K_M", "Q4_K_M"),
        ("q4_k", "Q4_K_M", "Q4_K_M"),
        ("Q8_0", "Q8_0", "Q8_0"),
        ("bf16", "BF16", "BF16"),
        ("q6_k", "Q6_K", None),
        ("iq4_xs", "IQ4_XS", None),
        ("Q3_K_L", "Q3_K_L", None),
        ("iq1_s", None, None),  # only with an importance matrix
        ("mxfp4", None, None),
        ("", None, None),
    ],
)
def test_the_list_of_quantizations_is_long_before_0_7_and_short_since(
    tag: str, old: str | None, new: str | None
) -> None:
    assert capabilities_of("0.6.8").quantization(tag) == old
    assert capabilities_of("0.7.0").quantization(tag) == capabilities_of("0.33.0").quantization(tag) == new
