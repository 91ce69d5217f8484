"""Jinja chat templates, as models bring them, to what Ollama needs: a Go template, stops, capabilities, parameters.

By itself:

    from proxy.chat.facts import TokenizerFacts
    from proxy.chat.probe import probe

    chat = await probe(jinja, TokenizerFacts(bos="<s>", eos=("</s>",)))
    chat.template, chat.stops, chat.capabilities, chat.exact, chat.shapes, chat.warnings

A template is never read, only probed: it renders conversations made of sentinels (`conversations`, `sandbox`), the
outputs are cut at the sentinels (`cutting`), what lies between them is learned as choices (`choices`, `learning`) and
put together as a small program (`program`, `synthesis`) that is written as Go (`go`) and, run by ourselves, compared
with the Jinja on other conversations (`verify`). All of that happens in a process of its own, with limits (`worker`).
Pure: no network, no files, no Ollama.
"""
