"""Tiny random repositories that Ollama converts and that do more than chat: embedding models and models that see.

Every maker gives the files of one repository, the same bytes for the same arguments. `tiny_llama` is in `proxy.demo`.
"""

import json
import struct
import zlib
from base64 import b64encode
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from proxy.demo.repository import tiny_llama
from tests.conversions import headers

Array = npt.NDArray[np.float32]
Tensors = dict[str, Array]
Pooling = Literal["mean", "cls", "max", "lasttoken"]

# Ollama v0.24 writes these rows of the embedding table around an image, whatever the tokenizer says.
GEMMA3_ROWS = 256_001
QWEN2_5_VL_ROWS = 151_656

_NODES = {0: 0x2000, 1: 0x909, 2: 0x50A, 3: 0x80000000, 5: 0x190D}
SPACES_CHARSMAP = struct.pack("<257I", 1024, *(_NODES.get(at, at) for at in range(256))) + b" \0"
"""SentencePiece's map of characters to others, which makes spaces of tabs and line ends, as that of XLM-R does."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (
    "the a an of and to in is was are on at it with for as that this man woman cat dog bird child king queen eats "
    "drinks sits runs sleeps food water bread mat rug house street market stock fell rose sun rain red blue green"
)
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POOLING_MODES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '[INST]' if message['role'] == 'user' else '' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '[IMG]' }}{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '[/INST]' if message['role'] == 'user' else eos_token }}{% endfor %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<start_of_image>' }}{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def tiny_parrot(word: str = "hi", *, seed: int = 0, shards: int = 1) -> dict[str, bytes]:
    """A Llama that says one word, a token, over and over, whatever it is asked."""
    files = tiny_llama(seed=seed, shards=shards)
    token = json.loads(files["tokenizer.json"])["model"]["vocab"][word]
    for path, header in headers(files).items():
        content = bytearray(files[path])
        for name, tensor in header.tensors.items():
            # The first number of what it reads is always large, and weighs for this word alone.
            rows = {"model.embed_tokens.weight": range(tensor.shape[0]), "lm_head.weight": [token]}
            for row in rows.get(name, []):
                place = tensor.start + row * tensor.shape[1] * 2
                content[place : place + 2] = b"\x80\x3f"  # 1 in bfloat16
        files[path] = bytes(content)
    return files


def tiny_bert(
    *, pooling: Pooling = "mean", normalize: bool = True, early_specials: bool = False, seed: int = 0
) -> dict[str, bytes]:
    """A BertModel in the shape of all-MiniLM: 256 numbers a text; the weights do not depend on `pooling`.

    With `early_specials` [CLS] is token 2, and v0.33 begins every text with token 101 all the same.
    """
    vocabulary = wordpieces(early=early_specials)
    hidden, feed_forward, layers, positions = 256, 256, 2, 128
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float16",
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary),
    }
    return {
        "config.json": _json(config),
        "model.safetensors": _bert_weights(config, seed),
        **bert_tokenizer(vocabulary),
        **sentence_transformer(hidden, pooling, normalize=normalize),
    }


def _bert_weights(config: dict[str, Any], seed: int) -> bytes:
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    random = Random(seed)
    tensors = {
        "embeddings.word_embeddings.weight": random.weights(config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": random.weights(config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": random.weights(config["type_vocab_size"], hidden),
        **_layer_norm("embeddings.LayerNorm", hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            tensors |= random.linear(f"{prefix}attention.self.{part}", hidden, hidden)
        tensors |= random.linear(f"{prefix}attention.output.dense", hidden, hidden)
        tensors |= _layer_norm(f"{prefix}attention.output.LayerNorm", hidden)
        tensors |= random.linear(f"{prefix}intermediate.dense", feed_forward, hidden)
        tensors |= random.linear(f"{prefix}output.dense", hidden, feed_forward)
        tensors |= _layer_norm(f"{prefix}output.LayerNorm", hidden)
    tensors |= random.linear("pooler.dense", hidden, hidden)
    return safetensors(tensors, "F16")


def tiny_xlm_roberta(*, positions: int = 128) -> dict[str, bytes]:
    """An XLMRobertaModel as transformers 5 writes it: two more positions than texts have, and a Unigram tokenizer."""
    files = tiny_bert()
    tokenizer, rows = unigram_tokenizer()
    config = json.loads(files["config.json"]) | {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": positions + 2,
        "type_vocab_size": 1,
        "vocab_size": rows,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    return files | {"config.json": _json(config), **tokenizer, "model.safetensors": _bert_weights(config, seed=1)}


def unigram_tokenizer() -> tuple[dict[str, bytes], int]:
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    words = [f"\u2581{word}" for word in WORDS.split()]
    pieces = [*specials, "\u2581", *dict.fromkeys((*words, *LETTERS, *"0123456789.,!?'-")), "<mask>"]
    scores = [0.0 if piece in (*specials, "<mask>") else -1.0 - 0.25 * len(piece) for piece in pieces]
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, pieces.index(text)) for text in (*specials, "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": b64encode(SPACES_CHARSMAP).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, one, end],
            "pair": [begin, one, end, end, two, end],
            "special_tokens": {
                name: {"id": name, "ids": [pieces.index(name)], "tokens": [name]} for name in ("<s>", "</s>")
            },
        },
        "decoder": space,
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [[piece, score] for piece, score in zip(pieces, scores, strict=True)],
            "byte_fallback": False,
        },
    }
    names = {f"{kind}_token": text for kind, text in zip(("bos", "pad", "eos", "unk"), specials, strict=True)}
    names |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    config = {**names, "tokenizer_class": "XLMRobertaTokenizer"}
    return {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(config)}, len(pieces)


def newer_sentence_transformer(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same embedding model as sentence-transformers 5.4 and later write it, which Ollama takes for unpooled."""
    modules = json.loads(files["modules.json"])
    for module in modules:
        name = module["type"].rpartition(".")[2]
        place = "sentence_transformer" if name == "Pooling" else "base"
        module["type"] = f"sentence_transformers.{place}.modules.{name.lower()}.{name}"
    pooling = json.loads(files["1_Pooling/config.json"])
    newer = {
        "embedding_dimension": pooling["word_embedding_dimension"],
        "pooling_mode": next(name for name, mode in POOLING_MODES.items() if pooling[f"pooling_mode_{mode}"]),
        "include_prompt": True,
    }
    return files | {"modules.json": _json(modules), "1_Pooling/config.json": _json(newer)}


