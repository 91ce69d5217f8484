"""Door 2: a pull of a repository that Ollama itself cannot take."""
