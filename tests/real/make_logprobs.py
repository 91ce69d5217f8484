"""Writes transformers' answers to raw prompts, for each tiny repository of a chat model.

`python -m tests.real.make_logprobs [NAME…]` writes logprobs.json; with `packed` as the first argument it writes
packed_logprobs.json, for repositories whose weights are stored quantized. It needs torch, transformers, accelerate,
sentencepiece and tiktoken, which this project does not depend on. The figures are from transformers 5.24 with torch
2.15, in F32 with eager attention. Those of RWKV are from its authors' package rwkv 0.8.32, and those of PLaMo, Step and
a Ling with limits from mlx-lm 0.32.2 with mlx[cpu] 0.32.4; both have to be installed for them.
"""

import json
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.gguf.packing.rows import as_plain
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import byte_characters
from tests.gguf.tiny_repositories.repository import FEED_FORWARD, HEAD, HEADS, HIDDEN, KV_HEADS, LAYERS
from tests.gguf.tiny_repositories.schemes import PACKED
from tests.gguf.tiny_repositories.tiktoken import (
    CHATGLM_PATTERN,
    GLM,
    GLM_CODE,
    LISTED,
    PATTERN,
    PATTERNS,
    RESERVED,
    VOCABULARY,
)
from tests.gguf.tiny_repositories.tokenizer import SPACE, WORDS, dump
from tests.real import mlx_oracle, plamo_oracle, rwkv_oracle