def tiny_nomic_bert(*, experts: int = 0, pooling: Pooling = "mean", seed: int = 0) -> dict[str, bytes]:
    """A NomicBertModel, or with experts a NomicBertMoEModel, in the names and keys that Ollama's converter expects.

    nomic-ai's own repositories have others (`n_layer`, `attn.Wqkv`), which it does not understand.
    """
    vocabulary = wordpieces()
    hidden, feed_forward, layers = 256, 256, 2
    config = {
        "architectures": ["NomicBertMoEModel" if experts else "NomicBertModel"],
        "model_type": "nomic_bert",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "rope_theta": 1000.0,
        "torch_dtype": "float16",
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary),
    }
    if experts:
        config |= {"num_local_experts": experts, "num_experts_per_tok": 2, "moe_every_n_layers": 2}
    random = Random(seed)
    tensors = {
        "embeddings.word_embeddings.weight": random.weights(len(vocabulary), hidden),
        "embeddings.token_type_embeddings.weight": random.weights(2, hidden),
        **_layer_norm("embeddings.LayerNorm", hidden),
    }
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        tensors[f"{prefix}attention.self.qkv.weight"] = random.weights(3 * hidden, hidden)
        tensors[f"{prefix}attention.output.dense.weight"] = random.weights(hidden, hidden)
        if experts:
            # llama.cpp and Ollama both want these biases of the mixture's layers.
            tensors |= _zeros(f"{prefix}attention.self.qkv.bias", 3 * hidden)
            tensors |= _zeros(f"{prefix}attention.output.dense.bias", hidden)
        tensors |= _layer_norm(f"{prefix}attention.output.LayerNorm", hidden)
        if experts and layer % 2:
            tensors[f"{prefix}mlp.router.weight"] = random.weights(experts, hidden)
            tensors[f"{prefix}mlp.experts.up.weight"] = random.weights(experts, feed_forward, hidden)
            tensors[f"{prefix}mlp.experts.down.weight"] = random.weights(experts, hidden, feed_forward)
        else:
            tensors |= random.linear(f"{prefix}mlp.up", feed_forward, hidden, bias=bool(experts))
            tensors |= random.linear(f"{prefix}mlp.down", hidden, feed_forward, bias=bool(experts))
            if not experts:
                # The name in the GGUF: the converter has no rename that makes a gate.
                tensors[f"{prefix}ffn_gate.weight"] = random.weights(feed_forward, hidden)
        tensors |= _layer_norm(f"{prefix}output.LayerNorm", hidden)
    return {
        "config.json": _json(config),
        "model.safetensors": safetensors(tensors, "F16"),
        **bert_tokenizer(vocabulary),
        **sentence_transformer(hidden, pooling, normalize=True),
    }


