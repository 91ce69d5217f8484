"""Tiny SentencePiece BPE tokenizers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from tests.gguf.tiny_repositories.tokenizer import (
    SPACE,
    WORDS,
    Tokenizer,
    decoder_of,
    dump,
    frequent_merges,
)
from tests.kit.protobuf import bytes_field, piece_field
from tests.kit.tiny_tokenizers import added_token

PIECES_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def pieces_model(texts: Iterable[str], merges: Sequence[str | list[str]]) -> dict[str, Any]:
    """`model` of a tokenizer.json."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {text: number for number, text in enumerate(texts)},
        "merges": merges,
    }


@cache
def sentence_pieces(*, model: bool = True, added: bool = False) -> Tokenizer:
    """`model` includes tokenizer.model; `added` adds tokens after its pieces."""
    words = Counter((SPACE, *word) for word in WORDS)
    characters = sorted({*SPACE, *"".join(WORDS), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:'"})
    merges = list(frequent_merges(words, 200))
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(a + b, -float(rank), 1) for rank, (a, b) in enumerate(merges)]
    pieces += [(text, -float(len(merges) + at), 1) for at, text in enumerate(characters)]
    content = b"".join(piece_field(*piece) for piece in pieces)
    content += bytes_field(2, b"\x18\x02\x98\x02\x01") + bytes_field(3, bytes_field(1, b"identity") + b"\x20\x00")
    tokens = [added_token(text, number) for number, text in enumerate(("<unk>", "<s>", "</s>"))]
    tokens += [added_token(text, len(pieces) + at) for at, text in enumerate(("[INST]", "[/INST]") if added else ())]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": pieces_model((text for text, _, _ in pieces), [f"{a} {b}" for a, b in merges]),
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder_of(tokens),
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": PIECES_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "LlamaTokenizer",
    }
    files = {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(config)}
    if model:
        files["tokenizer.model"] = content
    rows = len(pieces) + (2 if added else 0)
    return Tokenizer(files, rows, {"bos": 1, "eos": 2})


def instruct_pieces() -> Tokenizer:
    return sentence_pieces(added=True)
