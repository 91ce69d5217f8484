"""Translates Jinja chat templates for Ollama: a Go template, stops, capabilities and parameters.

The package works on its own:

    from proxy.chat.facts import TokenizerFacts
    from proxy.chat.probe import probe

    chat = await probe(jinja, TokenizerFacts(bos="<s>", eos=("</s>",)))
    chat.template, chat.stops, chat.capabilities, chat.exact, chat.shapes, chat.warnings

The package never parses a template, it only probes it. In this order:

1. `probe` starts a process with time and memory limits (`template_worker`), which runs `describe`.
2. `sandbox` renders as transformers does, `renderer` in the template's dialect; `detection` finds this dialect.
3. `search` tries scopes, from the largest to the smallest. In each of them, `learner` renders `conversations` of
   sentinels, `segmentation` splits the outputs at the sentinels, and a `decision_tree` learns the text between them.
4. `synthesis` builds a `program` from the learned format, and `go_template` writes it in Go.
5. `verify` runs the program on other conversations and compares the outputs with the Jinja's. `llama_server` does the
   same for llama.cpp's own renderer, and `preference` chooses between the two.
6. `stops` and `tool_calls` follow the rules of Ollama's parsers; `parameters` translates generation_config.json.

Pure: no network, no files, no Ollama.
"""