def tiny_embedding_gemma(*, seed: int = 0) -> dict[str, bytes]:
    """A Gemma3TextModel with its two Dense modules, which Ollama converts from v0.33 on: 64 numbers a text."""
    hidden, dense = 64, 128
    tokenizer = _gemma_tokenizer()
    # Every sixth layer sees the whole text, and llama.cpp stumbles when none does.
    config = _gemma3_text(hidden, tokenizer.pop("rows")) | {
        "architectures": ["Gemma3TextModel"],
        "num_hidden_layers": 6,
    }
    random = Random(seed)
    tensors = {"embed_tokens.weight": random.weights(config["vocab_size"], hidden)}
    tensors |= _gemma3_layers(random, "", config)
    modules = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize")
    return {
        "config.json": _json(config),
        "model.safetensors": safetensors(tensors, "F32"),
        **tokenizer,
        "modules.json": _modules(modules, paths),
        "1_Pooling/config.json": _pooling(hidden, "mean"),
        "2_Dense/config.json": _dense(hidden, dense),
        "2_Dense/model.safetensors": safetensors({"linear.weight": random.weights(dense, hidden)}, "F32"),
        "3_Dense/config.json": _dense(dense, hidden),
        "3_Dense/model.safetensors": safetensors({"linear.weight": random.weights(hidden, dense)}, "F32"),
    }


