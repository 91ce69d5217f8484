"""Every family of models on a real Ollama: what is pulled loads and answers, and what was repaired answers the same."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from gguf import GGUFReader

from proxy.demo.hub import StandInHub
from proxy.demo.repository import tiny_llama
from proxy.planning.capabilities import Capabilities, capabilities_of
from tests.real_ollama import RealOllama
from tests.support import Client, fetched
from tests.tiny_families import (
    FAMILIES,
    Files,
    Stored,
    changed_json,
    configured,
    fp8_pair,
    restored,
    stored,
    stored_tensors,
    tiny_gemma,
    tiny_mixtral,
    tiny_phi3,
    tiny_qwen2,
)
from tests.tiny_models import (
    newer_sentence_transformer,
    png,
    tiny_bert,
    tiny_gemma3_vision,
    tiny_mistral3_vision,
    tiny_qwen2_5_vl,
    tiny_qwen3_vl,
)

pytestmark = pytest.mark.timeout(300)

OPTIONS = {"num_predict": 4, "num_ctx": 512, "temperature": 0, "seed": 1}
PROMPTS = ("<|user|>\nhello there<|end|>\n<|assistant|>\n", "the cat sits, on 12", "a dog runs", "zz def")


class Answer(NamedTuple):
    """What tells one model from another: how a text becomes tokens, and what the model thinks of them."""

    prompt: str
    prompt_tokens: int
    likely: Any


@pytest.fixture
def converter(real_ollama: RealOllama) -> str:
    """What is repaired is repaired for Ollama's converter."""
    real_ollama.needs_converter()
    return "ollama"


@pytest.fixture
async def capabilities(real_client: Client) -> Capabilities:
    _, said = await real_client.get("/api/version")
    return capabilities_of(orjson.loads(said)["version"])


async def pull(client: Client, hub: StandInHub, repository: str, files: Files, tag: str = "f16") -> str:
    hub.add(repository, files)
    name = f"hf.co/{repository}:{tag}"
    lines = await client.pull(name)
    assert lines[-1] == {"status": "success"}, lines[-1]
    return name


