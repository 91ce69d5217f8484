"""Whether a GGUF's tokenizer gives the tokens that the repository's own tokenizer.json gives.

`llama` reads the `tokenizer.*` fields as llama.cpp b10488 does (src/llama-vocab.cpp, src/unicode.cpp): `cuts` splits a
text, `merging`, `wordpiece` and `unigram` make tokens of the parts. `comparison` holds it against the `tokenizers`
package on `texts`, in a process of its own (`worker`) that `comparer` starts and whose results it remembers.
"""
