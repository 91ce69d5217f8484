"""What a pull will do, decided from small files and from the headers of weight files, before the first weight byte.

All of it is pure: proxy/pull/planner.py reads the files and calls these functions; only `convert.py` runs a process.

How to read it:

1. `plan.py`: the result, a `Plan` with its `Upload`s. `recipe.py`: how the bytes of one blob are made.
2. `capabilities.py`: what each version of Ollama can run. `quantizations.py`: what a tag means, what can be offered.
3. The three kinds of repository:
   - safetensors: `weights.py` chooses the files, `safetensors.py` reads headers, `embedding.py` reads modules.json,
     `conversion_plan.py` makes the plan through `convert.py` and its process `worker.py`.
   - GGUF: `gguf_files.py` chooses the files, `gguf_plan.py` makes the plan.
   - LoRA adapter: `adapter.py`.
4. What the model gets beside its weights: `modelfile.py` chooses it, `chat_templates.py` finds the chat template,
   `card.py` reads the model card, `ollama_layers.py` writes it as Ollama does.
5. `identity.py`: whether two plans make the same model. `json_files.py`: reads the repository's JSON files.

How to add a quantization:

1. `Quantization` in proxy/config/values.py, in the order in which it is offered (the first six are the usual ones).
2. `FILE_TYPES` in proxy/gguf/tensor_types.py: the type of each tensor. `NEED_IMPORTANCE` there has the refused ones.
3. An engine that makes the type: proxy/gguf/engine.py chooses between ggml, the kernel and numpy.
4. `FILE_TYPE_NAMES` in `gguf_plan.py`: how Ollama shows it. `UNSUPPORTED` in `capabilities.py` if Ollama cannot run it.
5. Tests: tests/gguf/make_quantized.py makes the expected types and bytes with llama-quantize.

How to add an Ollama version, after reading its source:

1. `NEWEST` in `capabilities.py`.
2. `RUNS_SINCE` and `PRE_TOKENIZER_SINCE` there for what is new in its llama.cpp; `EQUIVALENT_PRE_TOKENIZERS` and
   `CORRECT_SINCE` for what it computes differently. proxy/gguf/loader_names.py has the names that its loader knows.
3. `ollama_layers.py` if its create writes another config; `RENDERED` in `modelfile.py` if it renders more
   conversations itself.
4. Tests: tests/real against the new version, with `OLLAMA_BIN`.
"""
