"""Worker processes: they run Python code that would block the server or that must not take unlimited memory and time.

`processes` is the parent's side, `limits` the worker's side, `recent` a cache for results. A worker module such as
`proxy.chat.template_worker` calls `limits.answer_once` in its `main`; its caller uses `processes.ask_worker`.
"""
