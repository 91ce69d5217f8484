"""`python -m proxy` is the `ollama-hf-proxy` command."""

from proxy.cli import main

main()