def tiny_gemma3_vision(*, rows: int = GEMMA3_ROWS, hidden: int = 32, seed: int = 0) -> dict[str, bytes]:
    """A Gemma3ForConditionalGeneration; only v0.24 needs that many `rows` of the embedding table to see."""
    tokenizer = _gemma_tokenizer()
    text = _gemma3_text(hidden, max(rows, tokenizer.pop("rows")))
    # 64 patches a side, as the real ones have: both engines make 256 tokens of them, or 16 x 16.
    vision = {
        "hidden_size": 16,
        "image_size": 128,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-6,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 1,
        "patch_size": 2,
    }
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        # The converter knows the heads of 34, 48 and 62 layers by heart, and reads any other's from here.
        "num_attention_heads": text["num_attention_heads"],
        "num_key_value_heads": text["num_key_value_heads"],
        "vocab_size": text["vocab_size"],
        "text_config": text,
        "torch_dtype": "bfloat16",
        "vision_config": vision,
    }
    random = Random(seed)
    tensors = {"language_model.model.embed_tokens.weight": random.table(text["vocab_size"], hidden)}
    tensors |= _gemma3_layers(random, "language_model.model.", text)
    tensors |= _siglip(random, "vision_tower.vision_model.", vision)
    tensors["multi_modal_projector.mm_input_projection_weight"] = random.weights(16, hidden)
    tensors |= _zeros("multi_modal_projector.mm_soft_emb_norm.weight", 16)
    return {
        "config.json": _json(config),
        "generation_config.json": _json({"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}),
        "model.safetensors": safetensors(tensors, "BF16"),
        "preprocessor_config.json": _json({"image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 256}),
        "processor_config.json": _json({"image_seq_length": 256, "processor_class": "Gemma3Processor"}),
        **tokenizer,
    }


def tiny_qwen2_5_vl(*, rows: int = QWEN2_5_VL_ROWS, seed: int = 0) -> dict[str, bytes]:
    """A Qwen2_5_VLForConditionalGeneration; v0.24 alone needs that many `rows`, and makes this 39 MB to see."""
    tokenizer = _qwen_tokenizer()
    least = tokenizer.pop("rows")
    hidden = 128  # one head of 128: v0.24 turns 128 numbers of a head, and llama.cpp too
    vision = {
        "depth": 2,
        "fullatt_block_indexes": [1],
        "hidden_act": "silu",
        "hidden_size": 32,
        "in_chans": 3,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
    }
    text = _qwen_text(hidden, max(rows, least), least)
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **text,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": vision,
    }
    random = Random(seed)
    tensors = {"model.embed_tokens.weight": random.table(config["vocab_size"], hidden)}
    tensors |= _qwen_layers(random, "model.", text, bias=True)
    tensors["visual.patch_embed.proj.weight"] = random.weights(32, 3, 2, 14, 14)
    for block in range(2):
        prefix = f"visual.blocks.{block}."
        tensors |= random.linear(f"{prefix}attn.qkv", 96, 32) | random.linear(f"{prefix}attn.proj", 32, 32)
        tensors |= _ones(f"{prefix}norm1.weight", 32) | _ones(f"{prefix}norm2.weight", 32)
        for part in ("gate_proj", "up_proj", "down_proj"):
            tensors |= random.linear(f"{prefix}mlp.{part}", 32, 32)
    tensors |= _ones("visual.merger.ln_q.weight", 32)
    tensors |= random.linear("visual.merger.mlp.0", 128, 128) | random.linear("visual.merger.mlp.2", hidden, 128)
    return {
        "config.json": _json(config),
        "generation_config.json": _json({"eos_token_id": text["eos_token_id"], "pad_token_id": text["pad_token_id"]}),
        "model.safetensors": safetensors(tensors, "BF16"),
        "preprocessor_config.json": _json(_qwen_preprocessor(patch=14)),
        **tokenizer,
    }


def tiny_qwen3_vl(*, rows: int = QWEN2_5_VL_ROWS, seed: int = 0) -> dict[str, bytes]:
    """A Qwen3VLForConditionalGeneration; v0.24 alone needs that many `rows`. v0.33 makes a projector of its eyes."""
    tokenizer = _qwen_tokenizer()
    least = tokenizer.pop("rows")
    hidden = 128
    vision = {
        "deepstack_visual_indexes": [0],
        "depth": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "in_channels": 3,
        "intermediate_size": 32,
        "num_heads": 2,
        "num_position_embeddings": 2304,  # v0.24 takes this for granted
        "out_hidden_size": hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    text = _qwen_text(hidden, max(rows, least), least) | {
        "head_dim": 128,
        "num_hidden_layers": 2,  # llama.cpp wants more layers of text than deepstacked ones
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    }
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "tie_word_embeddings": True,
        "vision_config": vision,
    }
    random = Random(seed)
    tensors = {"model.language_model.embed_tokens.weight": random.table(text["vocab_size"], hidden)}
    tensors |= _qwen_layers(random, "model.language_model.", text, bias=False)
    for layer in range(2):
        for norm in ("q_norm", "k_norm"):
            tensors |= _ones(f"model.language_model.layers.{layer}.self_attn.{norm}.weight", 128)
    tensors |= random.linear("model.visual.patch_embed.proj", 32, 3, 2, 16, 16)
    tensors["model.visual.pos_embed.weight"] = random.weights(2304, 32)
    for block in range(2):
        prefix = f"model.visual.blocks.{block}."
        tensors |= random.linear(f"{prefix}attn.qkv", 96, 32) | random.linear(f"{prefix}attn.proj", 32, 32)
        tensors |= _layer_norm(f"{prefix}norm1", 32) | _layer_norm(f"{prefix}norm2", 32)
        tensors |= random.linear(f"{prefix}mlp.linear_fc1", 32, 32) | random.linear(f"{prefix}mlp.linear_fc2", 32, 32)
    for merger, width in (("merger", 32), ("deepstack_merger_list.0", 128)):
        tensors |= _layer_norm(f"model.visual.{merger}.norm", width)
        tensors |= random.linear(f"model.visual.{merger}.linear_fc1", 128, 128)
        tensors |= random.linear(f"model.visual.{merger}.linear_fc2", hidden, 128)
    return {
        "config.json": _json(config),
        "generation_config.json": _json({"eos_token_id": text["eos_token_id"], "pad_token_id": text["pad_token_id"]}),
        "model.safetensors": safetensors(tensors, "BF16"),
        "preprocessor_config.json": _json(_qwen_preprocessor(patch=16)),
        **tokenizer,
    }


def tiny_mistral3_vision(*, seed: int = 0) -> dict[str, bytes]:
    """A Mistral3ForConditionalGeneration, with Pixtral's eyes."""
    tokenizer = json.loads(tiny_llama()["tokenizer.json"])
    # v0.24 writes tokens 10, 12 and 13 around an image, as Mistral's own tokenizer numbers them.
    base = len(tokenizer["model"]["vocab"])
    names = ("<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer["added_tokens"] = [_added_token(text, base + number) for number, text in enumerate(names)]
    rows, hidden, head, eyes = base + len(names), 128, 64, 64
    text = {
        "head_dim": head,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
        "model_type": "mistral",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "rope_parameters": {"factor": 1.0, "original_max_position_embeddings": 4096, "rope_type": "yarn"}
        | {"beta_fast": 32.0, "beta_slow": 1.0, "rope_theta": 1000000.0},
        "vocab_size": rows,
    }
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "image_token_index": base + names.index("[IMG]"),
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "text_config": text,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "head_dim": 32,
            "hidden_act": "silu",
            "hidden_size": eyes,
            "image_size": 280,
            "intermediate_size": 64,
            "model_type": "pixtral",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 1,
            "patch_size": 14,
            "rope_theta": 10000.0,
        },
        "vision_feature_layer": -1,
    }
    random = Random(seed)
    start = "language_model.model."
    tensors = {f"{start}embed_tokens.weight": random.weights(rows, hidden)} | _ones(f"{start}norm.weight", hidden)
    tensors["language_model.lm_head.weight"] = random.weights(rows, hidden)
    layer = f"{start}layers.0."
    for part, height, width in (("q", hidden, hidden), ("k", head, hidden), ("v", head, hidden), ("o", hidden, hidden)):
        tensors[f"{layer}self_attn.{part}_proj.weight"] = random.weights(height, width)
    for part in ("gate", "up", "down"):
        tensors[f"{layer}mlp.{part}_proj.weight"] = random.weights(128, 128)
    tensors |= _ones(f"{layer}input_layernorm.weight", hidden) | _ones(
        f"{layer}post_attention_layernorm.weight", hidden
    )
    tensors["vision_tower.patch_conv.weight"] = random.weights(eyes, 3, 14, 14)
    tensors |= _ones("vision_tower.ln_pre.weight", eyes)
    layer = "vision_tower.transformer.layers.0."
    tensors |= _ones(f"{layer}attention_norm.weight", eyes) | _ones(f"{layer}ffn_norm.weight", eyes)
    for part in ("attention.q", "attention.k", "attention.v", "attention.o", "feed_forward.gate", "feed_forward.up"):
        tensors[f"{layer}{part}_proj.weight"] = random.weights(eyes, eyes)
    tensors[f"{layer}feed_forward.down_proj.weight"] = random.weights(eyes, eyes)
    tensors |= _ones("multi_modal_projector.norm.weight", eyes)
    tensors["multi_modal_projector.patch_merger.merging_layer.weight"] = random.weights(eyes, 4 * eyes)
    tensors["multi_modal_projector.linear_1.weight"] = random.weights(hidden, eyes)
    tensors["multi_modal_projector.linear_2.weight"] = random.weights(hidden, hidden)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return {
        "config.json": _json(config),
        "generation_config.json": _json({"bos_token_id": base, "eos_token_id": base + 1}),
        "model.safetensors": safetensors(tensors, "BF16"),
        "tokenizer.json": _json(tokenizer),
        "tokenizer_config.json": _json({**special, "add_bos_token": True, "chat_template": MISTRAL_TEMPLATE}),
        "special_tokens_map.json": _json(special),
    }


def png(width: int = 64, height: int = 64, color: tuple[int, int, int] = (200, 30, 60)) -> bytes:
    """A picture with a gradient in it, because one colour alone is normalized away."""
    rows = b"".join(
        b"\0" + bytes(value for x in range(width) for value in (color[0], color[1] * y // height, 255 * x // width))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def safetensors(tensors: Tensors, dtype: Literal["F32", "F16", "BF16"]) -> bytes:
    """Not the package's own writer: numpy has no bfloat16. Bytes stay bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        kind: str = "U8" if tensor.dtype == np.uint8 else dtype
        if kind == "U8":
            data = tensor.tobytes()
        elif kind == "BF16":
            data = (np.ascontiguousarray(tensor, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            data = tensor.astype("<f2" if dtype == "F16" else "<f4").tobytes()
        start, end = end, end + len(data)
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


class Random:
    """Weights small enough to keep every activation finite, large enough to tell two texts apart."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def weights(self, *shape: int) -> Array:
        return self._generator.standard_normal(shape, dtype=np.float32) * np.float32(0.05)

    def octets(self, low: int, high: int, *shape: int) -> npt.NDArray[Any]:
        """From `low` up to `high`, without it."""
        return self._generator.integers(low, high, shape, np.uint8)

    def table(self, rows: int, width: int) -> Array:
        """An embedding table that repeats itself: a hundred megabytes of noise would take a second."""
        block = self.weights(1024, width)
        return np.resize(block, (rows, width))

    def linear(self, name: str, *shape: int, bias: bool = True) -> Tensors:
        tensors = {f"{name}.weight": self.weights(*shape)}
        return tensors | {f"{name}.bias": self.weights(shape[0])} if bias else tensors


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _ones(name: str, size: int) -> Tensors:
    return {name: np.ones(size, np.float32)}


def _zeros(name: str, size: int) -> Tensors:
    return {name: np.zeros(size, np.float32)}


def _layer_norm(name: str, size: int) -> Tensors:
    return _ones(f"{name}.weight", size) | _zeros(f"{name}.bias", size)


def _modules(names: tuple[str, ...], paths: tuple[str, ...]) -> bytes:
    return _json(
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
    )


def _pooling(hidden: int, pooling: Pooling) -> bytes:
    modes = {f"pooling_mode_{mode}": name == pooling for name, mode in POOLING_MODES.items()}
    return _json({"word_embedding_dimension": hidden, **modes, "pooling_mode_mean_sqrt_len_tokens": False})


def _dense(inner: int, outer: int) -> bytes:
    activation = "torch.nn.modules.linear.Identity"
    return _json({"in_features": inner, "out_features": outer, "bias": False, "activation_function": activation})


def sentence_transformer(hidden: int, pooling: Pooling, *, normalize: bool, dense: int = 0) -> dict[str, bytes]:
    """With `dense`, two matrices come behind the pooling, with so many numbers between them."""
    names = ("Pooling", *(("Dense", "Dense") if dense else ()), *(("Normalize",) if normalize else ()))
    paths = [f"{number}_{name}" for number, name in enumerate(names, 1)]
    files = {
        "modules.json": _modules(("Transformer", *names), ("", *paths)),
        "1_Pooling/config.json": _pooling(hidden, pooling),
        "sentence_bert_config.json": _json({"max_seq_length": 128, "do_lower_case": False}),
    }
    random = Random(5)
    for path, inner, outer in zip(paths[1:3], (hidden, dense), (dense, hidden), strict=False) if dense else ():
        files[f"{path}/config.json"] = _dense(inner, outer)
        files[f"{path}/model.safetensors"] = safetensors({"linear.weight": random.weights(outer, inner)}, "F32")
    return files


def wordpieces(*, early: bool = False) -> dict[str, int]:
    """The special tokens where Google's vocabularies have them, [CLS] at 101, or `early`, all at the beginning."""
    alone = [*LETTERS, *"0123456789.,!?'-"]
    specials = [BERT_SPECIALS[0], *(f"[unused{number}]" for number in range(0 if early else 99)), *BERT_SPECIALS[1:]]
    pieces = [*specials, *alone, *(f"##{text}" for text in alone), *(word for word in WORDS.split() if len(word) > 1)]
    return {piece: number for number, piece in enumerate(pieces)}


def _added_token(text: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": True}


def bert_tokenizer(vocabulary: dict[str, int]) -> dict[str, bytes]:
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, vocabulary[text]) for text in BERT_SPECIALS],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep],
            "pair": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep, {"Sequence": {"id": "B", "type_id": 1}}, sep],
            "special_tokens": {
                name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
    names = {f"{text[1:-1].lower()}_token": text for text in BERT_SPECIALS}
    return {
        "tokenizer.json": _json(tokenizer),
        "tokenizer_config.json": _json({**names, "do_lower_case": True, "tokenizer_class": "BertTokenizer"}),
        "special_tokens_map.json": _json(names),
        "vocab.txt": "".join(f"{piece}\n" for piece in vocabulary).encode(),
    }


def _qwen_tokenizer() -> dict[str, Any]:
    """Llama's byte pairs under Qwen's pattern and names; `rows` is how many tokens there are."""
    tokenizer = json.loads(tiny_llama()["tokenizer.json"])
    base = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [_added_token(text, base + number) for number, text in enumerate(QWEN_SPECIALS)]
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": QWEN_SPLIT}
    tokenizer["model"]["ignore_merges"] = False
    config = {
        "add_bos_token": False,
        "chat_template": QWEN_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    return {
        "tokenizer.json": _json(tokenizer),
        "tokenizer_config.json": _json(config),
        "rows": base + len(QWEN_SPECIALS),
    }


def _qwen_text(hidden: int, rows: int, tokens: int) -> dict[str, Any]:
    specials = tokens - len(QWEN_SPECIALS)
    return {
        "eos_token_id": specials + QWEN_SPECIALS.index("<|im_end|>"),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "image_token_id": specials + QWEN_SPECIALS.index("<|image_pad|>"),
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "pad_token_id": specials,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vision_end_token_id": specials + QWEN_SPECIALS.index("<|vision_end|>"),
        "vision_start_token_id": specials + QWEN_SPECIALS.index("<|vision_start|>"),
        "vocab_size": rows,
    }


def _qwen_layers(random: Random, prefix: str, config: dict[str, Any], *, bias: bool) -> Tensors:
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    tensors = _ones(f"{prefix}norm.weight", hidden)
    for layer in range(config["num_hidden_layers"]):
        start = f"{prefix}layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj"):
            tensors |= random.linear(f"{start}self_attn.{part}", hidden, hidden, bias=bias)
        tensors |= random.linear(f"{start}self_attn.o_proj", hidden, hidden, bias=False)
        tensors |= random.linear(f"{start}mlp.gate_proj", feed_forward, hidden, bias=False)
        tensors |= random.linear(f"{start}mlp.up_proj", feed_forward, hidden, bias=False)
        tensors |= random.linear(f"{start}mlp.down_proj", hidden, feed_forward, bias=False)
        tensors |= _ones(f"{start}input_layernorm.weight", hidden)
        tensors |= _ones(f"{start}post_attention_layernorm.weight", hidden)
    return tensors


def _qwen_preprocessor(*, patch: int) -> dict[str, Any]:
    return {
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": 2,
        "patch_size": patch,
        "size": {"shortest_edge": 3136, "longest_edge": 1048576},
        "temporal_patch_size": 2,
    }


def _gemma_tokenizer() -> dict[str, Any]:
    """A SentencePiece model with Gemma 3's first 109 tokens where they belong; `rows` is how many there are."""
    control, byte, normal, unknown = 3, 6, 1, 2
    pieces = [("<pad>", control), ("<eos>", control), ("<bos>", control), ("<unk>", unknown)]
    pieces += [("<start_of_image>", control), ("<end_of_image>", control), ("<image_soft_token>", control)]
    pieces += [(f"<unused{number}>", normal) for number in range(105 - len(pieces))]
    pieces += [("<start_of_turn>", control), ("<end_of_turn>", control), ("\n", normal), ("\n\n", normal)]
    pieces += [(f"<0x{number:02X}>", byte) for number in range(256)]
    words = ["\u2581", *LETTERS, *"0123456789.,!?:", *(f"\u2581{letter}" for letter in LETTERS)]
    words += [first + second for first in LETTERS for second in LETTERS]
    pieces += [(word, normal) for word in words]
    model = b"".join(_field(1, _piece(text, -float(number), kind)) for number, (text, kind) in enumerate(pieces))
    # The byte pairs' trainer, and a normalizer that leaves the text alone.
    model += _field(2, b"\x18\x02") + _field(3, _field(1, b"identity") + b"\x18\x00\x20\x00")
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    ids = {text: number for number, (text, kind) in enumerate(pieces) if kind in (control, unknown)}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(number): _added_token(text, number) for text, number in ids.items()},
        "chat_template": GEMMA_TEMPLATE,
        "tokenizer_class": "GemmaTokenizer",
        **names,
    }
    return {
        "tokenizer.model": model,
        # The converter takes the special tokens' numbers from here even when it reads tokenizer.model.
        "tokenizer.json": _json(
            {
                "added_tokens": [_added_token(text, number) for text, number in ids.items()],
                "model": {
                    "type": "BPE",
                    "vocab": {text: number for number, (text, _) in enumerate(pieces)},
                    "merges": [],
                },
            }
        ),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(names),
        "rows": len(pieces),
    }


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([number << 3 | 2, *length]) + content


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])


