"""What outlives the process: the journal of pulls and models, and the removal of what no model needs.

- `journal`: one SQLite file for each Ollama, in `server.state`. `TABLES` is its schema, `MIGRATIONS` upgrades older
  files. Its docstring explains leases, which protect blobs while a pull needs them.
- `reclaim`: removes blobs and temporary models that no lease protects. A pull calls `collect` after its model is made;
  `watch` and `ollama-hf-proxy reclaim` call `sweep`.

The order in a pull: `Reclaim.acquire` before the first byte, `add` for each digest that becomes known on the way,
`adopt` and `complete` when the model is made, `release` when the pull has ended. An interrupted pull calls
`expire_later` instead, so that the next pull finds its blobs.

Test with `pytest tests/store`.
"""