FIGURES, PACKED_FIGURES = (Path(__file__).with_name(name) for name in ("logprobs.json", "packed_logprobs.json"))
REMOTE_CODE = "transformers has no class for it: its repositories contain their own code"
WITHOUT_LOGPROBS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("arctic", "bailingmoe", "bailingmoe2", "deci", "deepseek", "internlm2", "maincoder"),
            *("nanbeige", "smallthinker", "smallthinker_windows", "talkie"),
        ),
        REMOTE_CODE,
    ),
    "paddleocr_vl": "transformers has no class for its text alone; it is compared with a picture",
    "mamba2_codestral": "transformers does not read the names of its tensors",
    "baichuan_13b": f"{REMOTE_CODE}, and no class has ALiBi in a model that is otherwise like Llama",
}
"""Chat models that are not in the file, with the reason."""
PACKED_WITHOUT_LOGPROBS = frozenset(("phi3_gptq_2bit",))
"""With its weights of two bits, no prompt has a continuation that is likely enough."""
UNPACKED = frozenset(("deepseek4",))
"""transformers gets the numbers that their experts stand for: it multiplies with such experts only on a GPU."""
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
READ_AS: Mapping[str, Mapping[str, Any]] = {
    # transformers 5 does not read the `rope_theta` of transformers 4 for layers with a window.
    "olmo3": {"rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}},
    # transformers 5 does not read the `rope_theta` in `attn_config`, which is DBRX's.
    "dbrx": {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    # transformers has no class for Baichuan. Llama's class computes the same, with Q, K and V apart.
    "baichuan_7b": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    # transformers has no class for InternLM 3. Llama's class computes the same; its biases have these names.
    "internlm3": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
    },
    # transformers has no class for Orion. StableLM's class computes the same if RoPE rotates all of a head.
    "orion": {
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "layer_norm_eps": 1e-4,
        "partial_rotary_factor": 1.0,
        "use_qkv_bias": False,
    },
    # transformers reads MiMo V2's layers, RoPE and epsilon only under its own names.
    "mimo_v2": {
        "layer_types": [
            "sliding_attention" if slides else "full_attention"
            for slides in REPOSITORIES["mimo_v2"].change["hybrid_layer_pattern"]
        ],
        "rms_norm_eps": 1e-4,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25},
        },
    },
    # Falcon's first code had other names for these keys.
    "falcon_rw": {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "num_hidden_layers": LAYERS,
    },
    # transformers gives layers that do not fill a group linear attention. The authors' code has latent attention there.
    "ling3": {"layer_types": [*["linear_attention"] * 2, *["full_attention"] * 3]},
    "ling3_limits": {"model_type": mlx_oracle.LING},
    # This is what llama.cpp computes: `beta_fast` is always 32 (proxy/gguf/families/deepseek.py).
    "kimi_k2": {
        "model_type": "deepseek_v3",
        "rope_scaling": {**REPOSITORIES["kimi_k2"].change["rope_scaling"], "beta_fast": 32.0},
    },
    # StableLM's first code had other names for these keys.
    "stablelm_epoch": {
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "layer_norm_eps": 1e-4,
        "partial_rotary_factor": 0.5,
    },
    # transformers has no class for MiniCPM. Granite's class computes the same; its factors have these names.
    "minicpm": {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "embedding_multiplier": 12.0,
        "residual_multiplier": 1.4 / LAYERS**0.5,
        "logits_scaling": HIDDEN / 128,
        "attention_multiplier": HEAD**-0.5,
    },
    # transformers 5.24 reads the size of HunYuan's heads under this name alone.
    "hunyuan_moe": {"head_dim": HIDDEN // 2},
    # transformers has no class for the first Qwen. Qwen 2's class computes the same in texts of up to `seq_length`.
    "qwen1": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "intermediate_size": FEED_FORWARD,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 20000.0,
    },
    # transformers has no class for GLM-4 in its authors' form, only for the same model with other names.
    "chatglm": {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": REPOSITORIES["chatglm"].change["padded_vocab_size"],
        "num_hidden_layers": LAYERS,
        "intermediate_size": FEED_FORWARD,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "rms_norm_eps": 1e-4,
        "rope_theta": 50000.0,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    # transformers has no class for XVERSE. Llama's class computes the same.
    "xverse": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    # These are Llamas: layers that are alike, one loop, and biases by another key.
    "deci_alike": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": FEED_FORWARD,
        "num_key_value_heads": KV_HEADS,
    },
    "nanbeige_once": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "pangu": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": True},
}
"""Changes of config.json with which transformers computes the same as the repository's own code."""
RENAMED: Mapping[str, Mapping[str, str]] = {
    "chatglm": {
        "transformer.encoder.layers.": "model.layers.",
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.output_layer": "lm_head",
        ".self_attention.query_key_value": ".self_attn.W_pack",
        ".self_attention.dense": ".self_attn.o_proj",
        ".mlp.dense_h_to_4h": ".mlp.gate_up_proj",
        ".mlp.dense_4h_to_h": ".mlp.down_proj",
    },
    "qwen1": {
        "transformer.h.": "model.layers.",
        "transformer.wte": "model.embed_tokens",
        "transformer.ln_f": "model.norm",
        ".attn.c_attn": ".self_attn.W_pack",
        ".attn.c_proj": ".self_attn.o_proj",
        ".ln_1": ".input_layernorm",
        ".ln_2": ".post_attention_layernorm",
        ".mlp.w1": ".mlp.up_proj",
        ".mlp.w2": ".mlp.gate_proj",
        ".mlp.c_proj": ".mlp.down_proj",
    },
}
"""Parts of the tensors' names, and what stands for them in the class of READ_AS."""
NOT_AUTOMATIC: Mapping[str, str] = {
    "mistral4": "Mistral4ForCausalLM",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
}
"""Model type → its class, where AutoModelForCausalLM knows none: of the text, or of the whole model."""
OTHER_PACKAGES = {kind: module.load for module in (plamo_oracle, rwkv_oracle) for kind in module.MODEL_TYPES}
"""Model type → how another package than transformers loads a repository."""
LOGITS: Mapping[str, Callable[[Path], Callable[[list[int]], Any]]] = dict.fromkeys(
    mlx_oracle.MODEL_TYPES, mlx_oracle.logits_of
)
"""Model type → how another package calculates logits, where the tokens are transformers'."""
STEPS = 24
CANDIDATES = 5
DIGITS = 5
TOLERANCE = 0.02
"""The largest allowed difference of natural logarithms of probabilities."""
FLATNESS = 40
"""The tolerance is at most the logits' standard deviation / 40: nearly equal logits have small differences."""
PROMPTS = (
    [f"{word} Water,\n\nand fire  {at}" for at, word in enumerate(WORDS[:12], 8)],
    [" ".join(WORDS[at : at + 3]) for at in range(0, 36, 2)],
    [" ".join([*WORDS[at:], *WORDS[:at]]) for at in range(0, 36, 4)],
)
"""Three groups of prompts. From each group, the prompt with the longest continuation is recorded."""


@dataclass(frozen=True)
class Oracle:
    """One repository in transformers."""

    logits: Callable[[list[int]], Any]
    """The logits of the token after these tokens."""
    encode: Callable[[str], list[int]]
    texts: list[str | None]
    """Text by token id. None if a server does not show the token alone: part of a character, or a special token."""

    def figures(self, prompt: str) -> dict[str, Any]:
        """The recorded values for one prompt."""
        return {"prompt": prompt, **greedy(self.encode(prompt), self.logits, self.texts, STEPS)}


