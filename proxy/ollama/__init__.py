"""Everything that the proxy knows about Ollama: its API, the registry protocol that it pulls with, and its disk.

`client.Ollama` is the client that the other packages use. Its calls are grouped by subject: `blobs` (uploads), `models`
(list, create, pull, copy, delete) and `client` itself (version, CORS, streams). `api` sends the requests and is the one
place where a network error becomes OllamaGone.

`registry` works in the other direction: Ollama pulls a finished model's manifest from the proxy. `disk` finds the free
space where Ollama keeps its models. What each version of Ollama can run is in `proxy.planning.capabilities`.
"""
