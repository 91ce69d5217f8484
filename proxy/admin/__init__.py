"""The paths under `/-/`, which Ollama does not use.

- `handler`: finds the answer for a path: health, pulls, inspect, models, reclaim, metrics, and the page itself.
- `events`: all pulls as Server-Sent Events, for an open page.
- `models`: the pulled models, and whether their repositories have newer commits.

The page is `proxy/server/page.html`. Test with `pytest tests/admin`; `tests/browser` tests the page in a Chromium.
"""
