"""What the proxy converts is, byte for byte, the converter's file."""

import json
from collections.abc import Mapping
from dataclasses import replace

import aiohttp
import pytest

from proxy.app import App
from proxy.config.values import Quantization
from proxy.gguf.families import FAMILIES
from proxy.gguf.projectors import TOWERS
from proxy.inspection import inspect
from proxy.ollama.blobs import PROBE_DIGEST
from proxy.planning.capabilities import capabilities_of, runs_since
from proxy.planning.quantizations import is_available
from proxy.standins.hub import Fault, StandInHub
from proxy.standins.ollama import StandInOllama
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.repository import YARN
from tests.gguf.writing import write
from tests.kit.conversions import conversion, converted, headers, native_tag, striped, weights_of
from tests.kit.ollama_log import created
from tests.kit.pauses import use_timings
from tests.kit.support import Client, digest_of, fetched, settings
from tests.kit.tiny_conversions import with_tokenizer_config

NAME = "hf.co/acme/tiny"
CAPABLE = capabilities_of("0.24.0")
CONVERTED = sorted(
    name
    for name, tiny in REPOSITORIES.items()
    if CAPABLE.version >= runs_since(tiny.architecture, FAMILIES[tiny.architecture].architecture)
    and tiny.architecture not in TOWERS
)


NEWER = sorted(REPOSITORIES.keys() - set(CONVERTED))


@pytest.mark.parametrize("name", NEWER)
async def test_the_blob_for_a_newer_ollama_is_the_converters_file_byte_for_byte(
    client: Client, hub: StandInHub, ollama: StandInOllama, name: str
) -> None:
    """Without a chat template: this Ollama renders it by itself, so its GGUF says something else about BOS."""
    ollama.version = "0.40.0"
    files = with_tokenizer_config(name, chat_template=None)
    hub.add("acme/tiny", files)
    tag = native_tag(files).lower()
    assert (await client.pull(f"{NAME}:{tag}"))[-1] == {"status": "success"}
    expected = converted(files, quantization=tag.upper())
    assert ollama.blobs[digest_of(expected)] == len(expected)


@pytest.mark.parametrize("name", CONVERTED)
async def test_the_blob_is_the_converters_file_byte_for_byte(
    client: Client, hub: StandInHub, ollama: StandInOllama, name: str
) -> None:
    files = REPOSITORIES[name].files()
    hub.add("acme/tiny", files)
    tag = native_tag(files).lower()
    lines = await client.pull(f"{NAME}:{tag}")
    planned = conversion(files, quantization=tag.upper())
    if not CAPABLE.runs(planned.architecture):
        assert f"Ollama 0.24.0 does not run {planned.architecture}; Ollama " in lines[-1]["error"]
        return
    if CAPABLE.version < CAPABLE.pre_tokenizer_since(planned.architecture, planned.pre_tokenizer):
        assert f"does not split texts as this tokenizer does ({planned.pre_tokenizer})" in lines[-1]["error"]
        return
    if REPOSITORIES[name].pooling and CAPABLE.version < CAPABLE.embeddings_since(planned.architecture):
        assert f"makes no embeddings with {REPOSITORIES[name].architecture}" in lines[-1]["error"]
        return
    assert lines[-1] == {"status": "success"}, lines[-1]
    expected = write(planned, files)
    assert ollama.blobs[digest_of(expected)] == len(expected)
    [weights] = [layer for layer in ollama.models[f"{NAME}:{tag}"].layers if layer.kind == "model"]
    assert (weights.digest, weights.size) == (digest_of(expected), len(expected))
    assert not any("converting" in line["status"] for line in lines)


