"""The stand-in Ollama makes models as v0.24 does, and fails, waits and crashes as a test tells it."""

import asyncio

import aiohttp
import orjson
import pytest

from proxy.demo.ollama import StandInOllama
from tests.demo.driver import FILES, NOBODY, Driver, statuses
from tests.tiny_gguf import tiny_gguf


async def test_a_create_converts_quantizes_and_shows_the_model(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    answer = await client.lines(
        "/api/create",
        model="hf.co/Org/Tiny:q4_K_M",
        files=files,
        quantize="q4_K_M",
        system='Be "kind".\nAlways.',
        parameters={"stop": ["<|eot_id|>"], "temperature": 0.5},
        license="Free",
    )
    quantizing = [line for line in answer if line["status"].startswith("quantizing")]
    assert {line["status"] for line in quantizing} == {"quantizing F16 model to Q4_K_M"}
    assert {line["digest"] for line in quantizing} == {"0" * 19}
    assert quantizing[-1]["completed"] == quantizing[-1]["total"]
    rest = [status.partition(" sha256:")[0] for status in statuses(answer) if "quantizing" not in status]
    assert rest == [
        "converting model",
        "verifying conversion",
        "creating new layer",
        "using autodetected template llama3-instruct",
        "creating new layer",
        "creating new layer",
        "creating new layer",
        "writing manifest",
        "success",
    ]
    status, shown = await client.one("POST", "/api/show", model="HF.co/org/tiny:Q4_k_m")
    assert status == 200
    assert shown["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "1.67M",
        "quantization_level": "Q4_K_M",
    }
    for part in (
        "FROM /",
        'SYSTEM """Be "kind".\nAlways."""',
        "PARAMETER stop <|eot_id|>",
        "PARAMETER temperature 0.5",
    ):
        assert part in shown["modelfile"]
    assert (shown["license"], shown["capabilities"]) == ("Free", ["completion"])
    [listed] = (await client.one("GET", "/api/tags"))[1]["models"]
    assert (listed["name"], listed["digest"]) == (
        "hf.co/Org/Tiny:q4_K_M",
        ollama.models["hf.co/org/tiny:q4_k_m"].digest,
    )


async def test_without_quantize_the_model_is_f16_and_the_same_files_give_the_same_model(
    ollama: StandInOllama, client: Driver
) -> None:
    files = await client.upload(FILES)
    first = await client.lines("/api/create", model="x", files=files, quantize="f16")
    second = await client.lines("/api/create", model="y", files=files)
    assert ollama.models["x"].quantization_level == "F16"
    assert ollama.models["x"].digest == ollama.models["y"].digest
    assert statuses(second) == [line.replace("creating new", "using existing") for line in statuses(first)]


async def test_an_unknown_quantization_fails_only_after_the_conversion(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    answer = await client.lines("/api/create", model="x", files=files, quantize="q5_k_m")
    text = "unsupported quantization type Q5_K_M - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
    assert answer == [{"status": "converting model"}, {"error": text}]
    assert dict(ollama.models) == {}
    assert await client.one("POST", "/api/create", model="x", files=files, quantize="q5_k_m", stream=False) == (
        500,
        {"error": text},
    )


async def test_from_another_model_quantizes_its_f16_but_nothing_quantized(
    ollama: StandInOllama, client: Driver
) -> None:
    """Deleting the temporary model then frees its F16 weights, and only them."""
    files = await client.upload(FILES)
    await client.lines("/api/create", model="temporary", files=files)
    answer = await client.lines("/api/create", model="x", **{"from": "temporary"}, quantize="Q8_0")
    assert answer[0]["status"] == "quantizing F16 model to Q8_0"
    assert answer[-1] == {"status": "success"}
    before = dict(ollama.blobs)
    await client.one("DELETE", "/api/delete", model="temporary")
    freed = {size for digest, size in before.items() if digest not in ollama.blobs}
    assert len(freed) == 2
    assert max(freed) > 3_000_000
    assert all(layer.digest in ollama.blobs for layer in ollama.models["x"].layers)
    text = "quantization is only supported for F16, BF16 and F32 models"
    assert await client.one("POST", "/api/create", model="y", **{"from": "x"}, quantize="Q4_K_M") == (
        500,
        {"error": text},
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model.safetensors": NOBODY}, "open model.safetensors: no such file or directory"),
        ({"config.json": None}, "open config.json: no such file or directory"),
        ({"tokenizer.json": None}, "unknown tokenizer format"),
    ],
)
async def test_a_file_that_is_missing_is_an_error_after_the_first_line(
    ollama: StandInOllama, client: Driver, change: dict[str, str | None], text: str
) -> None:
    files = {**await client.upload(FILES), **change}
    given = {path: digest for path, digest in files.items() if digest}
    answer = await client.lines("/api/create", model="x", files=given)
    assert answer == [{"status": "converting model"}, {"error": text}]
    assert dict(ollama.models) == {}


async def test_an_architecture_that_v0_24_does_not_convert_is_refused(client: Driver) -> None:
    config = FILES["config.json"].replace(b"LlamaForCausalLM", b"Qwen3ForCausalLM")
    files = await client.upload({**FILES, "config.json": config})
    answer = await client.lines("/api/create", model="x", files=files)
    assert answer[-1] == {"error": 'unsupported architecture "Qwen3ForCausalLM"'}


async def test_a_gguf_is_taken_as_it_is(ollama: StandInOllama, client: Driver) -> None:
    def string(text: str) -> bytes:
        return len(text).to_bytes(8, "little") + text.encode()

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "little")

    words = number(9) + number(8) + number(2, 8) + string("a") + string("b")
    gguf = b"".join(
        (
            *(b"GGUF", number(3), number(1, 8), number(3, 8)),
            *(string("general.architecture"), number(8), string("qwen3")),
            *(string("tokenizer.ggml.tokens"), words),
            *(string("general.file_type"), number(4), number(32)),
            *(string("token_embd.weight"), number(2), number(64, 8), number(50, 8), number(30), number(0, 8)),
        )
    )
    files = await client.upload({"weights": gguf})
    answer = await client.lines("/api/create", model="x", files=files, quantize="q8_0")
    assert statuses(answer)[:2] == ["parsing GGUF", "quantizing BF16 model to Q8_0"]
    model = ollama.models["x:latest"]
    assert (model.family, model.quantization_level, model.parameter_size) == ("qwen3", "Q8_0", "3K")
    not_gguf = await client.upload({"a.gguf": b"{}"})
    answer = await client.lines("/api/create", model="x", files=not_gguf)
    assert answer[-1] == {"error": "supplied file was not in GGUF format"}


