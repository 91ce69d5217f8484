"""The architecture that config.json names decides first whether a repository can become a model."""

import pytest

from proxy.errors import Refusal
from proxy.gguf.families import FAMILIES
from proxy.gguf.families.refused import REFUSED, REFUSED_GGUFS
from proxy.gguf.loader_names import BEFORE_LLAMA_SERVER, SINCE_LLAMA_SERVER
from proxy.planning.capabilities import capabilities_of
from proxy.planning.conversion_plan import architecture_of
from proxy.planning.weights import NotConvertible


@pytest.mark.parametrize(("architecture", "reason"), REFUSED.items())
def test_architecture_that_no_ollama_runs_is_refused_with_its_reason(architecture: str, reason: str) -> None:
    """No other form of the model would work, so the refusal does not advise to look for a GGUF."""
    with pytest.raises(Refusal) as refusal:
        architecture_of("acme/tiny/config.json", {"architectures": [architecture]}, capabilities_of("0.40.0"))
    assert str(refusal.value) == f"acme/tiny/config.json: {architecture} {reason}; pull another model"
    assert not isinstance(refusal.value, NotConvertible)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("XLMRobertaForSequenceClassification", "only ranks or classifies"),
        ("LLaDAModelLM", "generates by diffusion"),
        ("T5ForConditionalGeneration", "does not run such an encoder"),
        ("OPTForCausalLM", "no such architecture"),
        ("GroveMoeForCausalLM", "the output of the large ones"),
    ],
)
def test_each_reason_is_for_its_own_architectures(architecture: str, reason: str) -> None:
    assert reason in REFUSED[architecture]


def test_no_family_is_refused_by_name() -> None:
    assert not FAMILIES.keys() & REFUSED.keys()
    assert not {family.architecture for family in FAMILIES.values()} & REFUSED_GGUFS.keys()


def test_refused_ggufs_are_those_that_a_loader_knows() -> None:
    """Others need no reason of their own."""
    assert REFUSED_GGUFS.keys() <= BEFORE_LLAMA_SERVER | SINCE_LLAMA_SERVER
