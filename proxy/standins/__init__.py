"""Small real servers that stand in for the Hub and for Ollama, and a small repository to serve."""
