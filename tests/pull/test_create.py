"""The body of `/api/create`, for an Ollama that does not reach the proxy for a manifest."""

from typing import Any

import pytest

from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.planning.plan import Base, Format, Plan, weight_file
from proxy.pull.create import model_body
from tests.planning.listings import LFS, listing

NAME = "hf.co/acme/model:q8_0"
DIGESTS = {"model.gguf": f"sha256:{LFS}"}


def planned(settings: ModelSettings = NO_SETTINGS, base: Base | None = None) -> Plan:
    repository = listing("model.gguf")
    weights = weight_file(repository, "model.gguf", repository.files[0])
    return Plan(NAME, repository, Format.GGUF, "a test", (weights,), settings=settings, base=base)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (ModelSettings(), {}),
        (ModelSettings(template="", system=""), {"template": "", "system": ""}),
        (
            ModelSettings(template="t", system="s", parameters={"stop": ["x"]}, license=["a", "b"]),
            {"template": "t", "system": "s", "parameters": {"stop": ["x"]}, "license": ["a", "b"]},
        ),
    ],
)
def test_the_body_has_only_the_users_settings(settings: ModelSettings, fields: dict[str, Any]) -> None:
    body = model_body(planned(settings), NAME, DIGESTS)
    assert body == {"model": NAME, "files": DIGESTS, **fields}


def test_an_adapters_body_names_its_base() -> None:
    body = model_body(planned(base=Base("hf.co/acme/base:q8_0", None)), NAME, {"adapter.gguf": "d"})
    assert body == {"model": NAME, "from": "hf.co/acme/base:q8_0", "adapters": {"adapter.gguf": "d"}}
