"""Checks a GGUF that others wrote for what ends the loader of llama.cpp. Pure.

A GGUF that the loader takes must pass, so a check is left out where versions of llama.cpp, or Ollama's own changes to
it, differ. The rules are those of `gguf_init_from_file` (gguf.cpp), `llama_vocab::impl::load` (llama-vocab.cpp) and
`create_tensor` (llama-model-loader.cpp), at b10488 and in Ollama 0.24.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from proxy.gguf.families import FAMILIES
from proxy.gguf.header import Field, GgufHeader, ValueType
from proxy.gguf.special_tokens import PHI3_TOKENS, is_named_phi3, unlike_phi3
from proxy.gguf.tensors import GgufError, TensorInfo, TensorName, padding, shown
from proxy.gguf.tokens import first_duplicate

MAX_NAME_BYTES = 63
MODEL, TOKENS, PRE = "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.pre"
NO_VOCABULARY = ("no_vocab", "none")
NAME = "general.name"
_MASK_TOKENIZERS = ("jina-v2-de", "jina-v2-es", "jina-v2-code")
_MASK_ARCHITECTURES = ("nomic-bert-moe", "jina-bert-v3")
"""The loader does not look at the name of a model with these."""
_SIZED_LIKE_TOKENS = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_ODD_NAME = re.compile(r"blk\.(?!\d{1,6}\.)")
"""Begins like the name of a layer's tensor, and is none."""
_EQUAL = """
arcee command-r exaone falcon gemma gemma2 gptneox granite internlm2 llama minicpm nemotron olmo2 phi2 phi3 qwen2
qwen3 seed_oss smollm3 stablelm starcoder2
"""
_EQUAL_LAYERS = frozenset(_EQUAL.split())
"""Decoders that need all of _NEEDED, and whose layers all have the same tensors, unless the model has experts."""
_NEEDED = ("token_embd.weight", "output_norm.weight")
_SHAPES = {
    "token_embd": ("embedding_length",),
    "output": ("embedding_length",),
    "output_norm": ("embedding_length",),
    "attn_norm": ("embedding_length",),
    "ffn_norm": ("embedding_length",),
    "ffn_down": ("feed_forward_length", "embedding_length"),
}
"""The first numbers of a weight's shape, by keys of the metadata that each of these models has."""


