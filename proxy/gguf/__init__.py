"""GGUF files as values: their headers, and the parts that a large one is split into. Pure."""
