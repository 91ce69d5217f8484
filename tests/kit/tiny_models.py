"""Tiny random repositories of embedding models, and of chat models with one answer.

Every function returns the files of one repository, the same bytes for the same arguments.
`tiny_llama` is in `proxy.standins`.
"""

import json
import struct
from base64 import b64encode
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from proxy.standins.tiny_llama import tiny_llama
from tests.kit.conversions import headers
from tests.kit.protobuf import bytes_field, piece_field
from tests.kit.tiny_tokenizers import added_token, json_bytes

Array = npt.NDArray[np.float32]
Tensors = dict[str, Array]
Pooling = Literal["mean", "cls", "max", "lasttoken"]


_NODES = {0: 0x2000, 1: 0x909, 2: 0x50A, 3: 0x80000000, 5: 0x190D}
SPACES_CHARSMAP = struct.pack("<257I", 1024, *(_NODES.get(at, at) for at in range(256))) + b" \0"
"""A SentencePiece character map that turns tabs and line ends into spaces, as XLM-R's map does."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (
    "the a an of and to in is was are on at it with for as that this man woman cat dog bird child king queen eats "
    "drinks sits runs sleeps food water bread mat rug house street market stock fell rose sun rain red blue green"
)
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POOLING_MODES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
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
    """A Llama that repeats one word, a single token, in every answer."""
    files = tiny_llama(seed=seed, shards=shards)
    token = json.loads(files["tokenizer.json"])["model"]["vocab"][word]
    for path, header in headers(files).items():
        content = bytearray(files[path])
        for name, tensor in header.tensors.items():
            # The first number of every embedding is large, and only the output row of this word uses it.
            rows = {"model.embed_tokens.weight": range(tensor.shape[0]), "lm_head.weight": [token]}
            for row in rows.get(name, []):
                start = tensor.start + row * tensor.shape[1] * 2
                content[start : start + 2] = b"\x80\x3f"  # 1 in bfloat16
        files[path] = bytes(content)
    return files


def tiny_bert(
    *, pooling: Pooling = "mean", normalize: bool = True, early_specials: bool = False, seed: int = 0
) -> dict[str, bytes]:
    """A BertModel like all-MiniLM with embeddings of 256 numbers. The weights do not depend on `pooling`.

    With `early_specials`, [CLS] is token 2, although Ollama v0.33 begins every text with token 101.
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
        "config.json": json_bytes(config),
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
    """An XLMRobertaModel as transformers 5 saves it, with two extra positions and a Unigram tokenizer."""
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
    return files | {"config.json": json_bytes(config), **tokenizer, "model.safetensors": _bert_weights(config, seed=1)}


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
        "added_tokens": [added_token(text, pieces.index(text)) for text in (*specials, "<mask>")],
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
    return {"tokenizer.json": json_bytes(tokenizer), "tokenizer_config.json": json_bytes(config)}, len(pieces)


