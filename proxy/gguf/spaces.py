"""Chooses `add_space_prefix`: whether a space stands before each text between special tokens. Pure.

llama.cpp puts a space before all of these texts or before none (src/llama-vocab.cpp at b10488). In tokenizer.json the
pre-tokenizer Metaspace decides for each text, so a rendered conversation shows which value fits.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.gguf.model_config import CannotConvert
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import SENTENCEPIECE, TOKENIZER
from proxy.gguf.tokens import SPACE

_SPACES_TO_UNDERSCORES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_SPACE_FIRST = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _SPACES_TO_UNDERSCORES]}
_NO_SPLITS = (None, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False})
"""Pre-tokenizers without an effect. The second, Gemma's, splits at spaces, but the normalizer leaves no space."""
_SCHEMES = ("always", "first", "never")


def space_prefix(tokenizer: Mapping[str, Any], specials: Sequence[str], sample: str) -> bool | None:
    """None if the normalizer or the pre-tokenizer is unknown for SentencePiece.

    `specials` are the texts of the special tokens, `sample` is a rendered conversation or "".
    """
    normalizer, pre_tokenizer = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    if normalizer in (_SPACE_FIRST, _SPACES_TO_UNDERSCORES) and pre_tokenizer in _NO_SPLITS:
        return bool(normalizer == _SPACE_FIRST)
    scheme = metaspace_scheme(pre_tokenizer)
    # llama.cpp merges over spaces: a Metaspace that splits words apart is another tokenizer.
    splits = not isinstance(pre_tokenizer, dict) or pre_tokenizer.get("split") is not False
    if normalizer is not None or scheme not in _SCHEMES or splits:
        return None
    if not sample:
        return scheme != "never"
    needed = [
        (scheme == "always" or (scheme == "first" and is_first)) and not text.startswith((" ", SPACE))
        for is_first, text in _between(sample, specials)
    ]
    # If the texts disagree, no value is right, and the comparison of tokens reports it.
    return needed.count(True) > needed.count(False)


def require_space_prefix(tokenizer: Mapping[str, Any]) -> bool:
    """`space_prefix` without a sample. Raises CannotConvert instead of returning None."""
    prefix = space_prefix(tokenizer, (), "")
    if prefix is None:
        raise CannotConvert(
            f"{TOKENIZER} has the normalizer {shown(tokenizer.get('normalizer'))} and the pre-tokenizer "
            f"{shown(tokenizer.get('pre_tokenizer'))}, unknown for SentencePiece without {SENTENCEPIECE}"
        )
    return prefix


def metaspace_scheme(step: object) -> object:
    """When a Metaspace puts a space before a text; None for any other step. Older files have `add_prefix_space`."""
    if not isinstance(step, dict) or step.get("type") != "Metaspace" or step.get("replacement") != SPACE:
        return None
    return step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")


def _between(sample: str, specials: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Each text between special tokens, and whether it is the start of the sample."""
    pattern = "|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True) if text)
    parts = re.split(pattern, sample) if pattern else [sample]
    for at, text in enumerate(parts):
        if text:
            yield at == 0, text
