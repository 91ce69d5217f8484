"""Tokenizes texts by a GGUF's `tokenizer.*` fields as llama.cpp b10488 does (src/llama-vocab.cpp). Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from proxy.gguf.header import Field
from proxy.gguf.pretokenizers import BYTE_BY_CHARACTER
from proxy.gguf.sentencepiece import PieceType, TokenPiece
from proxy.gguf.tokens import SPACE
from proxy.tokenizing.bpe import byte_token, merge_by_rank, merge_by_score
from proxy.tokenizing.pre_tokenization import LINES, PATTERNS, split
from proxy.tokenizing.unigram import Normalizer, Unigram
from proxy.tokenizing.wordpiece import WordPiece

_END_TEXTS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    }
)
_FIM_TEXTS = {
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
"""Texts that are special tokens for llama.cpp, whatever their type. Of each kind only the first one present counts."""
_SPECIAL_TYPES: tuple[int, ...] = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)
_C_SPACES = " \t\n\v\f\r"
_WHOLE_WORDS = ("llama-bpe", "tekken")
"""For these pre-tokenizers llama.cpp does not merge a word that is a token, and adds BOS unless a field forbids it."""
_SARVAM = "sarvam-moe"
"""A pre-tokenizer for pieces, under the name of the byte-level tokenizer."""
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2},
    "bert": {"bos": 101, "seperator": 102, "unknown": 100},
    "gpt2": {"bos": 11, "eos": 11},
    "t5": {"eos": 1, "unknown": 2},
    "gemma4": {},
}
_CHARACTERS = {byte: character for character, byte in BYTE_BY_CHARACTER.items()}


class UnknownTokenizer(Exception):
    """The fields name a tokenizer that this package does not implement."""


class LlamaTokenizer:
    """Parses special tokens, as Ollama requests it from llama.cpp each time. `texts` has the tokens by id.

    Raises UnknownTokenizer for a model or pre-tokenizer that this package does not implement.
    """

    def __init__(self, metadata: Mapping[str, Field]) -> None:
        self._fields = metadata
        self._model = self._value("model")
        self.pre: str = self._value("pre", "")
        if self._model not in _DEFAULTS:
            raise UnknownTokenizer(f"the tokenizer model {self._model!r:.50}")
        self.texts: list[str] = [text or f"[EMPTY_{token_id}]" for token_id, text in enumerate(self._value("tokens"))]
        self._types: list[int] = self._value("token_type", [int(PieceType.NORMAL)] * len(self.texts))
        self._ids = {text: token_id for token_id, text in enumerate(self.texts)}
        self._adds_space = bool(self._value("add_space_prefix", self._model == "llama"))
        self.special_ids = frozenset(self._find_special_ids())
        self._longest_first = sorted(self.special_ids, key=lambda token_id: -len(self.texts[token_id].encode()))
        self._strips_before, self._strips_after = self._stripping_ids()
        self._encode_part = self._encoder()

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """With `add_special`, adds the tokens that begin and end each text.

        Raises KeyError for a character that this vocabulary cannot represent.
        """
        ids = list(self._begin()) if add_special else []
        after_special = True
        for part in self._partition(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                # Only SentencePiece BPE needs a space here; Unigram's normalizer adds its own.
                spaced = after_special and self._adds_space and self._model == "llama"
                ids += self._encode_part(f" {part}" if spaced else part)
            after_special = isinstance(part, int)
        return [*ids, *self._end()] if add_special else ids

    def unmade_tokens(self) -> list[str]:
        """The tokens of a byte-level BPE that llama.cpp makes of no word: of several bytes, and no merge has them."""
        if self.pre in _WHOLE_WORDS:
            return []
        made = {merge.replace(" ", "") for merge in self._value("merges")}
        normal = (text for text, kind in zip(self.texts, self._types, strict=True) if kind == PieceType.NORMAL)
        return [text for text in normal if len(text) > 1 and text not in made]

    def _value(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(f"tokenizer.ggml.{key}")
        return default if field is None else field.value

    def _role_id(self, role: str) -> int | None:
        """The id of the token with this role, such as "bos"."""
        token_id = self._value(f"{role}_token_id", _DEFAULTS[self._model].get(role))
        return token_id if isinstance(token_id, int) and token_id < len(self.texts) else None

    def _find_special_ids(self) -> Iterator[int]:
        special_texts = set(_END_TEXTS)
        for role, texts in _FIM_TEXTS.items():
            if self._value(f"{role}_token_id") is None:
                special_texts.update([text for text in texts.split() if text in self._ids][:1])
        # A vocabulary with both of these is Gemma 4's, where </s> is an HTML tag.
        html_tag = "</s>" if "<|tool_response>" in self._ids else None
        for token_id, (text, kind) in enumerate(zip(self.texts, self._types, strict=True)):
            if text != html_tag and (text in special_texts or kind in _SPECIAL_TYPES):
                yield token_id

    def _stripping_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """The tokens that remove the spaces before them, and those that remove the spaces after them."""
        name, architecture = (
            str(self._fields[key].value).lower() if key in self._fields else ""
            for key in ("general.name", "general.architecture")
        )
        if architecture in ("nomic-bert-moe", "jina-bert-v3"):
            return self._existing("<mask>"), frozenset()
        if "phi-3" in name or "phi3" in name:
            keeping = self._existing("<unk>", "<s>", "<|endoftext|>")
            return frozenset(), frozenset({*self.special_ids, *self._existing("</s>")} - keeping)
        return (self._existing("[MASK]") if "modern-bert" in name else frozenset()), frozenset()

    def _existing(self, *texts: str) -> frozenset[int]:
        return frozenset(self._ids[text] for text in texts if text in self._ids)

    def _partition(self, text: str) -> Iterable[str | int]:
        """Splits a text at its special tokens, the longest tokens first (tokenizer_st_partition)."""
        parts: list[str | int] = [text] if text else []
        for token_id in self._longest_first:
            special = self.texts[token_id]
            if special in text:
                parts = [piece for part in parts for piece in self._split_at(token_id, special, part)]
        return parts

    def _split_at(self, token_id: int, special: str, part: str | int) -> Iterator[str | int]:
        if isinstance(part, int):
            yield part
            return
        texts = part.split(special)
        for at, text in enumerate(texts):
            if at:
                yield token_id
            stripped = text.lstrip(_C_SPACES) if at and token_id in self._strips_after else text
            if at < len(texts) - 1 and token_id in self._strips_before:
                stripped = stripped.rstrip(_C_SPACES)
            if stripped:
                yield stripped

    def _begin(self) -> Iterator[int]:
        adds = self._model in ("llama", "bert") or self.pre in _WHOLE_WORDS
        bos = self._role_id("bos")
        if bos is not None and (self._value("add_bos_token", adds) or self._model in ("bert", "gemma4")):
            yield bos

    def _end(self) -> Iterator[int]:
        end = self._role_id("seperator" if self._model == "bert" else "eos")
        if end is not None and (self._model == "bert" or self._value("add_eos_token", self._model == "t5")):
            yield end

    def _encoder(self) -> Callable[[str], Iterable[int]]:
        match self._model:
            case "llama":
                scores = self._value("scores", [0.0] * len(self.texts))
                return lambda text: merge_by_score(text.replace(" ", SPACE), self._ids, scores)
            case "bert":
                return self._wordpiece().encode
            case "t5":
                return self._unigram().encode
            case "gemma4":
                return self._merged_pieces(whole_lines=True)
        return self._merged_pieces(whole_lines=False) if self.pre == _SARVAM else self._byte_level()

    def _wordpiece(self) -> WordPiece:
        lowercase = bool(self._value("normalizer.lowercase", True))
        return WordPiece(
            self._ids,
            self._role_id("unknown") or 0,
            longest=max(len(text.encode()) for text in self.texts),
            lowercase=lowercase,
            strip_accents=bool(self._value("normalizer.strip_accents", lowercase)),
        )

    def _unigram(self) -> Unigram:
        pieces = [TokenPiece(*entry) for entry in zip(self.texts, self._types, self._value("scores"), strict=True)]
        normalizer = Normalizer(
            bytes(self._value("precompiled_charsmap", [])),
            (piece.text for piece in pieces if piece.type == PieceType.USER_DEFINED),
            adds_space=self._adds_space,
            joins_spaces=bool(self._value("remove_extra_whitespaces", False)),
        )
        return Unigram(pieces, self._role_id("unknown") or 0, normalizer)

    def _ranks(self) -> Mapping[str, int]:
        """The rank of each merge, written as "left right". Of two equal merges the first one counts."""
        merges = self._value("merges")
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    def _byte_level(self) -> Callable[[str], Iterable[int]]:
        ranks = self._ranks()
        if self.pre not in PATTERNS:
            raise UnknownTokenizer(f"the pre-tokenizer {self.pre!r:.50}")
        whole = self.pre in _WHOLE_WORDS

        def encode(text: str) -> Iterator[int]:
            for part in split(text, PATTERNS[self.pre]):
                word = "".join(_CHARACTERS[byte] for byte in part.encode())
                yield from merge_by_rank(word, self._ids, ranks, whole=whole, bytes_of=tuple)

        return encode

    def _merged_pieces(self, *, whole_lines: bool) -> Callable[[str], Iterable[int]]:
        """With `whole_lines`, line ends that are one token need no merges."""
        ranks = self._ranks()

        def bytes_of(piece: str) -> list[str]:
            return [byte_token(byte) for byte in piece.encode()]

        def encode(text: str) -> Iterator[int]:
            for part in split(text.replace(" ", SPACE), LINES):
                whole = whole_lines and not part.strip("\n")
                yield from merge_by_rank(part, self._ids, ranks, whole=whole, bytes_of=bytes_of)

        return encode
