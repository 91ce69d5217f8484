"""Checks that a GGUF's tokenizer gives the tokens that the repository's own tokenizer.json gives.

`llama_tokenizer` reads the `tokenizer.*` fields as llama.cpp b10488 does (src/llama-vocab.cpp, src/unicode.cpp):
`pre_tokenization` splits a text, `bpe`, `wordpiece` and `unigram` tokenize the parts. `comparison` compares it with the
`tokenizers` package on `sample_texts` and gives a `verdict`. It runs in a process of its own (`token_worker`), which
`comparer` starts and whose results it caches.
"""
