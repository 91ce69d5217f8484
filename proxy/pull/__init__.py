"""Pulls of repositories that Ollama itself cannot pull (door 2), from the client's request to the finished model.

One pull, step by step:

1. `handler` reads `POST /api/pull`. A name of a source becomes a job; every other request goes to Ollama.
2. `jobs` runs each pull as a task of its own. Clients attach to it and read its progress.
3. `pipeline` is one pull, one line for each step; `states` are the states that it enters.
4. `reference` parses the name. `planner` opens the repository at a commit, reads small files and headers (`reading`),
   and decides what to make (`proxy.planning`). It refuses here what cannot work.
5. `freshness` checks whether Ollama already has the result, or at least its weights.
6. `queue` limits how many pulls move bytes at once.
7. `execute` acquires a lease (`proxy.store`), checks a template that others wrote (`template_check`), transfers the
   blobs (`proxy.transfer`), and creates the model.
8. `install` has Ollama pull a manifest of the finished blobs, verifies the model, and gives it its name. If Ollama
   cannot reach the proxy, `create` calls `/api/create` instead.
9. `execute` removes the blobs that nobody needs any more, and records the model in the journal.

Three ways end a running pull early: `DELETE /api/delete` of its model (`handler.DeleteHandler`, which notes the
deletion in `Reclaim.deletions`; the next pull of that name waits for it), `DELETE /-/pulls/ID` (`proxy.admin.handler`),
and the departure of its last client, after `pull.linger` (`jobs`). All of them call `Job.cancel`.

Test with `pytest tests/pull`.
"""