def greedy(
    prompt: Sequence[int], logits: Callable[[list[int]], Any], texts: Sequence[str | None], steps: int
) -> dict[str, Any]:
    """The recorded values for the tokens of a prompt. `logits` and `texts` are those of an `Oracle`.

    `tokens` is the number of the prompt's tokens. `first` has the most likely next tokens and their logprobs;
    `tolerance` is the largest allowed difference from these. `continuation` has at most `steps` greedy tokens. It
    ends early if the next token has no text of its own, or if two tokens are equally likely within the tolerance.
    """
    torch = import_module("torch")
    tokens = list(prompt)
    first: list[tuple[str | None, float]] = []
    continuation: list[str] = []
    tolerance = 0.0
    while len(continuation) < steps:
        logprobs = torch.log_softmax(logits(tokens), -1)
        values, numbers = (each.tolist() for each in torch.topk(logprobs, CANDIDATES))
        if not first:
            tolerance = min(TOLERANCE, logprobs.std().item() / FLATNESS)
            first = [(texts[at], round(value, DIGITS)) for at, value in zip(numbers, values, strict=True)]
        text = texts[numbers[0]]
        if text is None or values[0] - values[1] < tolerance:
            break
        continuation.append(text)
        tokens.append(numbers[0])
    return {
        "tokens": len(prompt),
        "tolerance": round(tolerance, DIGITS),
        "first": first,
        "continuation": continuation,
    }


def text_alone(name: str) -> Mapping[str, bytes]:
    """The repository in the form of a text-only model, if transformers has a class for its text. transformers ignores
    the vision tensors.
    """
    tiny = REPOSITORIES[name]
    files = tiny.files()
    if name in UNPACKED:
        files = as_plain(files)
    if tiny.part_of is None or tiny.part_of in NOT_AUTOMATIC:
        config = {**json.loads(files["config.json"]), **READ_AS.get(name, {})}
        groups = config.get("num_key_value_heads", HEADS)
        divided_files = {
            path: divided(content, (config.get("num_attention_heads", HEADS), groups, groups), RENAMED.get(name, {}))
            for path, content in files.items()
            if path.endswith(".safetensors")
        }
        return {**files, **divided_files, "config.json": dump(config)}
    whole = json.loads(files["config.json"])
    config = {**whole, **whole["text_config"]}
    for key in ("architectures", "text_config", "vision_config"):
        config.pop(key, None)
    text = tiny.prefix
    content = files["model.safetensors"]
    size = struct.unpack("<Q", content[:8])[0]
    header = {
        name.replace(text, "model.", 1).removeprefix("language_model."): entry
        for name, entry in json.loads(content[8 : 8 + size]).items()
    }
    renamed = json.dumps(header).encode()
    weights = struct.pack("<Q", len(renamed)) + renamed + content[8 + size :]
    return {**files, "config.json": dump(config), "model.safetensors": weights}


