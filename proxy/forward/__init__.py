"""Door 1: every request that the proxy does not answer itself goes to Ollama, and its answer comes back, unchanged."""
