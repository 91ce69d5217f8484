"""GGUF files as values: their headers, the parts that large ones are split into, and what safetensors become. Pure."""
