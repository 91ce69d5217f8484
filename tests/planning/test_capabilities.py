"""What each version of Ollama can do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf.families import FAMILIES
from proxy.gguf.loader_names import BEFORE_LLAMA_SERVER, PRE_TOKENIZERS, SINCE_LLAMA_SERVER
from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES
from proxy.planning.capabilities import LLAMA_SERVER, NEWEST, RUNS_SINCE, Version, capabilities_of


@pytest.mark.parametrize(
    ("reported", "version"),
    [
        ("0.24.0", (0, 24, 0)),
        ("v0.24.1", (0, 24, 1)),
        ("0.33.0-rc2", (0, 33, 0)),
        ("0.6", (0, 6, 0)),
        ("0.12.11-3-gabcdef", (0, 12, 11)),
        ("1.0.0", (1, 0, 0)),
    ],
)
def test_versions_are_parsed(reported: str, version: tuple[int, int, int]) -> None:
    capabilities = capabilities_of(reported)
    assert capabilities.version == Version(*version)
    assert capabilities.warning is None
    assert capabilities.ollama == "Ollama " + ".".join(map(str, version))


@pytest.mark.parametrize("reported", ["0.0.0", "0.0.0-dev", "", "main", "built at home", None])
def test_without_a_version_the_newest_is_assumed(reported: str | None) -> None:
    """With a warning."""
    capabilities = capabilities_of(reported)
    assert capabilities.version == NEWEST
    assert capabilities.warning is not None
    assert "set ollama.version" in capabilities.warning
    assert ("could not be asked" in capabilities.warning) is (reported is None)


@pytest.mark.parametrize("reported", ["0.0.0", "0.24.0", None])
def test_the_configured_version_wins(reported: str | None) -> None:
    capabilities = capabilities_of(reported, "v0.6.8")
    assert capabilities.version == Version(0, 6, 8)
    assert capabilities.warning is None


@given(reported=st.text() | st.from_regex(r"v?\d+\.\d+(\.\d+)?.*"))
def test_any_version_text_gives_a_version(reported: str) -> None:
    assert capabilities_of(reported).version >= Version(0, 0, 0)
    assert capabilities_of("9" * 5000 + ".1").version == NEWEST


@pytest.mark.parametrize(
    ("version", "usable"), [("0.5.4", False), ("0.5.5", True), ("0.1.48", False), ("0.33.0", True)]
)
def test_an_ollama_that_is_too_old_is_refused(version: str, usable: bool) -> None:
    """The refusal names the first version that makes models from uploads."""
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
        ("0.11.4", "deepseek2", "kimi-k2", "0.11.5"),
        ("0.24.0", "deepseek2", "kimi-k2", "0.11.5"),
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


@pytest.mark.parametrize(
    ("architecture", "since"),
    [("qwen35", "0.30.0"), ("qwen35moe", "0.30.0"), ("qwen3next", "0.32.6"), ("nemotron_h", "0.32.10")],
)
def test_which_release_drafts_tokens(architecture: str, since: str) -> None:
    assert f"; {since} or newer does" in capabilities_of("0.24.0").draft_problem(architecture)
    assert capabilities_of(since).draft_problem(architecture) == ""
    assert capabilities_of("0.34.1").draft_problem(architecture) == ""


def test_a_release_with_an_older_llama_cpp_drafts_less() -> None:
    assert "the releases from 0.32.10 on do" in capabilities_of("0.40.0").draft_problem("nemotron_h")
    assert capabilities_of("0.40.0").draft_problem("qwen3next") == ""


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
    capabilities = capabilities_of(version)
    assert [one for one in Quantization if not capabilities.runs_quantization(one)] == ["TQ1_0", "TQ2_0"]


def test_what_the_proxy_makes_is_known_to_load() -> None:
    architectures = {family.architecture for family in FAMILIES.values()}
    assert architectures <= BEFORE_LLAMA_SERVER | SINCE_LLAMA_SERVER
    assert set(PRE_TOKENIZER_NAMES.values()) <= PRE_TOKENIZERS
    for architecture in architectures:
        assert capabilities_of("0.40.0").architecture_since(architecture) <= RUNS_SINCE.get(architecture, LLAMA_SERVER)
