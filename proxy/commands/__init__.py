"""The commands of `ollama-hf-proxy` beside `serve` and `inspect`: `doctor`, `reclaim`, `demo`."""