def newer_sentence_transformer(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same model as sentence-transformers 5.4 and later save it. Ollama does not recognize its pooling."""
    modules = json.loads(files["modules.json"])
    for module in modules:
        name = module["type"].rpartition(".")[2]
        package = "sentence_transformer" if name == "Pooling" else "base"
        module["type"] = f"sentence_transformers.{package}.modules.{name.lower()}.{name}"
    pooling = json.loads(files["1_Pooling/config.json"])
    newer = {
        "embedding_dimension": pooling["word_embedding_dimension"],
        "pooling_mode": next(name for name, mode in POOLING_MODES.items() if pooling[f"pooling_mode_{mode}"]),
        "include_prompt": True,
    }
    return files | {"modules.json": json_bytes(modules), "1_Pooling/config.json": json_bytes(newer)}


def tiny_nomic_bert(*, seed: int = 0) -> dict[str, bytes]:
    """A NomicBertModel with names and keys that only Ollama before v0.34.1 reads. No real repository has them.

    The names of nomic-ai (`n_layer`, `attn.Wqkv`) and of transformers differ.
    """
    vocabulary = wordpieces()
    hidden, feed_forward, layers = 256, 256, 2
    config = {
        "architectures": ["NomicBertModel"],
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
        tensors |= _layer_norm(f"{prefix}attention.output.LayerNorm", hidden)
        tensors |= random.linear(f"{prefix}mlp.up", feed_forward, hidden, bias=False)
        tensors |= random.linear(f"{prefix}mlp.down", hidden, feed_forward, bias=False)
        # This is the name in the GGUF: no rename of that converter results in a gate.
        tensors[f"{prefix}ffn_gate.weight"] = random.weights(feed_forward, hidden)
        tensors |= _layer_norm(f"{prefix}output.LayerNorm", hidden)
    return {
        "config.json": json_bytes(config),
        "model.safetensors": safetensors(tensors, "F16"),
        **bert_tokenizer(vocabulary),
        **sentence_transformer(hidden, "mean", normalize=True),
    }


def tiny_embedding_gemma(*, seed: int = 0) -> dict[str, bytes]:
    """A Gemma3TextModel with two Dense modules and embeddings of 64 numbers."""
    hidden, dense = 64, 128
    tokenizer = _gemma_tokenizer()
    # Every sixth layer has full attention. llama.cpp fails when no layer has it.
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
        "config.json": json_bytes(config),
        "model.safetensors": safetensors(tensors, "F32"),
        **tokenizer,
        "modules.json": _modules(modules, paths),
        "1_Pooling/config.json": _pooling(hidden, "mean"),
        "2_Dense/config.json": _dense(hidden, dense),
        "2_Dense/model.safetensors": safetensors({"linear.weight": random.weights(dense, hidden)}, "F32"),
        "3_Dense/config.json": _dense(dense, hidden),
        "3_Dense/model.safetensors": safetensors({"linear.weight": random.weights(hidden, dense)}, "F32"),
    }


def safetensors(tensors: Tensors, dtype: Literal["F32", "F16", "BF16"]) -> bytes:
    """A safetensors file. The safetensors package cannot write it, as numpy has no bfloat16. U8 tensors stay U8."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        stored: str = "U8" if tensor.dtype == np.uint8 else dtype
        if stored == "U8":
            data = tensor.tobytes()
        elif stored == "BF16":
            data = (np.ascontiguousarray(tensor, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            data = tensor.astype("<f2" if dtype == "F16" else "<f4").tobytes()
        start, end = end, end + len(data)
        header[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


class Random:
    """Random weights: small enough for finite activations, large enough to distinguish two texts."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def weights(self, *shape: int) -> Array:
        return self._generator.standard_normal(shape, dtype=np.float32) * np.float32(0.05)

    def octets(self, low: int, high: int, *shape: int) -> npt.NDArray[Any]:
        """Random bytes from `low` to `high` - 1."""
        return self._generator.integers(low, high, shape, np.uint8)

    def table(self, rows: int, width: int) -> Array:
        """An embedding table that repeats itself: 100 MB of random numbers would take a second."""
        block = self.weights(1024, width)
        return np.resize(block, (rows, width))

    def linear(self, name: str, *shape: int, bias: bool = True) -> Tensors:
        tensors = {f"{name}.weight": self.weights(*shape)}
        return tensors | {f"{name}.bias": self.weights(shape[0])} if bias else tensors


def ones(name: str, size: int) -> Tensors:
    return {name: np.ones(size, np.float32)}


def zeros(name: str, size: int) -> Tensors:
    return {name: np.zeros(size, np.float32)}


def _layer_norm(name: str, size: int) -> Tensors:
    return ones(f"{name}.weight", size) | zeros(f"{name}.bias", size)


def _modules(names: tuple[str, ...], paths: tuple[str, ...]) -> bytes:
    return json_bytes(
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
    )


def _pooling(hidden: int, pooling: Pooling) -> bytes:
    modes = {f"pooling_mode_{mode}": name == pooling for name, mode in POOLING_MODES.items()}
    return json_bytes({"word_embedding_dimension": hidden, **modes, "pooling_mode_mean_sqrt_len_tokens": False})


def _dense(inner: int, outer: int) -> bytes:
    activation = "torch.nn.modules.linear.Identity"
    return json_bytes({"in_features": inner, "out_features": outer, "bias": False, "activation_function": activation})


def sentence_transformer(hidden: int, pooling: Pooling, *, normalize: bool, dense: int = 0) -> dict[str, bytes]:
    """The files of the modules. With `dense`, two matrices follow the pooling, with `dense` numbers between them."""
    names = ("Pooling", *(("Dense", "Dense") if dense else ()), *(("Normalize",) if normalize else ()))
    paths = [f"{number}_{name}" for number, name in enumerate(names, 1)]
    files = {
        "modules.json": _modules(("Transformer", *names), ("", *paths)),
        "1_Pooling/config.json": _pooling(hidden, pooling),
        "sentence_bert_config.json": json_bytes({"max_seq_length": 128, "do_lower_case": False}),
    }
    random = Random(5)
    for path, inner, outer in zip(paths[1:3], (hidden, dense), (dense, hidden), strict=False) if dense else ():
        files[f"{path}/config.json"] = _dense(inner, outer)
        files[f"{path}/model.safetensors"] = safetensors({"linear.weight": random.weights(outer, inner)}, "F32")
    return files


def wordpieces(*, early: bool = False) -> dict[str, int]:
    """A WordPiece vocabulary. [CLS] is token 101, as in Google's. With `early`, all special tokens come first."""
    alone = [*LETTERS, *"0123456789.,!?'-"]
    specials = [BERT_SPECIALS[0], *(f"[unused{number}]" for number in range(0 if early else 99)), *BERT_SPECIALS[1:]]
    pieces = [*specials, *alone, *(f"##{text}" for text in alone), *(word for word in WORDS.split() if len(word) > 1)]
    return {piece: number for number, piece in enumerate(pieces)}


def bert_tokenizer(vocabulary: dict[str, int]) -> dict[str, bytes]:
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(text, vocabulary[text]) for text in BERT_SPECIALS],
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
        "tokenizer.json": json_bytes(tokenizer),
        "tokenizer_config.json": json_bytes({**names, "do_lower_case": True, "tokenizer_class": "BertTokenizer"}),
        "special_tokens_map.json": json_bytes(names),
        "vocab.txt": "".join(f"{piece}\n" for piece in vocabulary).encode(),
    }


def _gemma_tokenizer() -> dict[str, Any]:
    """A SentencePiece model whose first 109 tokens are those of Gemma 3. `rows` is the number of tokens."""
    control, byte, normal, unknown = 3, 6, 1, 2
    pieces = [("<pad>", control), ("<eos>", control), ("<bos>", control), ("<unk>", unknown)]
    pieces += [("<start_of_image>", control), ("<end_of_image>", control), ("<image_soft_token>", control)]
    pieces += [(f"<unused{number}>", normal) for number in range(105 - len(pieces))]
    pieces += [("<start_of_turn>", control), ("<end_of_turn>", control), ("\n", normal), ("\n\n", normal)]
    pieces += [(f"<0x{number:02X}>", byte) for number in range(256)]
    words = ["\u2581", *LETTERS, *"0123456789.,!?:", *(f"\u2581{letter}" for letter in LETTERS)]
    words += [first + second for first in LETTERS for second in LETTERS]
    pieces += [(word, normal) for word in words]
    model = b"".join(piece_field(text, -float(number), piece_type) for number, (text, piece_type) in enumerate(pieces))
    # The trainer type BPE, and a normalizer that does not change the text.
    model += bytes_field(2, b"\x18\x02") + bytes_field(3, bytes_field(1, b"identity") + b"\x18\x00\x20\x00")
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    ids = {text: number for number, (text, piece_type) in enumerate(pieces) if piece_type in (control, unknown)}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(number): added_token(text, number) for text, number in ids.items()},
        "chat_template": GEMMA_TEMPLATE,
        "tokenizer_class": "GemmaTokenizer",
        **names,
    }
    return {
        "tokenizer.model": model,
        # The converter reads the ids of special tokens from here even when it reads tokenizer.model.
        "tokenizer.json": json_bytes(
            {
                "added_tokens": [added_token(text, number) for text, number in ids.items()],
                "model": {
                    "type": "BPE",
                    "vocab": {text: number for number, (text, _) in enumerate(pieces)},
                    "merges": [],
                },
            }
        ),
        "tokenizer_config.json": json_bytes(config),
        "special_tokens_map.json": json_bytes(names),
        "rows": len(pieces),
    }


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
    tensors = zeros(f"{prefix}norm.weight", hidden)
    for layer in range(config["num_hidden_layers"]):
        start = f"{prefix}layers.{layer}."
        for part, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            tensors[f"{start}self_attn.{part}_proj.weight"] = random.weights(config[heads] * head, hidden)
        tensors[f"{start}self_attn.o_proj.weight"] = random.weights(hidden, config["num_attention_heads"] * head)
        tensors |= zeros(f"{start}self_attn.q_norm.weight", head) | zeros(f"{start}self_attn.k_norm.weight", head)
        tensors[f"{start}mlp.gate_proj.weight"] = random.weights(feed_forward, hidden)
        tensors[f"{start}mlp.up_proj.weight"] = random.weights(feed_forward, hidden)
        tensors[f"{start}mlp.down_proj.weight"] = random.weights(hidden, feed_forward)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            tensors |= zeros(f"{start}{norm}_layernorm.weight", hidden)
    return tensors
