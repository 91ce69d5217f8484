"""Installs tiny repositories in a real Ollama, and records what a run measures. docs/families.md is made from that."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.planning.capabilities import LLAMA_SERVER
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.sighted import SIGHTED
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.kit.tiny_models import tiny_bert, tiny_xlm_roberta

MEASURED = Path(__file__).with_name("measured.json")
VARIABLE = "MEASURED"
"""Environment variable with the file to which a run adds its measurements."""
FILES: Mapping[str, Callable[[], Mapping[str, bytes]]] = {
    **{name: tiny.files for name, tiny in REPOSITORIES.items()},
    "bert": tiny_bert,
    "xlm_roberta": tiny_xlm_roberta,
}
"""A repository of each family."""
ALL_FILES = {**FILES, **{name: tiny.files for name, tiny in SIGHTED.items()}}
NOT_RUN = ("update it to", "does not run", "makes no embeddings with", "could not see", "could not hear")

Record = Callable[[str, str, float | str], None]
"""Records a value. The arguments are `delta`, `cosine`, `quantization` or `refusal`; the repository; the value."""


def recorder(ollama: RealOllama) -> Record:
    """Records under the version of this Ollama, if the environment variable names a file."""
    file = os.environ.get(VARIABLE)

    def record(kind: str, name: str, value: float | str) -> None:
        if file is None:
            return
        path = Path(file)
        measured = json.loads(path.read_bytes()) if path.exists() else {}
        measured.setdefault(ollama.version_text, {}).setdefault(kind, {})[name] = value
        path.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")

    return record


def is_kept(files: Mapping[str, bytes]) -> bool:
    """Whether a repository's weights are already quantized. The proxy keeps such weights as they are."""
    return b'"quantization_config"' in files["config.json"]


async def install(
    ollama: RealOllama, client: Client, hub: StandInHub, record: Record, name: str, quantization: str
) -> str:
    """Pulls a repository by its name in ALL_FILES and returns the model's name.

    Skips the test if this Ollama is too old for the family. The reason is the refusal's text.
    """
    # llama.cpp treats models with phi3 in their names in a special way.
    repository = f"each-{name.replace('phi3', 'phi-mini').replace(' ', '-')}"
    hub.add(f"acme/{repository}", ALL_FILES[name]())
    model = f"hf.co/acme/{repository}:{quantization}"
    last = (await client.pull(model))[-1]
    refusal = last.get("error", "")
    if ollama.version < LLAMA_SERVER[:2] and any(text in refusal for text in NOT_RUN):
        record("refusal", name, refusal)
        pytest.skip(refusal)
    assert last == {"status": "success"}, last
    return model
