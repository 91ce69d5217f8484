"""`Family`: everything that the converter knows about one family of models. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.gguf.families.common_tensors import QKV
from proxy.gguf.families.draft_layer import DraftLayer
from proxy.gguf.families.rules import Rule
from proxy.gguf.families.text_part import TextPart
from proxy.gguf.hyperparameters import BASIC, Pairs, Writer
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import TokenizerFiles

_LEGACY_NORM_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Norm parameters of files older than PyTorch's norms; transformers still reads them."""


@dataclass(frozen=True, slots=True)
class Family:
    """One declaration for each family. A stem is the name of a GGUF tensor without layer and ending: `attn_q`."""

    architecture: str
    """llama.cpp's name."""
    tensors: Mapping[str, Rule | str]
    """The rule for each tensor of the weights. A rule that is only a name is a Copy."""
    hyperparameters: tuple[Writer, ...] = BASIC
    tokenizers: tuple[str, ...] = ("bpe",)
    """The tokenizer types that llama.cpp's converter tries, in its order: `sentencepiece`, `merged pieces`, `bpe`,
    `wordpiece`, `unigram`, `rwkv`, `plamo`, `tiktoken`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """transformers' values for keys that config.json leaves out."""
    key_aliases: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json under which it has what everything here reads under the second name: `d_model` for
    `hidden_size`. `object.key` is a key within an object."""
    computed_tensors: Callable[[ModelConfig], Mapping[str, bytes]] = lambda _: {}
    """One-dimensional F32 tensors that are computed from config.json, such as RoPE frequencies."""
    single_numbers: Mapping[str, str] = field(default_factory=dict)
    """Tensors of one number, and the whole GGUF key that has it. With `{}` for the layer, the key has an array."""
    rope_types: frozenset[str] = frozenset({"default", "linear", "dynamic", "yarn"})
    """RoPE scaling types that the GGUF can express, or that change nothing within the original context."""
    accepted_values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys of config.json for which llama.cpp always assumes one of these values; any other value is refused."""
    tensor_flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Keys of config.json without which transformers ignores these tensors, by their names in a layer of the GGUF.
    Where the key is true, transformers takes missing biases as zeros, and random numbers for other missing tensors."""
    harmless_keys: frozenset[str] = frozenset()
    """Keys of transformers' config class that do not change the result."""
    has_transformers_class: bool = True
    """Whether transformers has a class for the family, which ignores unknown keys. Otherwise the repository brings its
    own code."""
    vocabulary: Callable[[ModelConfig, TokenizerFiles], Pairs] = lambda _config, _files: iter(())
    """Writes further tokenizer keys, which override the general ones."""
    merged_pieces: tuple[str, str | None] = ("gemma4", None)
    """llama.cpp's names of the tokenizer and of the pre-tokenizer for `merged pieces`."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """The texts of special tokens that llama.cpp's converter sets itself, by type: `eos`, `eot`, …"""
    added_from_json: bool = False
    """With a tokenizer.model: also read the added tokens of tokenizer.json; only the marked ones are special."""
    control_tokens: frozenset[str] = frozenset()
    """Added tokens of a byte-level BPE that are special although the tokenizer may not mark them."""
    unused_piece_prefix: str | None = None
    """How pieces of a tokenizer.model start that stand for nothing."""
    optional_tensors: frozenset[str] = frozenset()
    """Stems that a model of the family may leave out."""
    shapes: Mapping[str, str] = field(default_factory=dict)
    """Shapes that llama.cpp's loader expects, where proxy/gguf/loadable.py has none or another one for the stem."""
    heads_fill_embedding: bool = False
    """All heads together must be as wide as the embedding."""
    has_mixed_layers: bool = False
    """llama.cpp's loader finds out from the tensors which layers have experts, not from the metadata."""
    required_biases: frozenset[str] = frozenset()
    """Stems that llama.cpp loads only with a bias."""
    optional_biases: frozenset[str] = QKV
    """Stems that may have a bias. A bias on any other stem is refused."""
    skipped_prefixes: tuple[str, ...] = ()
    """How names of tensors start that only training uses."""
    checks_own_yarn: bool = False
    """llama.cpp computes the YaRN attention factor of this family differently; the family's writers check the keys."""
    yarn_keys: frozenset[str] = frozenset()
    """YaRN keys that may have unusual values: llama.cpp reads them for this family, or `caveat` reports them."""
    keeps_output: bool = False
    """Keep an output tensor of the weights even if config.json ties it to the embeddings: transformers 5 ties them only
    if they are equal."""
    has_local_rope: bool = False
    """Layers with a sliding window have their own RoPE parameters."""
    skips_extra_layers: bool = False
    """Skip layers beyond the configured number; they only help in training."""
    draft: DraftLayer | None = None
    """The layer for multi-token prediction, where llama.cpp's converter writes it and its graph runs it."""
    draft_layers: int = 0
    """How many draft layers the GGUF gets; proxy/gguf/draft.py sets it."""
    absent_tensors: Callable[[ModelConfig, int | None], Mapping[str, bool]] | None = None
    """The stems that a layer does not have according to config.json, and whether llama.cpp tolerates them anyway. The
    argument is the layer's number, or None for tensors outside of layers. If this is None, the tensors found in a layer
    decide what the layer is."""
    variant: "Callable[[ModelConfig], Family] | None" = None
    """Chooses the family by config.json if several share this name."""
    prefix_aliases: Mapping[str, str] = field(default_factory=dict)
    """How tensor names start in some repositories, and how they start in `tensors`."""
    renamed_parts: Mapping[str, str] = field(default_factory=dict)
    """Parts of tensor names, and what stands for them in `tensors`; after `prefix_aliases`."""
    caveat: Callable[[ModelConfig], str | None] = lambda _: None
    """A warning for the user if llama.cpp's result differs from that of the authors' model."""
    tokenizer_caveats: Callable[[TokenizerFiles], Iterable[str]] = lambda _: ()
    """The same for the tokenizer, as far as its files say it."""
    output_version: int = 2
    """Increase it when the converter makes another file of the same repository: the next pull of an installed model
    then makes it again."""
    embeds: bool = False
    """The model only embeds texts and generates nothing."""
    kept_quant_method: str | None = None
    """The `quant_method` of quantized weights that are kept as they are."""
    keeps_experts: Callable[[Mapping[str, Any]], bool] = lambda _: False
    """Whether config.json says that the experts are stored in MXFP4, which they keep."""
    text_part: TextPart | None = None
    """Set for multimodal models, of which only the text part is converted."""
    text_defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    """Defaults that depend on the text part's object in config.json."""

    def resolve(self, config: ModelConfig) -> "Family":
        """The family that this config.json selects. Raises CannotConvert for a variant that llama.cpp does not run."""
        return self.variant(config) if self.variant else self

    def config(self, fields: Mapping[str, Any]) -> ModelConfig:
        """config.json with the family's defaults. Raises CannotConvert if a multimodal one has no text part."""
        if self.text_part is None:
            self._check_aliases(fields)
            return ModelConfig({**self.defaults, **self.renamed(fields)})
        text = self.text_part.settings(fields)
        if text is None:
            raise CannotConvert(f"config.json has no {self.text_part.section}")
        defaults = {**self.defaults, **self.text_defaults(text)}
        ties = self.text_part.ties({**defaults, **fields}, text)
        return ModelConfig({**defaults, **fields, **text, **ties})

    def renamed(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """config.json with the names that `key_aliases` leads to."""
        return {self.key_aliases.get(key, key): value for key, value in self._flat(fields).items()}

    def _flat(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the objects that `key_aliases` names, but with their keys, as `object.key`."""
        outer = {key: value for key, value in fields.items() if key not in self._objects}
        inner = {key: value for key, value in fields.items() if key in self._objects and isinstance(value, dict)}
        return {**outer, **{f"{key}.{name}": one for key, value in inner.items() for name, one in value.items()}}

    @property
    def _objects(self) -> set[str]:
        return {alias.partition(".")[0] for alias in self.key_aliases if "." in alias}

    def _check_aliases(self, fields: Mapping[str, Any]) -> None:
        for key in self._objects & fields.keys():
            if not isinstance(fields[key], dict | None):
                raise CannotConvert(f"config.json has {key} = {shown(fields[key])}, which is not an object")
        flat = self._flat(fields)
        for alias, name in self.key_aliases.items():
            if alias in flat and name in flat and flat[alias] != flat[name]:
                raise CannotConvert(
                    f"config.json has {alias} = {shown(flat[alias])}, and {name} = {shown(flat[name])} for the same"
                )

    def name_in_rules(self, tensor: str) -> str | None:
        """The name by which `tensors` has a tensor of the weights; None for a tensor that is skipped."""
        name = tensor
        for prefix, replacement in (self.text_part.prefixes if self.text_part else self.prefix_aliases).items():
            if tensor.startswith(prefix):
                name = replacement + tensor.removeprefix(prefix)
                break
        for part, replacement in self.renamed_parts.items():
            name = name.replace(part, replacement)
        for ending, replacement in _LEGACY_NORM_ENDINGS.items():
            name = name.removesuffix(ending) + replacement if name.endswith(ending) else name
        skipped = (*self.skipped_prefixes, *(self.text_part.skipped_prefixes if self.text_part else ()))
        if self.draft and not self.draft_layers:
            skipped += self.draft.starts
        return None if name.startswith(skipped) or tensor.startswith(skipped) else name