async def test_the_text_models_architecture_has_to_run(hub: StandInHub, ollama: StandInOllama) -> None:
    """One architecture in config.json becomes one of two in the GGUF."""
    for name in ("mistral3_eyes", "ministral3_eyes"):
        hub.add(f"acme/{name}", REPOSITORIES[name].files())
    async with (
        App(settings(hub.endpoint, ollama.url, pull={"vision": False})) as app,
        aiohttp.ClientSession() as session,
    ):
        client = Client(app.address.url, session)
        assert (await client.pull("hf.co/acme/mistral3_eyes:bf16"))[-1] == {"status": "success"}
        refused = (await client.pull("hf.co/acme/ministral3_eyes:bf16"))[-1]["error"]
    assert "Ollama 0.24.0 does not run mistral3; Ollama 0.30.0 or newer does" in refused


@pytest.mark.parametrize(("version", "here"), [("0.29.0", False), ("0.30.0", True)])
def test_the_text_model_depends_on_ollamas_version(version: str, here: bool) -> None:
    assert capabilities_of(version).runs(FAMILIES["Gemma3nForConditionalGeneration"].architecture) is here


RUN = [one for one in Quantization if CAPABLE.runs_quantization(one) and is_available(one)]


@pytest.mark.parametrize("quantization", RUN)
async def test_every_quantization_is_the_converters_file(
    client: Client, hub: StandInHub, ollama: StandInOllama, quantization: Quantization
) -> None:
    """From two shards. Ollama converts nothing."""
    files = REPOSITORIES["qwen3"].files()
    hub.add("acme/tiny", files)
    name = f"{NAME}:{quantization.lower()}"
    assert (await client.pull(name))[-1] == {"status": "success"}
    expected = converted(files, quantization=quantization)
    [weights] = [layer for layer in ollama.models[name].layers if layer.kind == "model"]
    assert (weights.digest, weights.size) == (digest_of(expected), len(expected))
    assert ollama.models[name].quantization_level == quantization
    assert not created(ollama)


