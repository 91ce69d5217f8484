"""Moves bytes: ranges from a source, through a recipe, into a blob of Ollama, with progress, retries and limits."""
