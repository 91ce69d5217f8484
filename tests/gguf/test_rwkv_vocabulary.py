"""RWKV's own vocabulary."""

from collections.abc import Mapping
from functools import partial

import pytest

from proxy.gguf.header import read_header
from proxy.gguf.model_config import CannotConvert
from tests.gguf.differences import llama_cpp_figures
from tests.gguf.tiny_repositories.rwkv_world import FIRST
from tests.gguf.writing import figures, plan
from tests.kit.tiny_conversions import repository, with_tokenizer_config

VOCABULARY, CONFIG = "rwkv_vocab_v20230424.txt", "tokenizer_config.json"
TOKENS = "tokenizer.ggml.tokens"
with_config = partial(with_tokenizer_config, "rwkv7")


def first_token(files: Mapping[str, bytes]) -> str:
    tokens = read_header(plan(files).header).metadata[TOKENS].value
    assert isinstance(tokens, list)
    return str(tokens[0])


def test_first_token_has_the_text_of_the_tokenizer() -> None:
    assert first_token(repository("rwkv7")) == FIRST
    assert first_token(with_config(added_tokens_decoder=None)) == FIRST
    assert first_token(with_config(added_tokens_decoder=None, bos_token=None)) == "<s>"


def test_all_other_tokens_are_those_of_llama_cpps_converter() -> None:
    header = read_header(plan(with_config(added_tokens_decoder=None, bos_token=None)).header)
    assert figures(header, b"")["metadata"][TOKENS] == llama_cpp_figures("rwkv7")["metadata"][TOKENS]


def test_added_token_of_the_vocabulary_is_accepted() -> None:
    added = {"0": {"content": FIRST}, "261": {"content": "\n\n"}}
    assert first_token(with_config(added_tokens_decoder=added)) == FIRST


@pytest.mark.parametrize(("token_id", "text"), [("261", "\n"), ("400", "<think>")])
def test_added_token_that_the_vocabulary_lacks_is_refused(token_id: str, text: str) -> None:
    with pytest.raises(CannotConvert, match=f"the token .*, which {VOCABULARY} does not have"):
        plan(with_config(added_tokens_decoder={token_id: {"content": text}}))


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (b"66 'A' 1", b"67 'A' 1"),
        (b"66 'A' 1", b"66 'A' 2"),
        (b"66 'A' 1", b"66 A 1"),
        (b"66 'A' 1", b"66 print('A') 1"),
        (b"66 'A' 1", b"66 1 1"),
        (b"66 'A' 1", b"66 'A'"),
        (b"66 'A' 1", b"66 " + b"(" * 3000 + b" 1"),
        (b"66 'A' 1", b"66 '" + b"A" * 5000 + b"' 5000"),
    ],
)
def test_line_that_is_no_token_is_refused(line: bytes, other: bytes) -> None:
    files = repository("rwkv7")
    assert line in files[VOCABULARY]
    with pytest.raises(CannotConvert, match=f"{VOCABULARY} has the invalid line"):
        plan({**files, VOCABULARY: files[VOCABULARY].replace(line, other)})


@pytest.mark.parametrize(
    ("line", "other", "reason"),
    [
        (b"66 'A' 1", b"66 '\xff' 1", "is not a text"),
        (b"261 '\\n\\n' 2", b"261 'qq' 2", "no token of two line ends"),
        (b"66 'A' 1", b"66 'B' 1", "two tokens with the text 'B'"),
    ],
)
def test_vocabulary_is_refused(line: bytes, other: bytes, reason: str) -> None:
    files = repository("rwkv7")
    assert line in files[VOCABULARY]
    with pytest.raises(CannotConvert, match=reason):
        plan({**files, VOCABULARY: files[VOCABULARY].replace(line, other)})


def test_repository_without_the_vocabulary_is_refused() -> None:
    files = {path: content for path, content in repository("rwkv7").items() if path != VOCABULARY}
    with pytest.raises(CannotConvert, match=f"no {VOCABULARY} that rwkv7 can use"):
        plan(files)
