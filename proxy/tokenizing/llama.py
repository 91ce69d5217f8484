"""The tokens that llama.cpp b10488 makes of a text by a GGUF's `tokenizer.*` fields (src/llama-vocab.cpp). Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from proxy.gguf.header import Field
from proxy.gguf.pretokenizers import BYTE_BY_CHARACTER
from proxy.gguf.sentencepiece import PieceType
from proxy.gguf.tokens import SPACE
from proxy.tokenizing import splitting
from proxy.tokenizing.merging import byte_token, merge_by_rank, merge_by_score
from proxy.tokenizing.unigram import Unigram
from proxy.tokenizing.wordpiece import match_words

_ENDS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    }
)
_FILLING = {
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
"""Texts that llama.cpp takes for special tokens, whatever their type says."""
_SPECIAL: tuple[int, ...] = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)
_C_SPACES = " \t\n\v\f\r"
_WHOLE_WORDS = ("llama-bpe", "tekken")
"""Pre-tokenizers by whose name llama.cpp takes a word that is a token before any merge, and begins a text with BOS."""
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2},
    "bert": {"bos": 101, "seperator": 102, "unknown": 100},
    "gpt2": {"bos": 11, "eos": 11},
    "t5": {"eos": 1, "unknown": 2},
    "gemma4": {},
}
_CHARACTERS = {byte: character for character, byte in BYTE_BY_CHARACTER.items()}


class UnknownTokenizer(Exception):
    """The fields name a tokenizer that is not imitated here."""


class LlamaTokenizer:
    """Special tokens are parsed, as Ollama asks for in each request.

    Raises UnknownTokenizer for another kind of tokenizer or pre-tokenizer.
    """

    def __init__(self, metadata: Mapping[str, Field]) -> None:
        self._fields = metadata
        self._model = self._value("model")
        self.pre: str = self._value("pre", "")
        if self._model not in _DEFAULTS:
            raise UnknownTokenizer(f"a tokenizer of the kind {self._model!r:.50}")
        self.texts: list[str] = [text or f"[EMPTY_{number}]" for number, text in enumerate(self._value("tokens"))]
        self.types: list[int] = self._value("token_type", [int(PieceType.NORMAL)] * len(self.texts))
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        self._adds_space = bool(self._value("add_space_prefix", self._model == "llama"))
        self.specials = frozenset(self._special_numbers())
        self._longest_first = sorted(self.specials, key=lambda number: -len(self.texts[number].encode()))
        self._eating_before, self._eating_behind = self._eaters()
        self._cut = self._session()

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """`add_special` also adds what begins and ends a text by the fields.

        Raises KeyError for a character that this vocabulary cannot hold at all.
        """
        numbers = list(self._begin()) if add_special else []
        after_special = True
        for part in self._partition(text):
            if isinstance(part, int):
                numbers.append(part)
            else:
                # Only SentencePiece's kind asks for a space here; Unigram's normalizer adds its own.
                spaced = after_special and self._adds_space and self._model == "llama"
                numbers += self._cut(f" {part}" if spaced else part)
            after_special = isinstance(part, int)
        return [*numbers, *self._end()] if add_special else numbers

    def _value(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(f"tokenizer.ggml.{key}")
        return default if field is None else field.value

    def _number(self, kind: str) -> int | None:
        number = self._value(f"{kind}_token_id", _DEFAULTS[self._model].get(kind))
        return number if isinstance(number, int) and number < len(self.texts) else None

    def _special_numbers(self) -> Iterator[int]:
        taken = set(_ENDS)
        for name, texts in _FILLING.items():
            if self._value(f"{name}_token_id") is None:
                taken.update([text for text in texts.split() if text in self.numbers][:1])
        # Where both are there, it is Gemma 4's, whose </s> is a tag of HTML.
        left = "</s>" if "<|tool_response>" in self.numbers else None
        for number, (text, kind) in enumerate(zip(self.texts, self.types, strict=True)):
            if text != left and (text in taken or kind in _SPECIAL):
                yield number

    def _eaters(self) -> tuple[frozenset[int], frozenset[int]]:
        """The tokens that take the spaces before them, and those that take the spaces behind them."""
        name, architecture = (
            str(self._fields[key].value).lower() if key in self._fields else ""
            for key in ("general.name", "general.architecture")
        )
        if architecture in ("nomic-bert-moe", "jina-bert-v3"):
            return self._existing("<mask>"), frozenset()
        if "phi-3" in name or "phi3" in name:
            keeping = self._existing("<unk>", "<s>", "<|endoftext|>")
            return frozenset(), frozenset({*self.specials, *self._existing("</s>")} - keeping)
        return (self._existing("[MASK]") if "modern-bert" in name else frozenset()), frozenset()

    def _existing(self, *texts: str) -> frozenset[int]:
        return frozenset(self.numbers[text] for text in texts if text in self.numbers)

    def _partition(self, text: str) -> Iterable[str | int]:
        """The text's special tokens and what lies between them (tokenizer_st_partition): the longest tokens first."""
        parts: list[str | int] = [text] if text else []
        for number in self._longest_first:
            special = self.texts[number]
            if special in text:
                parts = [piece for part in parts for piece in self._divided(part, number, special)]
        return parts

    def _divided(self, part: str | int, number: int, special: str) -> Iterator[str | int]:
        if isinstance(part, int):
            yield part
            return
        before, *behind = part.split(special)
        for at, text in enumerate([before, *behind]):
            if at:
                yield number
            left = text.lstrip(_C_SPACES) if at and number in self._eating_behind else text
            kept = left.rstrip(_C_SPACES) if at < len(behind) and number in self._eating_before else left
            if kept:
                yield kept

    def _begin(self) -> Iterator[int]:
        adds = self._model in ("llama", "bert") or self.pre in _WHOLE_WORDS
        bos = self._number("bos")
        if bos is not None and (self._value("add_bos_token", adds) or self._model in ("bert", "gemma4")):
            yield bos

    def _end(self) -> Iterator[int]:
        kind = "seperator" if self._model == "bert" else "eos"
        number = self._number(kind)
        if number is not None and (self._model == "bert" or self._value("add_eos_token", self._model == "t5")):
            yield number

    def _session(self) -> Callable[[str], Iterable[int]]:
        match self._model:
            case "llama":
                scores = self._value("scores", [0.0] * len(self.texts))
                return lambda text: merge_by_score(text.replace(" ", SPACE), self.numbers, scores)
            case "bert":
                return self._words()
            case "t5":
                return self._unigram().encode
            case "gemma4":
                return self._merged_pieces()
        return self._byte_level()

    def _words(self) -> Callable[[str], Iterable[int]]:
        lowercase = bool(self._value("normalizer.lowercase", True))
        strip_accents = bool(self._value("normalizer.strip_accents", lowercase))
        longest = max(len(text.encode()) for text in self.texts)
        unknown = self._number("unknown") or 0
        return lambda text: match_words(
            text, self.numbers, unknown, longest, lowercase=lowercase, strip_accents=strip_accents
        )

    def _unigram(self) -> Unigram:
        return Unigram(
            self.texts,
            self._value("scores"),
            self.types,
            self._number("unknown") or 0,
            bytes(self._value("precompiled_charsmap", [])),
            adds_space=self._adds_space,
            joins_spaces=bool(self._value("remove_extra_whitespaces", False)),
        )

    def _ranks(self) -> Mapping[str, int]:
        """By both halves with a space between them, of which neither has one; the first of equal ones counts."""
        merges = self._value("merges")
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    def _byte_level(self) -> Callable[[str], Iterable[int]]:
        ranks = self._ranks()
        if self.pre not in splitting.CUTS:
            raise UnknownTokenizer(f"the pre-tokenizer {self.pre!r:.50}")
        whole = self.pre in _WHOLE_WORDS

        def encode(text: str) -> Iterator[int]:
            for part in splitting.split(text, splitting.CUTS[self.pre]):
                word = "".join(_CHARACTERS[byte] for byte in part.encode())
                yield from merge_by_rank(word, self.numbers, ranks, whole=whole, bytes_of=tuple)

        return encode

    def _merged_pieces(self) -> Callable[[str], Iterable[int]]:
        ranks = self._ranks()

        def bytes_of(piece: str) -> list[str]:
            return [byte_token(byte) for byte in piece.encode()]

        def encode(text: str) -> Iterator[int]:
            for part in splitting.split(text.replace(" ", SPACE), splitting.LINES):
                is_lines = not part.strip("\n")
                yield from merge_by_rank(part, self.numbers, ranks, whole=is_lines, bytes_of=bytes_of)

        return encode
