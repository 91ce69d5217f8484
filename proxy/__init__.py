"""A reverse proxy in front of Ollama that pulls Hugging Face safetensors repositories."""

__version__ = "0.1.0"