@pytest.mark.parametrize("name", ["llama_pieces", "mixtral", "gpt_oss", "gemma3", "mamba", "deepseek2", "bloom"])
async def test_a_plan_made_in_a_process_is_the_same(
    client: Client, hub: StandInHub, ollama: StandInOllama, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("proxy.planning.conversion_process.THREAD_BYTES", 0)
    files = REPOSITORIES[name].files()
    hub.add("acme/tiny", files)
    tag = "mxfp4_moe" if name == "gpt_oss" else "q4_k_m"
    assert (await client.pull(f"{NAME}:{tag}"))[-1] == {"status": "success"}
    expected = converted(files, quantization=tag.upper())
    assert ollama.blobs[digest_of(expected)] == len(expected)


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0", "0.34.1", "0.40.0"])
async def test_no_ollama_is_asked_to_quantize(
    client: Client, hub: StandInHub, ollama: StandInOllama, version: str
) -> None:
    ollama.version = version
    files = REPOSITORIES["smollm3"].files() | {"tokenizer_config.json": b"{}"}
    hub.add("acme/tiny", files)
    assert (await client.pull(f"{NAME}:q4_K_M"))[-1] == {"status": "success"}
    assert digest_of(converted(files, quantization="Q4_K_M")) in ollama.models.used_digests()
    assert not created(ollama)


async def test_experts_are_quantized_too(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    """Their tensors come from both shards in turn."""
    files = striped(REPOSITORIES["mixtral"].files())
    hub.add("acme/tiny", files)
    assert (await client.pull(f"{NAME}:mxfp4_moe"))[-1] == {"status": "success"}
    assert digest_of(converted(files, quantization="MXFP4_MOE")) in ollama.models.used_digests()


def with_number(files: Mapping[str, bytes], name: str, bits: bytes) -> tuple[dict[str, bytes], str]:
    """The repository with the 32nd number of a tensor replaced, and the path of its file."""
    for path, header in headers(files).items():
        if name in header.tensors:
            tensor = header.tensors[name]
            at = tensor.start + 31 * 2
            content = files[path][:at] + bits + files[path][at + 2 :]
            return {**files, path: content}, path
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("tag", "bits", "kind"),
    [
        ("q8_0", b"\xc0\x7f", "Q8_0"),  # a NaN
        ("q4_K_M", b"\x80\x7f", "Q4_K"),  # an infinity
        ("f16", b"\x00\x5f", "F16"),  # 2 to the 63rd
        ("iq3_s", b"\xc0\x7f", "IQ3_S"),
    ],
)
async def test_an_invalid_number_ends_the_pull(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, tag: str, bits: bytes, kind: str
) -> None:
    """The error names the file and the tensor, nothing stays in Ollama, and another tag still works."""
    files, path = with_number(REPOSITORIES["qwen3"].files(), "model.layers.0.self_attn.q_proj.weight", bits)
    hub.add("acme/tiny", files)
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        error = (await client.pull(f"{NAME}:{tag}"))[-1]["error"]
        assert f"{path}: blk.0.attn_q.weight cannot become {kind}: it holds a" in error, error
        assert error.endswith("pull it as BF16 or F32")
        assert not ollama.models
        assert ollama.blobs.keys() <= {PROBE_DIGEST}
        assert (await client.pull(f"{NAME}:bf16"))[-1] == {"status": "success"}


async def test_the_bars_are_the_shards(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    """Each byte is fetched once."""
    files = REPOSITORIES["qwen3"].files()
    hub.add("acme/tiny", files)
    lines = await client.pull(f"{NAME}:q4_K_M")
    bars = {line["digest"]: line for line in lines if line.get("digest") in weights_of(files)}
    assert bars.keys() == weights_of(files).keys()
    assert all(bar["completed"] == bar["total"] for bar in bars.values())
    assert {digest: bar["total"] for digest, bar in bars.items()} == weights_of(files)
    assert sum(request.body_bytes for request in fetched(hub)) == sum(weights_of(files).values())


async def test_a_damaged_byte_costs_one_retry_of_its_files(
    client: Client, hub: StandInHub, ollama: StandInOllama
) -> None:
    """Then the pull is an error."""
    hub.add("acme/tiny", REPOSITORIES["qwen3"].files())
    hub.faults.append(Fault("model-00002-of-00002.safetensors", "corrupt", after=200_000, times=1))
    assert (await client.pull(f"{NAME}:bf16"))[-1] == {"status": "success"}
    del ollama.models[f"{NAME}:bf16"]
    ollama.blobs.clear()
    hub.faults.append(Fault("model-00002-of-00002.safetensors", "corrupt", after=200_000, times=-1))
    error = (await client.pull(f"{NAME}:bf16"))[-1]["error"]
    assert "acme/tiny/model-00002-of-00002.safetensors arrived damaged" in error
    assert not ollama.models


async def test_an_unknown_model_is_refused_early(client: Client, hub: StandInHub, ollama: StandInOllama) -> None:
    """Before a weight byte moves."""
    files = REPOSITORIES["qwen3"].files()
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    hub.add("acme/tiny", files | {"tokenizer.json": json.dumps(tokenizer).encode()})
    lines = await client.pull(f"{NAME}:q4_K_M")
    assert "Whitespace" in lines[-1]["error"] or "pre-tokenizer" in lines[-1]["error"], lines[-1]
    assert "look for a GGUF of the same model" in lines[-1]["error"]
    assert not fetched(hub)
    assert not [request for request in ollama.requests if request.method == "POST"]


@pytest.mark.parametrize(("version", "succeeds"), [("0.24.0", False), ("0.30.0", True)])
async def test_an_ollama_with_another_tokenizer_gets_no_model(
    client: Client, hub: StandInHub, ollama: StandInOllama, version: str, succeeds: bool
) -> None:
    ollama.version = version
    hub.add("acme/tiny", replace(REPOSITORIES["qwen3"], tokenizer=lambda: byte_pairs("smollm")).files())
    lines = await client.pull(f"{NAME}:bf16")
    if succeeds:
        assert lines[-1] == {"status": "success"}
        return
    assert lines[-1]["error"] == (
        "acme/tiny: Ollama 0.24.0 does not split texts as this tokenizer does (smollm); update it to 0.30.0 or newer"
    )
    assert not fetched(hub)


@pytest.mark.parametrize(("version", "succeeds"), [("0.24.0", False), ("0.30.0", True)])
async def test_an_ollama_with_another_rope_gets_no_model(
    client: Client, hub: StandInHub, ollama: StandInOllama, version: str, succeeds: bool
) -> None:
    ollama.version, tiny = version, REPOSITORIES["qwen3"]
    hub.add("acme/tiny", replace(tiny, change={**tiny.change, "rope_scaling": YARN}).files())
    lines = await client.pull(f"{NAME}:bf16")
    if succeeds:
        assert lines[-1] == {"status": "success"}
        return
    assert lines[-1]["error"] == (
        "acme/tiny: Ollama 0.24.0 does not scale positions as this model does (yarn); update it to 0.30.0 or newer"
    )
    assert not fetched(hub)


@pytest.mark.parametrize(
    ("name", "version", "is_converted"),
    [
        ("qwen3", "0.24.0", True),
        ("qwen3", "0.6.5", False),
        ("smollm3", "0.11.4", False),
        ("smollm3", "0.11.5", True),
        ("llama", "0.24.0", True),
    ],
)
async def test_the_result_depends_on_what_ollama_runs(
    hub: StandInHub, ollama: StandInOllama, name: str, version: str, *, is_converted: bool
) -> None:
    ollama.version, architecture = version, REPOSITORIES[name].architecture
    hub.add("acme/tiny", REPOSITORIES[name].files())
    inspection = (await inspect(settings(hub.endpoint, ollama.url), f"{NAME}:bf16")).to_json()
    if is_converted:
        assert (inspection["refusal"], inspection["reason"]) == (None, f"the proxy converts {architecture}")
    else:
        assert f"Ollama {version} does not run {architecture}; Ollama " in inspection["refusal"]


@pytest.mark.parametrize(
    ("name", "version", "tag", "refused"),
    [
        ("mamba", "0.33.0", "q4_K_M", None),
        ("mamba", "0.33.0", "q8_0", "'blk.0.ssm_dt.weight' has rows of 16, no multiple of Q8_0's 32"),
        ("mamba", "0.24.0", "q8_0", "'blk.0.ssm_dt.weight' has rows of 16, no multiple of Q8_0's 32"),
        ("mamba", "0.33.0", "f16", None),
        ("granitehybrid", "0.33.0", "q8_0", None),
        ("granitehybrid", "0.11.4", "bf16", "GraniteMoeHybridForCausalLM"),
    ],
)
async def test_only_quantized_rows_need_the_block_size(
    hub: StandInHub, ollama: StandInOllama, name: str, version: str, tag: str, refused: str | None
) -> None:
    ollama.version = version
    hub.add("acme/tiny", REPOSITORIES[name].files())
    config = settings(hub.endpoint, ollama.url)
    inspection = (await inspect(config, f"{NAME}:{tag}")).to_json()
    assert (inspection["refusal"] is None) == (refused is None), inspection["refusal"]
    assert refused is None or refused in inspection["refusal"]


async def test_a_quantization_leaves_nothing_behind(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine, the sweep may run before the pull's own removal.
    use_timings(monkeypatch, first_sweep=600.0)
    hub.add("acme/tiny", REPOSITORIES["qwen3"].files())
    config = settings(hub.endpoint, ollama.url, ollama={"reclaim": True})
    async with App(config) as app:
        client = Client(app.address.url, session)
        lines = await client.pull(f"{NAME}:q4_K_M")
        assert [line["status"] for line in lines if "digest" not in line][-2:] == ["removing unused layers", "success"]
        assert not ollama.blobs.keys() - ollama.models.used_digests()
        before = len(fetched(hub))
        assert (await client.pull(f"{NAME}:q4_K_M"))[-1] == {"status": "success"}
        assert len(fetched(hub)) == before


def test_every_family_is_decided_about() -> None:
    assert {FAMILIES[REPOSITORIES[name].architecture].architecture for name in CONVERTED} >= {
        "qwen3",
        "llama",
        "smollm3",
    }
