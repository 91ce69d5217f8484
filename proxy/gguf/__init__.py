"""GGUF files as values: reads and writes headers, converts safetensors, quantizes, and joins split files. Pure.

One conversion:

    from proxy.gguf.conversion import ModelDescription, convert

    conversion = convert(config, tokenizer_files, weights, ModelDescription("Tiny-1B"), quantization="Q4_K_M")
    conversion.header, conversion.pieces, conversion.size, conversion.warnings

`convert` reads parsed headers and small files only. The data of the GGUF is `pieces`: fixed bytes, or byte ranges of
the source with a transform, which the caller applies while it downloads. Read in this order:

1. `families`: what each architecture declares, as data (`families/rules`). `model_config` reads config.json key by key;
   `unread_keys` and `ignored_keys` decide about every key that a family did not read.
2. `unpacking` and `packing`: tensors that are stored quantized are seen as F32.
3. `targets` and `apply_rules` (`apply_qkv` for Q, K and V): which ranges (`tensor_sources`) and changes (`transforms`)
   make each tensor.
4. `hyperparameters` and `description`: metadata from config.json, and from the repository's name and card.
5. `vocabulary`: metadata from the tokenizer files (`tokenizer_files`). It has one module for each type of tokenizer
   (`sentencepiece`, `unigram`, `wordpiece`; `pretokenizers` for byte-level BPE), and `special_tokens` and `spaces`.
6. `completeness` and `loadable`: refuse a result that llama.cpp would not load.
7. `tensor_types`, `cast` and `engine`: the type of each tensor in a quantized file, and who computes it. `keeping`
   decides where NVFP4 stays.

`header` and `tensors` know the file format. `requantize` and `split` start from a GGUF instead of safetensors.

Whatever is unknown raises CannotConvert, which names the file and the key, tensor or value. tests/gguf compares the
results bit by bit with llama.cpp's converter and quantizer.
"""