async def post(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, content = await client.post(path, {"stream": False, "options": OPTIONS, "keep_alive": 0, **body})
    answer: dict[str, Any] = orjson.loads(content)
    assert status == 200, answer
    return answer


async def chat(client: Client, name: str, **message: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello", **message}]
    answer = await post(client, "/api/chat", {"model": name, "messages": messages})
    assert "message" in answer
    return answer


async def answer_of(client: Client, name: str) -> Answer:
    """To the first prompt at which the model does not stop at once."""
    for prompt in PROMPTS:
        body = {"model": name, "prompt": prompt, "raw": True, "logprobs": True, "top_logprobs": 5}
        answer = await post(client, "/api/generate", body)
        if likely := answer.get("logprobs"):
            return Answer(prompt, answer["prompt_eval_count"], likely)
    raise AssertionError(f"{name} has nothing to say")


async def made_of(client: Client, name: str) -> Path:
    """The GGUF that Ollama made."""
    modelfile = (await post(client, "/api/show", {"model": name}))["modelfile"]
    return Path(next(line for line in modelfile.splitlines() if line.startswith("FROM ")).removeprefix("FROM "))


@pytest.mark.parametrize("quantization", ["q4_K_M", "f16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_family_is_pulled_and_chats(
    real_client: Client, hub: StandInHub, family: str, quantization: str
) -> None:
    name = await pull(real_client, hub, f"acme/{family}", FAMILIES[family](), quantization)
    await chat(real_client, name)


def without(files: Files, *paths: str) -> Files:
    return {path: content for path, content in files.items() if path not in paths}


LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | {
    "original_max_position_embeddings": 512
}
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"


def _no_model_prefix(tensors: dict[str, Stored]) -> dict[str, Stored]:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def _with_inv_freq(tensors: dict[str, Stored]) -> dict[str, Stored]:
    return tensors | {INV_FREQ: Stored("F32", [32], bytes(4 * 32))}


def _hole(tokenizer: dict[str, Any]) -> None:
    """Free a number in the middle, as a token that was taken out does."""
    vocabulary = tokenizer["model"]["vocab"]
    text = next(text for text, number in vocabulary.items() if number == 400)
    del vocabulary[text]
    tokenizer["model"]["merges"] = [merge for merge in tokenizer["model"]["merges"] if "".join(merge) != text]


def _token_without_a_row(tokenizer: dict[str, Any]) -> None:
    last = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"].append(last | {"id": last["id"] + 1, "content": "[PAD]"})


Pair = Callable[[], tuple[Files, Files]]


def of(files: Files, change: Callable[[Files], Files]) -> tuple[Files, Files]:
    return files, change(files)


def llama_in_transformers_5() -> tuple[Files, Files]:
    clean = configured(tiny_llama(), rope_scaling=LLAMA3_ROPE)
    theta = {"rope_theta": 500000.0}
    return clean, configured(clean, rope_scaling=..., rope_theta=..., rope_parameters=LLAMA3_ROPE | theta)


def gemma3_in_transformers_5() -> tuple[Files, Files]:
    parameters = {
        kind: {"rope_type": "default", "rope_theta": theta}
        for kind, theta in (("full_attention", 500000.0), ("sliding_attention", 5000.0))
    }
    nothing = {"rope_theta": ..., "rope_local_base_freq": ..., "rope_parameters": parameters}
    return of(tiny_gemma(3), lambda files: configured(files, **nothing))


def phi3_4k() -> tuple[Files, Files]:
    damaged = tiny_phi3(long=False)
    # Only with these lengths alike does this type change nothing either.
    ones = {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0] * 16}
    return configured(damaged, rope_scaling=ones, original_max_position_embeddings=2048), damaged


def two_families_of_weights() -> tuple[Files, Files]:
    other = {"layers.0.attention.wq.weight": Stored("BF16", [256, 256], bytes(2 * 256 * 256))}
    return of(tiny_llama(), lambda files: files | {"consolidated.safetensors": stored(other)})


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
TURNS = {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}
PAIRS: dict[str, Pair] = {
    "rope_parameters": llama_in_transformers_5,
    "rope_parameters for each kind of layer": gemma3_in_transformers_5,
    "yarn in Qwen2": lambda: of(tiny_qwen2(), lambda files: configured(files, rope_scaling=YARN)),
    "no rope_theta in Qwen2": lambda: of(
        configured(tiny_qwen2(), rope_theta=10000.0), lambda files: configured(files, rope_theta=...)
    ),
    "Phi-3 without rope factors": phi3_4k,
    "caps left out": lambda: of(
        tiny_gemma(2), lambda files: configured(files, attn_logit_softcapping=..., final_logit_softcapping=...)
    ),
    "no sliding window": lambda: of(
        configured(tiny_gemma(2), sliding_window=4096), lambda files: configured(files, sliding_window=None)
    ),
    "no num_key_value_heads": lambda: of(tiny_llama(), lambda files: configured(files, num_key_value_heads=...)),
    "no num_key_value_heads, one matrix": lambda: of(
        tiny_phi3(), lambda files: configured(files, num_key_value_heads=...)
    ),
    "no head_dim": lambda: of(tiny_gemma(2), lambda files: configured(files, head_dim=...)),
    "whole numbers with a point": lambda: of(
        tiny_llama(), lambda files: configured(files, max_position_embeddings=2048.0)
    ),
    "special tokens as texts": lambda: of(
        tiny_gemma(2), lambda files: changed_json(files, "special_tokens_map.json", lambda names: names.update(TURNS))
    ),
    "no tokenizer.model": lambda: of(tiny_gemma(), lambda files: without(files, "tokenizer.model")),
    "no tokenizer.model, tokens beyond": lambda: of(
        tiny_phi3(), lambda files: without(files, "tokenizer.model", "added_tokens.json")
    ),
    "no added_tokens.json": lambda: of(tiny_phi3(), lambda files: without(files, "added_tokens.json")),
    "no tokenizer.json": lambda: of(tiny_gemma(2), lambda files: without(files, "tokenizer.json")),
    "a token without a row": lambda: of(
        tiny_llama(), lambda files: changed_json(files, "tokenizer.json", _token_without_a_row)
    ),
    "a token without a row in added_tokens.json": lambda: of(
        tiny_gemma(), lambda files: files | {"added_tokens.json": b'{"[PAD]": 9999}'}
    ),
    "tensors of frequencies": lambda: of(tiny_llama(), lambda files: restored(files, _with_inv_freq)),
    "tensors without a prefix": lambda: of(tiny_llama(), lambda files: restored(files, _no_model_prefix)),
    "two families of weights": two_families_of_weights,
    "FP8, a scale for each matrix": lambda: fp8_pair(tiny_llama(), (1, 1)),
    "FP8, a scale for each row": lambda: fp8_pair(tiny_llama(), (0, 1)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_a_repaired_repository_answers_as_the_sound_one(real_client: Client, hub: StandInHub, pair: Pair) -> None:
    sound, damaged = pair()
    names = [await pull(real_client, hub, *model) for model in (("acme/sound", sound), ("acme/damaged", damaged))]
    answers = [await answer_of(real_client, name) for name in names]
    assert answers[0] == answers[1]
    await chat(real_client, names[1])


@pytest.mark.parametrize("scales", [(1, 1), (0, 1)], ids=["matrix", "row"])
async def test_fp8_is_quantized_further(real_client: Client, hub: StandInHub, scales: tuple[int, int]) -> None:
    """The scales have rows of 1, which llama-quantize would not take, but Ollama uses them up before."""
    name = await pull(real_client, hub, "acme/fp8", fp8_pair(tiny_llama(), scales)[1], "q4_K_M")
    await chat(real_client, name)


async def test_a_filled_hole_leaves_the_other_tokens_their_numbers(real_client: Client, hub: StandInHub) -> None:
    """The text of the freed number is no part of the prompt."""
    sound = tiny_llama()
    damaged = changed_json(sound, "tokenizer.json", _hole)
    answers = [
        await answer_of(real_client, await pull(real_client, hub, f"acme/{name}", files))
        for name, files in (("sound", sound), ("damaged", damaged))
    ]
    assert answers[0] == answers[1]


async def test_the_experts_of_mixtral_are_where_they_belong(real_client: Client, hub: StandInHub) -> None:
    """Ollama's converter itself takes w2 for w3."""
    files = tiny_mixtral()
    name = await pull(real_client, hub, "acme/mixtral", files, "f16")
    made = {tensor.name: tensor for tensor in GGUFReader(await made_of(real_client, name)).tensors}
    source = stored_tensors(files["model.safetensors"])
    for number, part in ((1, "gate"), (2, "down"), (3, "up")):
        experts = [f"model.layers.1.block_sparse_moe.experts.{expert}.w{number}.weight" for expert in range(4)]
        content = np.ascontiguousarray(made[f"blk.1.ffn_{part}_exps.weight"].data).tobytes()
        assert content == b"".join(source[expert].data for expert in experts)


def _turned(tensors: dict[str, Stored]) -> dict[str, Stored]:
    name = "model.layers.0.mlp.down_proj.weight"
    tensor = tensors[name]
    return tensors | {name: tensor._replace(shape=tensor.shape[::-1])}


def _packed(tensors: dict[str, Stored]) -> dict[str, Stored]:
    name = "model.layers.0.mlp.down_proj.weight"
    return tensors | {name: Stored("U8", [256, 256], bytes(256 * 256))}


def _incomplete(tensors: dict[str, Stored]) -> dict[str, Stored]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("layers.1.mlp.down_proj.weight")}


def _word_piece(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"] = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": tokenizer["model"]["vocab"]}


REFUSED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another architecture": (
        lambda files: configured(files, architectures=["ApertusForCausalLM"]),
        "neither this proxy nor any Ollama converts ApertusForCausalLM",
    ),
    "no heads, at which a server ends": (
        lambda files: configured(files, num_attention_heads=...),
        "has no usable num_attention_heads",
    ),
    "a rope that ends a server": (
        lambda _: configured(tiny_phi3(), rope_scaling={"type": "linear", "factor": 4.0}),
        "rope_scaling (linear) of which Ollama's Phi-3 makes no working model",
    ),
    "a Git-LFS pointer": (
        lambda files: files | {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"},
        "is a Git-LFS pointer",
    ),
    "half of a file": (
        lambda files: files | {"model.safetensors": files["model.safetensors"][:500_000]},
        "its upload is incomplete or damaged",
    ),
    "a missing tensor": (
        lambda files: restored(files, lambda tensors: dict(list(tensors.items())[2:])),
        "has no tensor model.embed_tokens.weight",
    ),
    "a tensor too many": (
        lambda files: restored(files, lambda tensors: tensors | {"vision.x": Stored("F32", [4], bytes(16))}),
        "has the tensor vision.x",
    ),
    "a turned matrix": (lambda files: restored(files, _turned), "model.layers.0.mlp.down_proj.weight has the shape"),
    "another layer width": (lambda files: configured(files, intermediate_size=500), "has the shape"),
    "packed weights": (lambda files: restored(files, _packed), "is of the type U8"),
    "a model that sees without a layer's matrix": (
        lambda _: restored(tiny_gemma3_vision(rows=0), _incomplete),
        "has no tensor language_model.model.layers.1.mlp.down_proj.weight",
    ),
    "a shard too few": (
        lambda _: without(tiny_llama(shards=3), "model.safetensors.index.json", "model-00002-of-00003.safetensors"),
        "has 2 shards, and model-00001-of-00003.safetensors is one of 3",
    ),
    "a tokenizer of word pieces": (
        lambda files: changed_json(files, "tokenizer.json", _word_piece),
        "is of WordPiece",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_work_is_refused_before_its_weights_are_fetched(
    real_client: Client, hub: StandInHub, damage: Callable[[Files], Files], reason: str
) -> None:
    hub.add("acme/refused", damage(tiny_llama()))
    lines = await real_client.pull("hf.co/acme/refused:f16")
    assert reason in lines[-1]["error"]
    assert not fetched(hub, ".safetensors")
    assert (await real_client.get("/api/version"))[0] == 200


def rows_for(capabilities: Capabilities, rows: int) -> int:
    """v0.24 alone writes tokens of the real vocabulary around an image."""
    return 0 if capabilities.runs_llama_server else rows


def newer_names(files: Files, *names: tuple[str, str]) -> Files:
    """Tensors as transformers writes them since 4.52."""

    def rename(tensors: dict[str, Stored]) -> dict[str, Stored]:
        made = {}
        for name, tensor in tensors.items():
            new = next((now + name.removeprefix(then) for then, now in names if name.startswith(then)), name)
            made[new] = tensor
        return made

    return restored(files, rename)


def nested_qwen(files: Files) -> Files:
    config = json.loads(files["config.json"])
    outside = ("architectures", "model_type", "vision_config", "image_token_id", "tie_word_embeddings")
    nested = {key: value for key, value in config.items() if key in outside}
    nested["text_config"] = {key: value for key, value in config.items() if key not in outside}
    return files | {"config.json": json.dumps(nested).encode()}


LANGUAGE = ("language_model.model.", "model.language_model.")
EYES = [(f"{name}.", f"model.{name}.") for name in ("vision_tower", "multi_modal_projector")]
VISION: dict[str, tuple[Callable[[int], Files], Callable[[Files], Files] | None]] = {
    "gemma3": (lambda rows: tiny_gemma3_vision(rows=rows), lambda files: newer_names(files, LANGUAGE, *EYES)),
    "mistral3": (
        lambda _: tiny_mistral3_vision(),
        lambda files: newer_names(files, LANGUAGE, ("language_model.lm_head.", "lm_head."), *EYES),
    ),
    "qwen2.5vl": (
        lambda rows: tiny_qwen2_5_vl(rows=rows),
        lambda files: nested_qwen(newer_names(files, ("model.", LANGUAGE[1]), ("visual.", "model.visual."))),
    ),
    "qwen3vl": (lambda rows: tiny_qwen3_vl(rows=rows), None),
}
VISION_ROWS = {"gemma3": 256_001, "mistral3": 0, "qwen2.5vl": 151_656, "qwen3vl": 151_656}


@pytest.mark.parametrize("family", VISION)
async def test_a_model_that_sees_answers_to_a_picture(
    real_client: Client, hub: StandInHub, capabilities: Capabilities, family: str
) -> None:
    make, newer = VISION[family]
    files = make(rows_for(capabilities, VISION_ROWS[family]))
    name = await pull(real_client, hub, f"acme/{family}", files)
    picture = base64.b64encode(png()).decode()
    seen = await chat(real_client, name, images=[picture])
    blind = await chat(real_client, name)
    assert seen["prompt_eval_count"] > blind["prompt_eval_count"]
    if newer is None:
        return
    repaired = await pull(real_client, hub, f"acme/newer-{family}", newer(files))
    again = await chat(real_client, repaired, images=[picture])
    assert (again["message"], again["prompt_eval_count"]) == (seen["message"], seen["prompt_eval_count"])


async def embedded(client: Client, name: str) -> Any:
    answer = await post(client, "/api/embed", {"model": name, "input": ["the cat sits", "rain: a dog runs!"]})
    return np.array(answer["embeddings"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
async def test_newer_sentence_transformers_pool_as_before(real_client: Client, hub: StandInHub, pooling: Any) -> None:
    files = tiny_bert(pooling=pooling)
    vectors = [
        await embedded(real_client, await pull(real_client, hub, repository, model, "f32"))
        # Names of their own: the Hub's dates are of whole seconds, and an older model may count as made.
        for repository, model in (
            (f"acme/before-{pooling}", files),
            (f"acme/newer-{pooling}", newer_sentence_transformer(files)),
        )
    ]
    assert (vectors[0] == vectors[1]).all()


async def test_a_bert_whose_tokens_have_other_numbers_embeds_the_same(real_client: Client, hub: StandInHub) -> None:
    """v0.33 takes 101 for [CLS] unless it is told."""
    late, early = tiny_bert(pooling="cls"), tiny_bert(pooling="cls", early_specials=True)
    unused = [
        number for text, number in json.loads(late["tokenizer.json"])["model"]["vocab"].items() if "unused" in text
    ]
    name = "embeddings.word_embeddings.weight"

    def renumbered(tensors: dict[str, Stored]) -> dict[str, Stored]:
        rows, width = tensors[name].shape
        table = np.frombuffer(tensors[name].data, "<f2").reshape(rows, width)
        kept = np.delete(table, unused, axis=0)
        return tensors | {name: Stored("F16", kept.shape, kept.tobytes())}

    early |= {"model.safetensors": restored(late, renumbered)["model.safetensors"]}
    vectors = [
        await embedded(real_client, await pull(real_client, hub, repository, model, "f32"))
        for repository, model in (("acme/late", late), ("acme/early", early))
    ]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-5


async def test_the_server_outlived_all_of_this(real_ollama: RealOllama) -> None:
    assert real_ollama.servers[-1].poll() is None
