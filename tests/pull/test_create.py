"""What of Ollama's create a pull shows, for the servers of both kinds."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import pytest

from proxy.config import NO_SETTINGS, ModelSettings, Quantization
from proxy.ollama import Ollama
from proxy.planning.plan import Base, Converter, Format, Plan, weight_file
from proxy.pull.create import create, model_body, temporary_body
from proxy.pull.progress import QUANTIZING_DIGEST, Progress
from tests.planning.listings import LFS, listing

ZEROS = "0" * 19


NAME = "hf.co/acme/model:q8_0"
DIGESTS = {"model.safetensors": f"sha256:{LFS}"}


def planned(settings: ModelSettings = NO_SETTINGS, quantization: str | None = "Q8_0", base: Base | None = None) -> Plan:
    repository = listing("model.safetensors")
    weights = weight_file(repository, "model.safetensors", repository.files[0])
    return Plan(
        NAME,
        repository,
        Format.SAFETENSORS,
        "a test",
        (weights,),
        quantization=quantization,
        settings=settings,
        base=base,
        converter=Converter.NOBODY if base else Converter.OLLAMA,
    )


class Saying:
    """An Ollama whose create says the given lines."""

    def __init__(self, *lines: dict[str, Any]) -> None:
        self.lines = lines
        self.asked: list[Mapping[str, Any]] = []

    async def create(self, body: Mapping[str, Any], _: str) -> AsyncGenerator[dict[str, Any], None]:
        self.asked.append(body)
        for line in self.lines:
            yield line


def status(text: str) -> dict[str, Any]:
    return {"status": text}


async def shown(ollama: Saying, plan: Plan) -> list[dict[str, Any]]:
    progress = Progress()
    subscription = progress.subscribe()
    await create(cast("Ollama", ollama), plan, NAME, DIGESTS, progress)
    progress.success()
    return [json.loads(line) async for batch in subscription.batches() for line in batch.splitlines()]


async def test_a_server_that_quantizes_silently_still_shows_the_quantization() -> None:
    """v0.30 and later, with a llama-quantize whose progress Ollama cannot read."""
    lines = await shown(
        Saying(status("converting model"), status("verifying conversion"), status("writing manifest")),
        planned(quantization=Quantization.Q4_K_M),
    )
    [bar] = [line for line in lines if "digest" in line]
    assert bar == {"status": "quantizing model to Q4_K_M", "digest": QUANTIZING_DIGEST, "total": 10, "completed": 10}


async def test_a_server_that_says_how_it_quantizes_is_believed() -> None:
    saying = {"status": "quantizing F16 model to Q4_K_M", "digest": ZEROS, "total": 7, "completed": 7}
    lines = await shown(
        Saying(status("converting model"), saying, status("verifying conversion")), planned(quantization="Q4_K_M")
    )
    assert [line for line in lines if "digest" in line] == [saying | {"digest": QUANTIZING_DIGEST}]


async def test_a_server_that_only_validates_shows_no_quantization() -> None:
    """v0.30 and later copy an F16 model through llama-quantize."""
    validating = {"status": "validating GGUF model", "digest": ZEROS, "total": 7, "completed": 7}
    lines = await shown(
        Saying(status("converting model"), validating, status("verifying conversion")), planned(quantization="F16")
    )
    assert not [line for line in lines if "digest" in line]


async def test_nothing_else_that_ollama_says_passes() -> None:
    noise = (
        "creating new layer sha256:1",
        "using existing layer sha256:2",
        "using autodetected template chatml",
        "writing manifest",
        "success",
    )
    lines = await shown(Saying(*(status(text) for text in noise)), planned(quantization="F16"))
    assert [line["status"] for line in lines] == ["converting model", "success"]


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
def test_the_body_has_what_the_user_set_and_nothing_more(settings: ModelSettings, fields: dict[str, Any]) -> None:
    body = model_body(planned(settings), NAME, DIGESTS)
    assert set(body) == {"model", "files", "quantize", *fields}
    assert {key: body[key] for key in fields} == fields


def test_an_adapter_goes_on_its_base() -> None:
    body = model_body(planned(quantization=None, base=Base("hf.co/acme/base:q8_0", None)), NAME, {"adapter.gguf": "d"})
    assert body == {
        "model": NAME,
        "from": "hf.co/acme/base:q8_0",
        "adapters": {"adapter.gguf": "d"},
        "stream": False,
    }


def test_weights_that_stay_as_they_are_are_not_quantized() -> None:
    body = model_body(planned(quantization=None), NAME, DIGESTS)
    assert body == {"model": NAME, "files": DIGESTS, "stream": False}


def test_a_conversion_alone_keeps_its_type_and_needs_no_reader() -> None:
    """Without `quantize` Ollama makes Q8_0 of FP8; with `stream` it would block for ever when the proxy dies."""
    body = temporary_body("ollama-hf-proxy/x:temporary", DIGESTS)
    assert body == {"model": "ollama-hf-proxy/x:temporary", "files": DIGESTS, "quantize": "F16", "stream": False}


def test_a_model_of_a_temporary_one_takes_nothing_else_from_the_repository() -> None:
    body = model_body(planned(ModelSettings(system="s")), NAME, {}, "ollama-hf-proxy/x:temporary")
    temporary = "ollama-hf-proxy/x:temporary"
    assert body == {"model": NAME, "from": temporary, "quantize": "Q8_0", "system": "s"}
