"""Names of architectures and pre-tokenizers that loaders know: a loader refuses a GGUF with another name. Pure."""

_BEFORE_LLAMA_SERVER = """
afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm
cohere2 command-r dbrx deci deepseek deepseek2 deepseekocr dots1 dream ernie4_5 ernie4_5-moe exaone exaone4 falcon
falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 glm4 glm4moe glm4moelite glmocr gpt-oss gpt2 gptneox gptoss
granite granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe internlm2 jais jamba jina-bert-v2
jina-bert-v3 laguna lfm2 lfm2moe llada llada-moe llama llama4 mamba mamba2 minicpm minicpm3 minimax-m2 mistral3 mllama
mpt nemotron nemotron_h nemotron_h_moe nemotron_h_omni neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmo3 olmoe
openelm orion pangu-embedded phi2 phi3 phimoe plamo plamo2 plm qwen qwen2 qwen25vl qwen2moe qwen2vl qwen3 qwen35
qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 solar
stablelm starcoder starcoder2 t5 t5encoder wavtokenizer-dec xverse
"""
_SINCE_LLAMA_SERVER = """
bailingmoe3 cohere2moe deepseek2-ocr deepseek32 deepseek4 dflash eagle3 eurobert exaone-moe gemma4-assistant glm-dsa
graniteswitch hunyuan_vl hy_v3 jais2 kimi-k3 kimi-linear llama-embed maincoder mellum mimo2 minimax-01 minimax-m3
mistral4 modern-bert muse-glimmer nanbeige paddleocr plamo3 pockettts qwen3tts step35 talkie
"""
_PRE_TOKENIZERS = """
a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx deepseek-coder
deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon falcon-h1 falcon3 gemma4
gigachat glm4 gpt-2 gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m granite-embed-multi-97m grok-2
hunyuan hunyuan-dense jais jais-2 jina-de jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm
kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b
minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder
smaug-bpe smollm solar-open stablelm2 starcoder superbpe talkie tekken tiny_aya trillion viking whitespace youtu
"""
_TOKENIZERS = "bert gemma4 gpt2 hybriddna llama no_vocab none plamo2 rwkv t5 whitespace"
BEFORE_LLAMA_SERVER = frozenset(_BEFORE_LLAMA_SERVER.split())
"""Architectures that Ollama 0.24 loads, from llama/llama.cpp/src/llama-arch.cpp and from its own model/models.

Not `gptj`: llama.cpp has the name, and no graph for it.
"""
SINCE_LLAMA_SERVER = frozenset(_SINCE_LLAMA_SERVER.split())
"""Architectures that llama.cpp b10488 adds; Ollama 0.30 and newer run it."""
PRE_TOKENIZERS = frozenset(_PRE_TOKENIZERS.split())
"""Pre-tokenizers of byte-level BPE in llama-vocab.cpp, in both versions."""
_OWN_ENGINE = """
bert deepseek2 deepseekocr gemma3 gemma3n gemma4 glm4moelite glmocr gpt-oss gptoss laguna lfm2 lfm2moe llama4 mistral3
mllama nemotron_h nemotron_h_moe nemotron_h_omni nomic-bert olmo3 qwen25vl qwen3 qwen35 qwen35moe qwen3moe qwen3next
qwen3vl qwen3vlmoe
"""
_TRANSLATED = """
bert deepseekocr gemma3 gemma3n gemma4 glm4moelite glmocr gptoss laguna lfm2 llama4 mistral3 nemotron_h_moe
nemotron_h_omni olmo3 qwen25vl qwen35 qwen35moe qwen3next qwen3vl qwen3vlmoe
"""
RUN_BY_OWN_ENGINE = frozenset(_OWN_ENGINE.split())
"""Architectures that Ollama's own engine loads before 0.30 (OllamaEngineRequired, fs/ggml/ggml.go at 0.24)."""
TRANSLATED = frozenset(_TRANSLATED.split())
"""Architectures whose metadata and tensors Ollama may translate before llama.cpp sees them (llama/compat, 0.33)."""
TOKENIZERS = frozenset(_TOKENIZERS.split())
"""Values of `tokenizer.ggml.model` in llama-vocab.cpp, in both versions."""
