"""Small real servers that stand in for the Hub and for Ollama, for tests and for `demo`.

`hub.py` (`StandInHub`) and `ollama.py` (`StandInOllama`) are the entries. Each listens on 127.0.0.1 through
`listener.py`, logs its requests, and has attributes with which a test changes its behaviour. `delivery.py` sends the
Hub's bytes, with faults; `creation.py` is Ollama's `/api/create`. `repository.py` makes `tiny_llama`, a model to serve.
Nothing here imports the product. If a stand-in disagrees with a real server, the real server is right.
"""
