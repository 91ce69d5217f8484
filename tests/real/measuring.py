"""Tiny repositories on a real Ollama, and what a run on it measured, which docs/families.md is made of."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.planning.capabilities import LLAMA_SERVER
from proxy.standins.hub import StandInHub
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.kit.real_ollama import RealOllama
from tests.kit.support import Client
from tests.kit.tiny_models import tiny_bert, tiny_xlm_roberta

MEASURED = Path(__file__).with_name("measured.json")
VARIABLE = "MEASURED"
"""The environment variable that names the file to which a run adds what it measures."""
FILES: Mapping[str, Callable[[], Mapping[str, bytes]]] = {
    **{name: tiny.files for name, tiny in REPOSITORIES.items()},
    "bert": tiny_bert,
    "xlm_roberta": tiny_xlm_roberta,
}
"""A repository of each family."""
NOT_RUN = ("update it to", "does not run", "makes no embeddings with")

Record = Callable[[str, str, float | str], None]
"""Keeps a value of a kind for the repository of a name: `delta`, `cosine`, `quantization` or `refusal`."""


def recorder(ollama: RealOllama) -> Record:
    """Writes under the version of this Ollama, where the environment names a file."""
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
    """Whether a repository's weights are quantized already, and stay as they are."""
    return b'"quantization_config"' in files["config.json"]


async def install(
    ollama: RealOllama, client: Client, hub: StandInHub, record: Record, name: str, quantization: str
) -> str:
    """Pulls a repository by its name in FILES; gives the model's name.

    The test is skipped where this Ollama is too old for the family, and the refusal's text is the reason.
    """
    # llama.cpp does other things with models that have phi3 in their names.
    repository = f"each-{name.replace('phi3', 'phi-mini').replace(' ', '-')}"
    hub.add(f"acme/{repository}", FILES[name]())
    model = f"hf.co/acme/{repository}:{quantization}"
    last = (await client.pull(model))[-1]
    refusal = last.get("error", "")
    if ollama.version < LLAMA_SERVER[:2] and any(text in refusal for text in NOT_RUN):
        record("refusal", name, refusal)
        pytest.skip(refusal)
    assert last == {"status": "success"}, last
    return model
