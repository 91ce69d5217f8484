"""Everything that is known about Ollama: its API, the registry that it pulls finished models from, its disk."""
