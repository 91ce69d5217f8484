"""Several forms of one repository on a real Ollama: all of them give the same answers."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest

from proxy.standins.hub import StandInHub
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.kit.tiny_families import (
    Files,
    StoredTensor,
    pack_safetensors,
    tiny_gemma,
    tiny_phi3,
    tiny_qwen2,
    with_config,
    with_json,
    with_tensors,
)
from tests.kit.tiny_models import newer_sentence_transformer, tiny_bert

pytestmark = pytest.mark.timeout(300)

OPTIONS = {"num_predict": 4, "num_ctx": 512, "temperature": 0, "seed": 1}
PROMPTS = ("<|user|>\nhello there<|end|>\n<|assistant|>\n", "the cat sits, on 12", "a dog runs", "zz def")


class Answer(NamedTuple):
    """Identifies a model: the number of a prompt's tokens, and the probabilities of the tokens after it."""

    prompt: str
    prompt_tokens: int
    likely: Any


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
    """The answer to the first prompt at which the model does not stop at once."""
    for prompt in PROMPTS:
        body = {"model": name, "prompt": prompt, "raw": True, "logprobs": True, "top_logprobs": 5}
        answer = await post(client, "/api/generate", body)
        if likely := answer.get("logprobs"):
            return Answer(prompt, answer["prompt_eval_count"], likely)
    raise AssertionError(f"{name} answers none of the prompts")


def without(files: Files, *paths: str) -> Files:
    return {path: content for path, content in files.items() if path not in paths}


LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | {
    "original_max_position_embeddings": 512
}
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"


def _no_model_prefix(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def _with_inv_freq(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    return tensors | {INV_FREQ: StoredTensor("F32", [32], bytes(4 * 32))}


def _token_without_a_row(tokenizer: dict[str, Any]) -> None:
    last = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"].append(last | {"id": last["id"] + 1, "content": "[PAD]"})


Pair = Callable[[], tuple[Files, Files]]


def of(files: Files, change: Callable[[Files], Files]) -> tuple[Files, Files]:
    return files, change(files)


def llama_in_transformers_5() -> tuple[Files, Files]:
    clean = with_config(tiny_llama(), rope_scaling=LLAMA3_ROPE)
    theta = {"rope_theta": 500000.0}
    return clean, with_config(clean, rope_scaling=..., rope_theta=..., rope_parameters=LLAMA3_ROPE | theta)


def phi3_4k() -> tuple[Files, Files]:
    damaged = tiny_phi3(long=False)
    # If both lengths are equal, this type changes nothing either.
    ones = {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0] * 16}
    return with_config(damaged, rope_scaling=ones, original_max_position_embeddings=2048), damaged


def two_families_of_weights() -> tuple[Files, Files]:
    other = {"layers.0.attention.wq.weight": StoredTensor("BF16", [256, 256], bytes(2 * 256 * 256))}
    return of(tiny_llama(), lambda files: files | {"consolidated.safetensors": pack_safetensors(other)})


TURNS = {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}
PAIRS: dict[str, Pair] = {
    "rope_parameters": llama_in_transformers_5,
    "no rope_theta in Qwen2": lambda: of(
        with_config(tiny_qwen2(), rope_theta=10000.0), lambda files: with_config(files, rope_theta=...)
    ),
    "Phi-3 without rope factors": phi3_4k,
    "caps left out": lambda: of(
        tiny_gemma(2), lambda files: with_config(files, attn_logit_softcapping=..., final_logit_softcapping=...)
    ),
    "special tokens as texts": lambda: of(
        tiny_gemma(2), lambda files: with_json(files, "special_tokens_map.json", lambda names: names.update(TURNS))
    ),
    "no tokenizer.model, tokens beyond": lambda: of(
        tiny_phi3(), lambda files: without(files, "tokenizer.model", "added_tokens.json")
    ),
    "no added_tokens.json": lambda: of(tiny_phi3(), lambda files: without(files, "added_tokens.json")),
    "no tokenizer.json": lambda: of(tiny_gemma(2), lambda files: without(files, "tokenizer.json")),
    "a token without a row": lambda: of(
        tiny_llama(), lambda files: with_json(files, "tokenizer.json", _token_without_a_row)
    ),
    "a token without a row in added_tokens.json": lambda: of(
        tiny_gemma(), lambda files: files | {"added_tokens.json": b'{"[PAD]": 9999}'}
    ),
    "tensors of frequencies": lambda: of(tiny_llama(), lambda files: with_tensors(files, _with_inv_freq)),
    "tensors without a prefix": lambda: of(tiny_llama(), lambda files: with_tensors(files, _no_model_prefix)),
    "two families of weights": two_families_of_weights,
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_another_form_of_a_repository_answers_the_same(real_client: Client, hub: StandInHub, pair: Pair) -> None:
    sound, damaged = pair()
    names = [await pull(real_client, hub, *model) for model in (("acme/sound", sound), ("acme/damaged", damaged))]
    answers = [await answer_of(real_client, name) for name in names]
    assert answers[0] == answers[1]
    await chat(real_client, names[1])


async def embedded(client: Client, name: str) -> Any:
    answer = await post(client, "/api/embed", {"model": name, "input": ["the cat sits", "rain: a dog runs!"]})
    return np.array(answer["embeddings"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
async def test_newer_sentence_transformers_pool_as_before(real_client: Client, hub: StandInHub, pooling: Any) -> None:
    files = tiny_bert(pooling=pooling)
    vectors = [
        await embedded(real_client, await pull(real_client, hub, repository, model, "f32"))
        # Each has its own name: the Hub's dates are in whole seconds, so the older model could count as up to date.
        for repository, model in (
            (f"acme/before-{pooling}", files),
            (f"acme/newer-{pooling}", newer_sentence_transformer(files)),
        )
    ]
    assert (vectors[0] == vectors[1]).all()


async def test_a_bert_with_other_token_ids_embeds_the_same(real_client: Client, hub: StandInHub) -> None:
    """v0.33 uses 101 as [CLS] if the GGUF does not have its id."""
    late, early = tiny_bert(pooling="cls"), tiny_bert(pooling="cls", early_specials=True)
    unused = [
        number for text, number in json.loads(late["tokenizer.json"])["model"]["vocab"].items() if "unused" in text
    ]
    name = "embeddings.word_embeddings.weight"

    def renumbered(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        rows, width = tensors[name].shape
        table = np.frombuffer(tensors[name].data, "<f2").reshape(rows, width)
        kept = np.delete(table, unused, axis=0)
        return tensors | {name: StoredTensor("F16", kept.shape, kept.tobytes())}

    early |= {"model.safetensors": with_tensors(late, renumbered)["model.safetensors"]}
    vectors = [
        await embedded(real_client, await pull(real_client, hub, repository, model, "f32"))
        for repository, model in (("acme/late", late), ("acme/early", early))
    ]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-5


async def test_the_server_has_not_crashed(real_ollama: RealOllama) -> None:
    assert real_ollama.servers[-1].poll() is None