def divided(content: bytes, heads: Sequence[int], renamed: Mapping[str, str]) -> bytes:
    """A safetensors file with other names, and with Q, K and V in tensors of their own.

    Baichuan has them below each other, in a tensor W_pack. `heads` are the numbers of heads of the three.
    """
    size = struct.unpack("<Q", content[:8])[0]
    header: dict[str, Any] = {}
    for original, entry in json.loads(content[8 : 8 + size]).items():
        name = original
        for part, other in renamed.items():
            name = name.replace(part, other)
        if ".W_pack." not in name:
            header[name] = entry
            continue
        start, stop = entry["data_offsets"]
        for count, letter in zip(heads, "qkv", strict=True):
            end = start + (stop - entry["data_offsets"][0]) * count // sum(heads)
            shape = [entry["shape"][0] * count // sum(heads), *entry["shape"][1:]]
            header[name.replace("W_pack", f"{letter}_proj")] = {**entry, "shape": shape, "data_offsets": [start, end]}
            start = end
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


def shown(tokens: list[str | None], special: set[str]) -> list[str | None]:
    """The text that a server shows for each token alone. An id without a token gives None."""
    pieces = "<0x0A>" in tokens
    bytes_of = {character: bytes([at]) for at, character in enumerate(byte_characters())}

    def text(token: str | None) -> str | None:
        # A server holds back "<" and "[" until it knows that they do not begin a special token or a stop word.
        if token is None or token in special or "<" in token or "[" in token:
            return None
        if pieces:
            return token.replace(SPACE, " ")
        try:
            whole = b"".join(bytes_of[character] for character in token).decode()
        except (KeyError, UnicodeDecodeError):
            return None
        return None if "\0" in whole else whole

    return [text(token) for token in tokens]


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in transformers. For a vocabulary of tiktoken, transformers' reading with its authors' pattern."""
    transformers = import_module("transformers")
    path = next((one for one in (VOCABULARY, *LISTED, GLM) if (folder / one).exists()), None)
    if path is None or (path == GLM and not (folder / GLM_CODE).exists()):
        return transformers.AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    named = {int(at): token["content"] for at, token in config.get("added_tokens_decoder", {}).items()}
    first = len((folder / path).read_bytes().splitlines())
    reserved = [named.get(at, f"<|reserved_token_{at}|>") for at in range(first, first + RESERVED)]
    specials = list(named.values()) if path == GLM else list(LISTED.get(path, reserved))
    pattern = CHATGLM_PATTERN if path == GLM else PATTERN if path in LISTED else "|".join(PATTERNS)
    slow = import_module("transformers.convert_slow_tokenizer")
    converter = slow.TikTokenConverter(str(folder / path), pattern, extra_special_tokens=specials)
    kept = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    names = {key: config[key] for key in kept if key in config}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=converter.converted(), **names)


def logits_of(folder: Path) -> Callable[[list[int]], Any]:
    """The logits after tokens, by transformers. Raises ValueError if transformers misses a weight."""
    torch, transformers = import_module("torch"), import_module("transformers")
    model_type = json.loads((folder / "config.json").read_bytes())["model_type"]
    model_class = getattr(transformers, NOT_AUTOMATIC.get(model_type, "AutoModelForCausalLM"))
    model, loading = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(f"transformers did not find all weights of {folder.name}: {loading}")
    model.eval()

    def logits(tokens: list[int]) -> Any:
        with torch.no_grad():
            return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].float()

    return logits


def oracle(folder: Path) -> Oracle:
    """The repository in a folder, with transformers' tokens."""
    config = json.loads((folder / "config.json").read_bytes())
    logits = LOGITS.get(config["model_type"], logits_of)(folder)
    tokenizer = tokenizer_of(folder)
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    rows: list[str | None] = [None] * len(logits([0]))
    texts = shown(tokens, added | set(tokenizer.all_special_tokens))
    rows[: len(texts)] = texts
    has_template = tokenizer.chat_template is not None
    begins = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) if has_template else ""
    # With the proxy's GGUF, a raw prompt begins with BOS if the chat template does.
    first = [tokenizer.bos_token_id] if begins.startswith(tokenizer.bos_token or "\0") else []

    def encode(prompt: str) -> list[int]:
        tokens = list(tokenizer(prompt).input_ids)
        plain = list(tokenizer(prompt, add_special_tokens=False).input_ids)
        start = next(at for at in range(len(tokens)) if tokens[at : at + len(plain)] == plain)
        return [*first, *tokens[start:]]

    return Oracle(logits, encode, rows)


def longest(oracle: Oracle, prompts: Iterable[str]) -> dict[str, Any]:
    """The figures of the prompt with the longest continuation."""
    best: dict[str, Any] = {"continuation": []}
    for prompt in prompts:
        figures = oracle.figures(prompt)
        best = max(best, figures, key=lambda each: len(each["continuation"]))
        if len(best["continuation"]) == STEPS:
            break
    if not best["continuation"]:
        raise ValueError("no prompt has a continuation that can be compared")
    return best


def figures(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The figures of three prompts for this repository: by transformers, or else by another package."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).write_bytes(content)
        load = OTHER_PACKAGES.get(json.loads(files["config.json"])["model_type"])
        model = Oracle(*load(Path(folder))) if load else oracle(Path(folder))
    return [longest(model, prompts) for prompts in PROMPTS]


def write(path: Path, names: Iterable[str], files: Callable[[str], Mapping[str, bytes]]) -> None:
    """Adds the figures of these repositories to a file."""
    recorded: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    for name in names:
        recorded[name] = figures(files(name))
        print(name, [len(one["continuation"]) for one in recorded[name]], flush=True)
    lines = [
        f"{json.dumps(name)}: [\n" + ",\n".join(f" {json.dumps(one)}" for one in recorded[name]) + "\n]"
        for name in sorted(recorded)
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    import_module("torch").set_num_threads(1)
    names = sys.argv[1:]
    if names[:1] == ["packed"]:
        # transformers reads few of the schemes on a CPU: it gets the weights that they stand for.
        write(
            PACKED_FIGURES,
            names[1:] or PACKED.keys() - PACKED_WITHOUT_LOGPROBS,
            lambda name: as_plain(PACKED[name].files()),
        )
        return
    chat = [name for name, tiny in REPOSITORIES.items() if not tiny.pooling and name not in WITHOUT_LOGPROBS]
    write(FIGURES, names or chat, text_alone)


if __name__ == "__main__":
    main()
