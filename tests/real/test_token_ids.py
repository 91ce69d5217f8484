"""A real Ollama tokenizes texts like the `tokenizers` package. Its tokens are in the field `context`."""

from typing import NamedTuple

import orjson
import pytest

from proxy.gguf.pretokenizers import PRE_TOKENIZER_NAMES
from proxy.standins.hub import StandInHub
from tests.gguf.pre_tokenizer_cases import (
    DEVIATIONS,
    ENGINE_DEVIATIONS,
    NFC_DEVIATIONS,
    SEPARATOR,
    TEXTS,
    covering_bpe,
    covering_pieces,
    load_tokenizer,
    silent_repository,
    split_at,
)
from tests.gguf.tiny_repositories.tokenizer import Tokenizer
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client

pytestmark = pytest.mark.timeout(300)

BY_NAME = {name: cut for cut, name in PRE_TOKENIZER_NAMES.items()}
"""One split pattern for each name. Other patterns with this name are the same: llama.cpp uses only the name."""
SINCE = {"exaone-moe": (0, 30), "jais-2": (0, 30), "laguna": (0, 32, 3), "qwen35": (0, 30), "tiny_aya": (0, 30)}
CHAT = ("[INST] hi [/INST] yo <think> x</s>", "[INST]\u00a0  two", "<s>[INST]")
CONTEXT = 2048


class Difference(NamedTuple):
    """A text's tokens, from both tokenizers."""

    transformers: list[int]
    ollama: list[int]


async def pulled(client: Client, hub: StandInHub, family: str, tokenizer: Tokenizer, model: str) -> str | None:
    """Pulls a model; returns the error, if any. Each needs its own name: Ollama keeps a loaded model for a while."""
    hub.add(f"acme/{model}", silent_repository(family, tokenizer))
    lines = await client.pull(f"hf.co/acme/{model}:f16")
    error = lines[-1].get("error")
    return None if error is None else str(error)


async def differences(
    client: Client, model: str, tokenizer: Tokenizer, texts: tuple[str, ...], *, begins: bool = False
) -> dict[str, Difference]:
    """The differences by text. One prompt has all texts, with a special token between them that separates them."""
    body = {
        "model": f"hf.co/acme/{model}:f16",
        "prompt": SEPARATOR.join(texts),
        "stream": False,
        "keep_alive": 0,
        "options": {"num_predict": 1, "num_ctx": CONTEXT, "temperature": 0},
    }
    status, content = await client.post("/api/generate", body)
    assert status == 200, content
    answer = orjson.loads(content)
    assert answer["response"] == ""  # `context` has the tokens of the answer too
    assert len(answer["context"]) + begins == answer["prompt_eval_count"] < CONTEXT
    theirs = load_tokenizer(tokenizer)
    separator = theirs.token_to_id(SEPARATOR)
    assert separator is not None
    expected = split_at(theirs.encode(body["prompt"], add_special_tokens=False).ids, separator)
    return {
        text: Difference(hugging_face, ollama)
        for text, hugging_face, ollama in zip(texts, expected, split_at(answer["context"], separator), strict=True)
        if hugging_face != ollama
    }


@pytest.mark.parametrize("name", sorted(BY_NAME))
async def test_texts_are_split_like_the_pre_tokenizer_does(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, name: str
) -> None:
    tokenizer = covering_bpe(BY_NAME[name], name)
    error = await pulled(real_client, hub, "mistral", tokenizer, name)
    if real_ollama.version < SINCE.get(name, (0, 0)):
        assert f"does not split texts as this tokenizer does ({name})" in str(error)
        return
    assert error is None
    different = await differences(real_client, name, tokenizer, TEXTS)
    assert different.keys() == DEVIATIONS.get(name, {}).keys(), different


@pytest.mark.parametrize("family", ["qwen3", "qwen3moe"])
async def test_qwen3_is_split_like_qwens_tokenizer_does(
    real_ollama: RealOllama, real_client: Client, hub: StandInHub, family: str
) -> None:
    """Before 0.30, Ollama's own engine ran these families."""
    tokenizer = covering_bpe(BY_NAME["qwen2"], "qwen2", composes=True)
    assert await pulled(real_client, hub, family, tokenizer, family) is None
    different = await differences(real_client, family, tokenizer, TEXTS)
    of_the_engine = ENGINE_DEVIATIONS.keys() if real_ollama.version < (0, 30) else set()
    assert different.keys() == NFC_DEVIATIONS.keys() | of_the_engine, different


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
async def test_texts_become_the_pieces_of_sentencepiece(real_client: Client, hub: StandInHub, name: str) -> None:
    tokenizer = covering_pieces(model=name == "tokenizer.model")
    assert await pulled(real_client, hub, "mistral", tokenizer, name) is None
    assert not await differences(real_client, name, tokenizer, (*TEXTS, *CHAT), begins=True)
