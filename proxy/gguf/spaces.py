"""Whether llama.cpp puts a space before each text between special tokens, as a SentencePiece tokenizer.json does. Pure.

llama.cpp puts one before all of these texts or before none (`add_space_prefix`, src/llama-vocab.cpp at b10488). The
step Metaspace decides text by text, so that a rendered conversation has to show which of both it needs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proxy.gguf.config import CannotConvert
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import SENTENCEPIECE, TOKENIZER
from proxy.gguf.tokens import SPACE

UNDERSCORES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_SPACE_FIRST = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, UNDERSCORES]}
_NO_CUTS = (None, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False})
"""The second cuts at spaces, of which the normalizer leaves none: Gemma's."""
_SCHEMES = ("always", "first", "never")


def space_prefix(tokenizer: Mapping[str, Any], specials: Sequence[str], sample: str) -> bool | None:
    """`specials` are the texts of the special tokens, `sample` is a rendered conversation or "".

    None where the normalizer and the pre-tokenizer are not known for SentencePiece.
    """
    normalizer, pre_tokenizer = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    if normalizer in (_SPACE_FIRST, UNDERSCORES) and pre_tokenizer in _NO_CUTS:
        return bool(normalizer == _SPACE_FIRST)
    scheme = _metaspace_scheme(pre_tokenizer)
    if normalizer is not None or scheme is None:
        return None
    if not sample:
        return scheme != "never"
    wanted = [
        (scheme == "always" or (scheme == "first" and is_first)) and not text.startswith((" ", SPACE))
        for is_first, text in _between(sample, specials)
    ]
    # Where the texts disagree, no value is right, and the comparison of the tokens finds it.
    return wanted.count(True) > wanted.count(False)


def known_space_prefix(tokenizer: Mapping[str, Any], specials: Sequence[str], sample: str) -> bool:
    """The same, for a repository without a tokenizer.model. Raises CannotConvert for what is not known."""
    prefix = space_prefix(tokenizer, specials, sample)
    if prefix is None:
        raise CannotConvert(
            f"{TOKENIZER} has the normalizer {shown(tokenizer.get('normalizer'))} and the pre-tokenizer "
            f"{shown(tokenizer.get('pre_tokenizer'))}, which are not known for SentencePiece without {SENTENCEPIECE}"
        )
    return prefix


def _metaspace_scheme(step: object) -> str | None:
    """One that cuts words apart is another tokenizer: llama.cpp merges over spaces."""
    if not isinstance(step, dict) or step.get("type") != "Metaspace" or step.get("replacement") != SPACE:
        return None
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    return scheme if step.get("split") is False and scheme in _SCHEMES else None


def _between(sample: str, specials: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """The texts between special tokens, and whether the sample begins with this one."""
    pattern = "|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True) if text)
    parts = re.split(pattern, sample) if pattern else [sample]
    for at, text in enumerate(parts):
        if text:
            yield at == 0, text
