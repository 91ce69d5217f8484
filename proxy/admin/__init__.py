"""The paths under `/-/`, which Ollama does not use: health, pulls, models, events, metrics."""
