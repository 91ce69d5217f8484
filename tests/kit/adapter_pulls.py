"""Helpers for tests of pulls of LoRA adapters."""

from proxy.standins.model_store import StoredLayer
from proxy.standins.ollama import StandInOllama

ADAPTER = "hf.co/acme/adapter:q4_K_M"
BASE = "hf.co/acme/tiny:q4_K_M"
WEIGHTS = "adapter_model.safetensors"


def layer_of(ollama: StandInOllama, name: str, kind: str) -> StoredLayer:
    [layer] = [layer for layer in ollama.models[name].layers if layer.kind == kind]
    return layer
