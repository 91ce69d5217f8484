"""A tiny repository: its config, and its random weights, which are the same in every run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.tokenizer import Tokenizer, dump
from tests.gguf.tiny_repositories.towers import TinyTower
from tests.kit.tiny_models import Pooling, Random, Tensors, safetensors, sentence_transformer

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 256, 512, 2, 4, 2


HEAD = HIDDEN // HEADS


EXPERTS = 4


FOUR_BITS = [sign * number for sign in (1, -1) for number in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]
"""The values of MXFP4's 4-bit numbers, before scaling."""


@dataclass(frozen=True)
class Tiny:
    """One repository. `change` overrides values of its config, `drop` removes keys; `weights` makes the tensors."""

    architecture: str
    model_type: str
    weights: Callable[["Weights"], None]
    tokenizer: Callable[[], Tokenizer] = lambda: byte_pairs("gpt-2")
    change: Mapping[str, Any] = field(default_factory=dict)
    dtype: Any = "BF16"
    shards: int = 1
    drop: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.6})
    card: str | None = None
    """The front matter of README.md."""
    part_of: str | None = None
    """Model type of the model that sees or hears around this text model."""
    prefix: str = "language_model.model."
    """How the names of text tensors start in such a model."""
    section: str = "text_config"
    """The object in config.json that has the settings of the text; empty if they stand beside the towers' objects."""
    text_architecture: str | None = None
    """What this object has as `architectures`."""
    towers: tuple[TinyTower, ...] = ()
    """In such a model; their tensors come before the text."""
    pooling: Pooling | None = None
    """Set for an embedding model, whose tensor names have no `model.` prefix."""
    dense: bool = False
    """Whether two matrices follow the pooling."""

    def config(self) -> dict[str, Any]:
        tokenizer = self.tokenizer()
        config = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": tokenizer.rows,
            "hidden_size": HIDDEN,
            "intermediate_size": FEED_FORWARD,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            **{f"{name}_token_id": number for name, number in tokenizer.specials.items()},
            **self.change,
        }
        return {key: value for key, value in config.items() if key not in self.drop}

    def files(self) -> dict[str, bytes]:
        config = self.config()
        weights = Weights(config)
        self.weights(weights)
        if self.part_of:
            config = self._around(config, self.part_of)
            tensors = {_renamed(name, self.prefix): x for name, x in weights.tensors.items()}
            weights = Weights(config)
            for tower in self.towers:
                tower.weights(weights)
            weights.tensors |= tensors
        if self.pooling:
            weights.tensors = {name.removeprefix("model."): x for name, x in weights.tensors.items()}
        names = list(weights.tensors)
        per_shard = -(-len(names) // self.shards)
        files = {
            "config.json": dump(config),
            **self.tokenizer().files,
            "generation_config.json": dump(self.generation),
        }
        if self.towers:
            files["preprocessor_config.json"] = dump(
                {key: one for tower in self.towers for key, one in tower.images.items()}
            )
        if self.pooling:
            files |= sentence_transformer(HIDDEN, self.pooling, normalize=True, dense=FEED_FORWARD if self.dense else 0)
        if self.card:
            files["README.md"] = f"---\n{self.card}---\n# A tiny model\n".encode()
        if self.shards == 1:
            return files | {"model.safetensors": safetensors(weights.tensors, self.dtype)}
        index: dict[str, str] = {}
        for number in range(self.shards):
            path = f"model-{number + 1:05d}-of-{self.shards:05d}.safetensors"
            part = {name: weights.tensors[name] for name in names[number * per_shard : (number + 1) * per_shard]}
            files[path] = safetensors(part, self.dtype)
            index |= dict.fromkeys(part, path)
        return files | {"model.safetensors.index.json": dump({"metadata": {}, "weight_map": index})}

    def _around(self, config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
        """The config of a model that sees or hears."""
        outer = ("architectures", "torch_dtype", "bos_token_id", "eos_token_id", "tie_word_embeddings")
        outside = {key: config[key] for key in outer if key in config}
        within = {key: value for key, value in config.items() if key not in outside}
        if self.text_architecture:
            within["architectures"] = [self.text_architecture]
        text = {self.section: within} if self.section else within
        sections = {tower.name: dict(tower.section) for tower in self.towers}
        more = {key: value for tower in self.towers for key, value in tower.outer.items()}
        return {**outside, **text, "model_type": model_type, **sections, **more}


def _renamed(name: str, text: str) -> str:
    """The output weights have the prefix of the text part only if that part is a complete model."""
    if name.startswith("model."):
        return text + name.removeprefix("model.")
    return f"language_model.{name}" if text == "language_model.model." else name


class Weights:
    """Random tensors, in the order of the calls that add them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.tensors: Tensors = {}
        self._random = Random(7)

    def add(self, name: str, *shape: int) -> None:
        self.tensors[name] = self._random.weights(*shape)

    def octets(self, low: int, high: int, *shape: int) -> Any:
        """Random bytes from `low` to `high` - 1."""
        return self._random.octets(low, high, *shape)

    def decays(self, name: str, *shape: int) -> None:
        """Each row has the logarithms of 1, 2, 3 and so on, the initial values of state spaces."""
        self.tensors[name] = np.resize(np.log(np.arange(1, shape[-1] + 1, dtype=np.float32)), shape)

    def norm(self, name: str, *shape: int, bias: bool = False) -> None:
        """Values near 1, like those of a trained norm."""
        self.tensors[f"{name}.weight"] = 1 + self._random.weights(*(shape or (HIDDEN,)))
        if bias:
            self.add(f"{name}.bias", *(shape or (HIDDEN,)))

    def linear(self, name: str, *shape: int, bias: bool = False) -> None:
        self.add(f"{name}.weight", *shape)
        if bias:
            self.add(f"{name}.bias", shape[0])

    @property
    def text(self) -> int:
        """The embedding of the text model, in a model that sees or hears."""
        text = next((self.config[key] for key in ("text_config", "llm_config") if key in self.config), self.config)
        return int(text["hidden_size"])

    @property
    def head(self) -> int:
        return self.config.get("head_dim") or HEAD

    def ends(self, *, bias: bool = False, norm: bool = True) -> None:
        self.add("model.embed_tokens.weight", self.config["vocab_size"], HIDDEN)
        if norm:
            self.norm("model.norm", bias=bias)
        if not self.config.get("tie_word_embeddings"):
            self.add("lm_head.weight", self.config["vocab_size"], HIDDEN)

    def layers(self) -> Iterator[str]:
        for layer in range(self.config["num_hidden_layers"]):
            yield f"model.layers.{layer}."

    def attention(self, layer: str, *, bias: str = "", norms: tuple[int, int] | None = None) -> None:
        """`bias` has the letters of the matrices with a bias; `norms` are the sizes of Q's and K's norms."""
        kv_heads = self.config["num_key_value_heads"]
        for part, heads in (("q", HEADS), ("k", kv_heads), ("v", kv_heads)):
            self.linear(f"{layer}self_attn.{part}_proj", heads * self.head, HIDDEN, bias=part in bias)
        self.linear(f"{layer}self_attn.o_proj", HIDDEN, HEADS * self.head, bias="o" in bias)
        for part, size in zip("qk", norms or (), strict=False):
            self.norm(f"{layer}self_attn.{part}_norm", size)

    def mlp(self, layer: str, size: int = FEED_FORWARD, *, gate: bool = True, name: str = "mlp") -> None:
        for part in ("gate", "up") if gate else ("up",):
            self.linear(f"{layer}{name}.{part}_proj", size, HIDDEN)
        self.linear(f"{layer}{name}.down_proj", HIDDEN, size)

    def numbered_mlp(self, name: str, size: int = FEED_FORWARD) -> None:
        """An MLP whose matrices are called w1, w2 and w3."""
        for number, shape in ((1, (size, HIDDEN)), (2, (HIDDEN, size)), (3, (size, HIDDEN))):
            self.linear(f"{name}w{number}", *shape)

    def experts(self, layer: str) -> None:
        self.linear(f"{layer}mlp.gate", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            self.mlp(layer, HIDDEN, name=f"mlp.experts.{expert}")

    def packed_experts(self, name: str, rows: int, columns: int) -> None:
        """MXFP4 if the config has a quantization_config, else the same numbers transposed."""
        blocks = self._random.octets(0, 256, EXPERTS, rows, columns // 32, 16)
        scales = self._random.octets(119, 123, EXPERTS, rows, columns // 32)
        if "quantization_config" in self.config:
            self.tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            nibbles = np.stack((blocks & 15, blocks >> 4), axis=-1).reshape(EXPERTS, rows, columns // 32, 32)
            numbers = np.ldexp(np.array(FOUR_BITS, np.float32)[nibbles], scales[..., None].astype(np.int32) - 127)
            self.tensors[name] = numbers.reshape(EXPERTS, rows, columns).swapaxes(1, 2)
        self.add(f"{name}_bias", EXPERTS, rows)

    def mixer(self, name: str, inner: int, *, norm: bool = True) -> None:
        """A Mamba 2 mixer."""
        heads, groups, state, kernel = (
            next(self.config[key] for key in keys if key in self.config)
            for keys in (
                ("mamba_n_heads", "mamba_num_heads", "num_heads"),
                ("mamba_n_groups", "n_groups"),
                ("mamba_d_state", "ssm_state_size", "state_size"),
                ("mamba_d_conv", "conv_kernel"),
            )
        )
        inner_and_states = inner + 2 * groups * state
        self.linear(f"{name}in_proj", inner + inner_and_states + heads, HIDDEN)
        self.add(f"{name}conv1d.weight", inner_and_states, 1, kernel)
        self.add(f"{name}conv1d.bias", inner_and_states)
        self.add(f"{name}dt_bias", heads)
        self.decays(f"{name}A_log", heads)
        self.add(f"{name}D", heads)
        if norm:
            self.norm(f"{name}norm", inner)
        self.linear(f"{name}out_proj", HIDDEN, inner)

    def norms(self, layer: str, *names: str, size: int = HIDDEN, bias: bool = False) -> None:
        for name in names or ("input_layernorm", "post_attention_layernorm"):
            self.norm(f"{layer}{name}", size, bias=bias)


def plain_weights(weights: Weights) -> None:
    """Llama's structure, with biases if `attention_bias` is true."""
    weights.ends()
    bias = "qkvo" if weights.config.get("attention_bias") else ""
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias=bias)
        weights.mlp(layer)


def qwen2_weights(weights: Weights) -> None:
    weights.ends()
    for layer in weights.layers():
        weights.norms(layer)
        weights.attention(layer, bias="qkv")
        weights.mlp(layer)


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
YARN_4 = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


GRANITE = {
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}


MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": HIDDEN}


FOUR_LAYERS = {"num_hidden_layers": 4}  # in some families, only every fourth layer has full attention in llama.cpp


TIED = {"tie_word_embeddings": True}