def _gemma3_text(hidden: int, rows: int) -> dict[str, Any]:
    return {
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden,
        "intermediate_size": hidden,
        "max_position_embeddings": 2048,
        "model_type": "gemma3_text",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 32,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
        "sliding_window": 512,
        "vocab_size": rows,
    }


def _gemma3_layers(random: Random, prefix: str, config: dict[str, Any]) -> Tensors:
    hidden, head, feed_forward = config["hidden_size"], config["head_dim"], config["intermediate_size"]
    tensors = _zeros(f"{prefix}norm.weight", hidden)
    for layer in range(config["num_hidden_layers"]):
        start = f"{prefix}layers.{layer}."
        for part, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            tensors[f"{start}self_attn.{part}_proj.weight"] = random.weights(config[heads] * head, hidden)
        tensors[f"{start}self_attn.o_proj.weight"] = random.weights(hidden, config["num_attention_heads"] * head)
        tensors |= _zeros(f"{start}self_attn.q_norm.weight", head) | _zeros(f"{start}self_attn.k_norm.weight", head)
        tensors[f"{start}mlp.gate_proj.weight"] = random.weights(feed_forward, hidden)
        tensors[f"{start}mlp.up_proj.weight"] = random.weights(feed_forward, hidden)
        tensors[f"{start}mlp.down_proj.weight"] = random.weights(hidden, feed_forward)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            tensors |= _zeros(f"{start}{norm}_layernorm.weight", hidden)
    return tensors


def _siglip(random: Random, prefix: str, config: dict[str, Any]) -> Tensors:
    hidden, feed_forward, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    positions = (config["image_size"] // patch) ** 2
    tensors = random.linear(f"{prefix}embeddings.patch_embedding", hidden, 3, patch, patch)
    tensors[f"{prefix}embeddings.position_embedding.weight"] = random.weights(positions, hidden)
    tensors |= _layer_norm(f"{prefix}post_layernorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        start = f"{prefix}encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= random.linear(f"{start}self_attn.{part}", hidden, hidden)
        tensors |= _layer_norm(f"{start}layer_norm1", hidden) | _layer_norm(f"{start}layer_norm2", hidden)
        tensors |= random.linear(f"{start}mlp.fc1", feed_forward, hidden)
        tensors |= random.linear(f"{start}mlp.fc2", hidden, feed_forward)
    return tensors
