"""Reads RWKV's own vocabulary, a text file with a Python literal for each token. Pure."""

import ast
from collections.abc import Iterator, Sequence

from proxy.gguf.header import Field
from proxy.gguf.hyperparameters import Pairs
from proxy.gguf.model_config import CannotConvert, ModelConfig
from proxy.gguf.sentencepiece import MAX_TOKENS
from proxy.gguf.sentencepiece import PieceType as Type
from proxy.gguf.tensors import shown
from proxy.gguf.tokenizer_files import RWKV, TOKENIZER_CONFIG, TokenizerFiles, read_added_tokens_decoder
from proxy.gguf.tokens import Tokens

_MAX_LINE = 4096
"""Characters; the longest token of the known vocabulary has 128 bytes."""
_FIRST, _LINE_ENDS = "<s>", b"\n\n"
_PARTS = 3


def read_rwkv(config: ModelConfig, files: TokenizerFiles) -> Tokens:
    """The token 0, which the file leaves out, has the text that tokenizer_config.json gives it.

    llama.cpp's converter always writes `<s>`: then a chat template does not begin with the token, but with its text.
    Raises CannotConvert for a file that is not such a vocabulary, and for added tokens that it does not have.
    """
    texts = list(_read(files.rwkv or b""))
    tokens = Tokens.empty(config.count("vocab_size"), scored=False)
    tokens.put(0, _first_text(files, texts), Type.CONTROL)
    for token_id, text in enumerate(texts, 1):
        # "b'\xff'" becomes "\xff"; llama.cpp reads it so.
        tokens.put(token_id, repr(text)[2:-1], Type.NORMAL)
    return tokens


def _first_text(files: TokenizerFiles, texts: Sequence[bytes]) -> str:
    first, bos = _FIRST, files.config.get("bos_token")
    if isinstance(bos, str):
        first = bos
    for token_id, token in read_added_tokens_decoder(files):
        if token_id == 0:
            first = token["content"]
        elif token_id > len(texts) or texts[token_id - 1] != token["content"].encode():
            raise CannotConvert(
                f"{TOKENIZER_CONFIG} has the token {shown(token['content'])}, which {RWKV} does not have"
            )
    return repr(first.encode())[2:-1]


def write_ends(tokens: Tokens) -> Pairs:
    """Two line ends end an answer, as in all chats that RWKV is trained with; llama.cpp's converter has them too."""
    yield "bos_token_id", Field.uint32(0)
    yield "eos_token_id", Field.uint32(0)
    text = repr(_LINE_ENDS)[2:-1]
    if text not in tokens.texts:
        raise CannotConvert(f"{RWKV} has no token of two line ends, which end an answer")
    yield "eot_token_id", Field.uint32(tokens.texts.index(text))


def _read(content: bytes) -> Iterator[bytes]:
    try:
        lines = content.decode().split("\n", MAX_TOKENS)
    except UnicodeDecodeError as error:
        raise CannotConvert(f"{RWKV} is not a text: {error}") from error
    for token_id, line in enumerate(filter(None, lines), 1):
        parts = line.split(" ")
        text = _literal(" ".join(parts[1:-1])) if len(parts) >= _PARTS and len(line) <= _MAX_LINE else None
        if text is None or parts[0] != str(token_id) or parts[-1].strip() != str(len(text)):
            raise CannotConvert(f"{RWKV} has the invalid line {shown(line[:100])}")
        yield text


def _literal(text: str) -> bytes | None:
    """The bytes of a literal; a text as UTF-8. None for anything else."""
    try:
        value = ast.literal_eval(text)
        return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