async def test_a_pointer_instead_of_weights_breaks_the_connection(client: Driver) -> None:
    """The real server panics on the text that git keeps in the place of a large file."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    files = await client.upload({**FILES, "model.safetensors": pointer})
    with pytest.raises(aiohttp.ClientError):
        await client.lines("/api/create", model="x", files=files)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_create_can_be_told_to_fail(ollama: StandInOllama, client: Driver, *, stream: bool) -> None:
    files = await client.upload(FILES)
    ollama.fail_create = "no space left on device"
    async with client.session.post("/api/create", json={"model": "x", "files": files, "stream": stream}) as response:
        said = (await response.read()).splitlines()
        assert orjson.loads(said[-1]) == {"error": "no space left on device"}
        assert (response.status, len(said)) == ((200, 2) if stream else (500, 1))
    assert dict(ollama.models) == {}


async def test_a_create_can_be_told_to_crash(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    ollama.crash_create = True
    ollama.hold_making = asyncio.Event()
    async with client.session.post("/api/create", json={"model": "x", "files": files}) as response:
        assert await response.content.readline() == b'{"status":"converting model"}\n'
        ollama.hold_making.set()
        with pytest.raises(aiohttp.ClientError):
            await response.content.readline()
    assert dict(ollama.models) == {}


async def test_a_create_can_be_told_to_end_without_success(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    ollama.end_create_early = True
    assert await client.lines("/api/create", model="x", files=files) == [{"status": "converting model"}]
    assert dict(ollama.models) == {}


async def test_a_create_can_be_held_after_its_first_line(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    ollama.hold_making = asyncio.Event()
    async with client.session.post("/api/create", json={"model": "x", "files": files}) as response:
        assert await response.content.readline() == b'{"status":"converting model"}\n'
        assert dict(ollama.models) == {}
        ollama.hold_making.set()
        assert (await response.read()).endswith(b'{"status":"success"}\n')
    assert list(ollama.models) == ["x:latest"]


async def test_a_conversion_can_be_silent_for_a_while(
    ollama: StandInOllama, client: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    files = await client.upload(FILES)
    monkeypatch.setattr("proxy.demo.creation.asyncio.sleep", sleep)
    ollama.conversion_silence = 300
    await client.lines("/api/create", model="x", files=files)
    assert slept == [300]


async def test_a_create_whose_client_leaves_makes_no_model(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    ollama.hold_making = asyncio.Event()
    response = await client.session.post("/api/create", json={"model": "x", "files": files})
    await response.content.readline()
    response.close()
    while not ollama.abandoned_creates:
        await asyncio.sleep(0)
    ollama.hold_making.set()
    assert ollama.abandoned_creates == 1
    assert dict(ollama.models) == {}


async def test_without_a_stream_a_create_completes_though_its_client_has_left(
    ollama: StandInOllama, client: Driver
) -> None:
    files = await client.upload(FILES)
    ollama.hold_making = asyncio.Event()
    body = {"model": "x", "files": files, "stream": False}
    leaving = asyncio.create_task(client.session.post("/api/create", json=body).__aenter__())
    while not ollama._unwatched:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    ollama.hold_making.set()
    while ollama._unwatched:
        await asyncio.sleep(0)
    assert list(ollama.models) == ["x:latest"]
    assert ollama.abandoned_creates == 0


async def test_replacing_a_model_frees_the_layers_of_the_old_one(ollama: StandInOllama, client: Driver) -> None:
    files = await client.upload(FILES)
    await client.lines("/api/create", model="x", files=files, system="old")
    old = {layer.digest for layer in ollama.models["x"].layers if layer.kind in {"system", "config"}}
    assert old <= ollama.blobs.keys()
    await client.lines("/api/create", model="x", files=files, system="new")
    assert not old & ollama.blobs.keys()
    assert all(layer.digest in ollama.blobs for layer in ollama.models["x"].layers)


async def test_closing_is_prompt_while_creates_wait() -> None:
    async with StandInOllama(version="0.33.0") as ollama, aiohttp.ClientSession(ollama.url) as session:
        client = Driver(session)
        assert await client.one("GET", "/api/version") == (200, {"version": "0.33.0"})
        files = await client.upload(FILES)
        ollama.hold_making = asyncio.Event()
        bodies = [{"model": "x", "files": files, "stream": stream} for stream in (True, False)]
        waiting = [asyncio.create_task(client.session.post("/api/create", json=body).__aenter__()) for body in bodies]
        while not (ollama._unwatched and waiting[0].done()):
            await asyncio.sleep(0)
        async with asyncio.timeout(30):  # a graceful end would wait for a minute
            await ollama.close()
        streamed, unstreamed = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(unstreamed, aiohttp.ClientError)
        assert isinstance(streamed, aiohttp.ClientResponse)
        with pytest.raises(aiohttp.ClientError):
            await streamed.read()
    assert dict(ollama.models) == {}


@pytest.mark.parametrize("source", ["files", "from"])
async def test_from_0_34_1_on_nothing_is_quantized(ollama: StandInOllama, client: Driver, source: str) -> None:
    ollama.version = "0.34.1"
    files = await client.upload({"m.gguf": tiny_gguf("F16")})
    assert (await client.lines("/api/create", model="x", files=files))[-1] == {"status": "success"}
    what = {"files": files} if source == "files" else {"from": "x:latest"}
    status, answer = await client.one("POST", "/api/create", model="y", quantize="Q8_0", stream=False, **what)
    assert status == 500
    assert answer["error"] == (
        "create-time quantization is only supported for safetensors imports; quantize GGUF models with llama.cpp tools "
        "before importing"
    )
    assert list(ollama.models) == ["x:latest"]


async def test_from_0_34_1_on_nothing_is_converted_and_no_adapter_taken(ollama: StandInOllama, client: Driver) -> None:
    ollama.version = "0.40.0"
    files = await client.upload(FILES)
    refused = (400, {"error": 'unsupported quantize type "Q8_0": supported types are int4, int8, nvfp4, mxfp4, mxfp8'})
    assert await client.one("POST", "/api/create", model="x", files=files, quantize="Q8_0") == refused
    assert (await client.one("POST", "/api/create", model="x", files=files))[0] == 400
    adapters = {"a.gguf": NOBODY}
    refused = (400, {"error": "LoRA adapters are no longer supported"})
    assert await client.one("POST", "/api/create", model="x", **{"from": "y"}, adapters=adapters) == refused
    assert not ollama.models
