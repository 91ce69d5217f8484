"""The commands of `ollama-hf-proxy` that are more than a few lines: one module for each of `doctor`, `reclaim`, `demo`.

`proxy.cli` parses the command line and imports them when they are needed. `serve` is in `proxy.app`, `inspect` in
`proxy.inspection`.
"""