def check_vocabulary(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> None:
    """Raises GgufError for a vocabulary that llama.cpp does not load, or that does not fit the embedding."""
    model, tokens = metadata.get(MODEL), metadata.get(TOKENS)
    if model is None or tokens is None or model.value in NO_VOCABULARY:
        return
    if tokens.item_kind is not ValueType.STRING:
        raise GgufError(f"{TOKENS} is not a list of texts")
    for key in _SIZED_LIKE_TOKENS:
        if key in metadata and (length := metadata[key].length) < tokens.length:
            raise GgufError(f"it has {tokens.length} tokens, but {key} has {length} values")
    # llama.cpp gives each empty token a text of its own.
    if (token := first_duplicate(filter(None, tokens.texts()))) is not None:
        raise GgufError(f"it has two tokens with the text {shown(token.decode(errors='replace'))}")
    pre = metadata[PRE].value if PRE in metadata else ""
    if model.value == "gpt2" and pre != "kimi-k2" and "tokenizer.ggml.merges" not in metadata:
        raise GgufError("its tokenizer has no tokenizer.ggml.merges")
    if _dies_of_its_name(metadata):
        raise GgufError(
            f"{NAME} is {shown(metadata[NAME].value)}, so llama.cpp expects the tokens of Phi-3 "
            f"({', '.join(PHI3_TOKENS)}), and it does not have them all"
        )
    rows = next(
        (tensor.shape[1] for tensor in tensors if tensor.name == "token_embd.weight" and tensor.shape[1:]), None
    )
    is_known = any(family.architecture == _architecture(metadata) for family in FAMILIES.values())
    if is_known and rows not in (None, tokens.length):
        raise GgufError(f"it has {tokens.length} tokens, but token_embd.weight has {rows} rows")


def check_layout(header: GgufHeader) -> None:
    """Raises GgufError for a file that has to stay as it is and whose tensors are not one after another."""
    end = 0
    for tensor in header.tensors:
        if tensor.offset != end:
            raise GgufError(f"the tensor {shown(tensor.name)} is at byte {tensor.offset} of the data instead of {end}")
        end += tensor.size + padding(tensor.size, header.alignment)


def check_tensors(metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> None:
    """Raises GgufError for tensors that do not fit the metadata."""
    for tensor in tensors:
        if len(tensor.name.encode()) > MAX_NAME_BYTES:
            raise GgufError(f"the name of the tensor {shown(tensor.name)} has more than {MAX_NAME_BYTES} bytes")
    architecture = _architecture(metadata)
    if architecture not in _EQUAL_LAYERS:
        return
    tensors = [tensor for tensor in tensors if not _ODD_NAME.match(tensor.name)]
    for tensor in tensors:
        name = TensorName.of(tensor.name)
        for actual, key in zip(tensor.shape, _SHAPES.get(name.stem, ()) if name.end == "weight" else (), strict=False):
            size = _size(metadata.get(f"{architecture}.{key}"), name.block)
            if size not in (None, actual):
                raise GgufError(
                    f"the tensor {shown(tensor.name)} has the shape {list(tensor.shape)}, but {key} is {size}"
                )
    _check_layers(architecture, metadata, tensors)


def without_misleading_name(metadata: Mapping[str, Field]) -> dict[str, Field]:
    """The metadata of a file that is written anew; with another `general.name` if this one ends the loader."""
    if not _dies_of_its_name(metadata):
        return dict(metadata)
    return {**metadata, NAME: Field.string(unlike_phi3(str(metadata[NAME].value)))}


def _dies_of_its_name(metadata: Mapping[str, Field]) -> bool:
    """Whether the loader looks for tokens of Phi-3 that are not there: `unordered_map::at` ends it."""
    name, pre, tokens = metadata.get(NAME), metadata.get(PRE), metadata.get(TOKENS)
    if name is None or not is_named_phi3(str(name.value)) or tokens is None or tokens.item_kind is not ValueType.STRING:
        return False
    if any(part in _architecture(metadata) for part in _MASK_ARCHITECTURES):
        return False
    if pre is not None and any(part in str(pre.value) for part in _MASK_TOKENIZERS):
        return False
    return not {text.encode() for text in PHI3_TOKENS} <= set(tokens.texts())


def _check_layers(architecture: str, metadata: Mapping[str, Field], tensors: Sequence[TensorInfo]) -> None:
    count = _size(metadata.get(f"{architecture}.block_count"), None)
    experts = metadata.get(f"{architecture}.expert_count")
    names = [TensorName.of(tensor.name) for tensor in tensors]
    layers = Counter(name.rest for name in names if name.block is not None and name.end == "weight")
    if count is None or (experts is not None and experts.value) or not layers:
        return
    if beyond := {name.block for name in names if name.block is not None and name.block >= count}:
        raise GgufError(f"it has tensors of layer {min(beyond)}, but block_count is {count}")
    if missing := next((rest for rest, number in layers.items() if number < count), None):
        present = {name.block for name in names if name.rest == missing}
        block = next(block for block in range(count) if block not in present)
        raise GgufError(f"the tensor {TensorName(block, missing).full} is missing, which other layers have")
    names_present = {name.full for name in names}
    needed = next((name for name in _NEEDED if name not in names_present), None)
    if needed and MODEL in metadata:
        raise GgufError(f"the tensor {needed} is missing")


def _size(field: Field | None, block: int | None) -> int | None:
    """The value for a layer, if each layer has its own; None if it is unknown."""
    value = field.value if field is not None else None
    if isinstance(value, list):
        value = value[block] if block is not None and block < len(value) else None
    return value if isinstance(value, int) and value >= 0 else None


def _architecture(metadata: Mapping[str, Field]) -> str:
    field = metadata.get("general.architecture")
    return str(field.value) if field is not None else ""
