"""docs/families.md has the recorded figures of every family."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.gguf.families import FAMILIES
from proxy.planning.capabilities import LLAMA_SERVER, capabilities_of
from tests.make_families import MODELS_PAGE, PAGE, models_page, page
from tests.real.make_logprobs import TOLERANCE
from tests.real.measuring import FILES, MEASURED
from tests.real.test_embedding import EMBEDDERS
from tests.real.test_logprobs import DEVIATIONS, LOGPROBS

RECORDED: Mapping[str, Mapping[str, Mapping[str, Any]]] = json.loads(MEASURED.read_bytes())


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.make_families"


def test_the_table_of_models_that_see_is_up_to_date() -> None:
    assert MODELS_PAGE.read_text() == models_page(), "run python -m tests.make_families"


def test_every_architecture_has_a_row() -> None:
    assert set(re.findall(r"^\| ([A-Z]\w+) \|", PAGE.read_text(), re.MULTILINE)) == FAMILIES.keys()


@pytest.mark.parametrize("version", RECORDED)
def test_recorded_figures_are_within_the_limits(version: str) -> None:
    for name, delta in RECORDED[version]["delta"].items():
        assert delta < DEVIATIONS.get(name, (TOLERANCE, ""))[0]
    assert all(cosine > 0.9999 for cosine in RECORDED[version]["cosine"].values())


@pytest.mark.parametrize("version", RECORDED)
def test_a_run_recorded_every_repository(version: str) -> None:
    recorded = RECORDED[version]
    refused = recorded.get("refusal", {}).keys()
    assert not refused or capabilities_of(version).version < LLAMA_SERVER
    assert recorded["quantization"].keys() | refused == FILES.keys()
    assert recorded["delta"].keys() == LOGPROBS.keys() - refused
    assert refused or recorded["cosine"].keys() == EMBEDDERS.keys()
