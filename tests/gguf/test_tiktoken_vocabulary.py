"""Vocabularies of tiktoken."""

import base64
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from proxy.gguf.header import read_header
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.sentencepiece import PieceType
from proxy.gguf.tiktoken_vocabulary import read_tiktoken
from proxy.gguf.tokenizer_files import TokenizerFiles
from tests.gguf.tiny_repositories.tiktoken import (
    CODE,
    GLM,
    GLM_CODE,
    LISTED,
    PATTERNS,
    RESERVED,
    VOCABULARY,
    token_lines,
)
from tests.gguf.tiny_repositories.tokenizer import dump
from tests.gguf.writing import plan
from tests.kit.tiny_conversions import repository, with_tokenizer_config

CONFIG = "tokenizer_config.json"
BYTES = [bytes([byte]) for byte in range(256)]
with_config = partial(with_tokenizer_config, "kimi_k2")


def merges(tokens: list[bytes]) -> list[tuple[str, str]]:
    files = {**repository("kimi_k2"), VOCABULARY: token_lines([*BYTES, *tokens])}
    config = {**json.loads(files[CONFIG]), "added_tokens_decoder": {}}
    made = read_tiktoken(TokenizerFiles.read({**files, CONFIG: dump(config)}))["model"]["merges"]
    assert isinstance(made, list)
    return made


def metadata(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {key: field.value for key, field in read_header(plan(files).header).metadata.items()}


def test_merge_has_the_two_parts_that_lower_ranks_make() -> None:
    assert merges([b"bc", b"ab", b"abc"]) == [("b", "c"), ("a", "b"), ("a", "bc")]
    assert merges([b"ab", b"bc", b"abc"]) == [("a", "b"), ("b", "c"), ("ab", "c")]
    assert merges([b"aa", b"aaaa"]) == [("a", "a"), ("aa", "aa")]


def test_token_that_lower_ranks_leave_in_three_parts_has_no_merge() -> None:
    assert merges([b"abc", b"xy"]) == [("x", "y")]


def test_only_marked_and_reserved_tokens_are_special() -> None:
    made = metadata(repository("kimi_k2"))
    types = dict(zip(made["tokenizer.ggml.tokens"], made["tokenizer.ggml.token_type"], strict=True))
    first = len(types) - RESERVED
    user_defined = [text for text, kind in types.items() if kind == PieceType.USER_DEFINED]
    control = [text for text, kind in types.items() if kind == PieceType.CONTROL]
    assert user_defined == ["<think>", "</think>"]
    assert len(control) == RESERVED - len(user_defined)
    assert {"[BOS]", "<|tool_call_begin|>", f"<|reserved_token_{first + 5}|>", "[PAD]"} <= set(control)


def test_reserved_tokens_without_a_row_are_left_out() -> None:
    """The weights have as many rows as config.json says."""
    files = repository("kimi_k2")
    assert len(metadata(files)["tokenizer.ggml.tokens"]) == len(files[VOCABULARY].splitlines()) + RESERVED
    config = {**json.loads(files["config.json"]), "vocab_size": 620, "pad_token_id": None}
    with pytest.raises(CannotConvert, match=r"token_embd\.weight is to have the shape \[256, 620\]"):
        plan({**files, "config.json": dump(config)})


def test_tokenizer_json_is_read_instead() -> None:
    files = {**repository("kimi_k2"), "tokenizer.json": repository("deepseek3")["tokenizer.json"]}
    assert metadata({**files, CONFIG: repository("deepseek3")[CONFIG]})["tokenizer.ggml.pre"] == "qwen2"


def test_lines_may_end_with_cr() -> None:
    files = repository("kimi_k2")
    other = {**files, VOCABULARY: files[VOCABULARY].replace(b"\n", b"\r\n")}
    assert plan(other).header == plan(files).header


@pytest.mark.parametrize(
    "line",
    [
        b"Qg== 65",
        b"Qg== 67",
        b"Qg==",
        b"Qg== 66 66",
        b"Qg== x",
        b"Q* 66",
        b"Qg 66",
        b" 66",
        b"",
        b"\xff 66",
        base64.b64encode(b"x" * 513) + b" 66",
    ],
)
def test_line_that_is_no_token_is_refused(line: bytes) -> None:
    files = repository("kimi_k2")
    assert b"Qg== 66\n" in files[VOCABULARY]
    with pytest.raises(CannotConvert, match=f"{VOCABULARY} has the invalid line"):
        plan({**files, VOCABULARY: files[VOCABULARY].replace(b"Qg== 66", line)})


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [(BYTES[:255], "no token for 1 of the 256 bytes"), ([*BYTES, b"A"], "the same token twice"), ([], "256 bytes")],
)
def test_vocabulary_is_refused(tokens: list[bytes], reason: str) -> None:
    with pytest.raises(CannotConvert, match=f"{VOCABULARY} has .*{reason}"):
        plan({**repository("kimi_k2"), VOCABULARY: token_lines(tokens)})


@pytest.mark.parametrize(
    "code",
    [b"", PATTERNS[0].encode(), b'r"""' + PATTERNS[0].encode() + b'"""', b"\xff"],
)
def test_unknown_pattern_is_refused(code: bytes) -> None:
    with pytest.raises(CannotConvert, match=f"{CODE} splits texts in an unknown way"):
        plan({**repository("kimi_k2"), CODE: code})


def test_repository_without_its_code_is_refused() -> None:
    files = {path: content for path, content in repository("kimi_k2").items() if path != CODE}
    with pytest.raises(CannotConvert, match=f"the repository has no {CODE}, where its tokenizer has the pattern"):
        plan(files)


@pytest.mark.parametrize("auto_map", [None, {}, {"AutoTokenizer": None}, {"AutoTokenizer": [None]}, ["x"]])
def test_code_that_no_file_names_is_refused(auto_map: object) -> None:
    with pytest.raises(CannotConvert, match=f"{CONFIG} does not say which code reads {VOCABULARY}"):
        plan(with_config(auto_map=auto_map))


def test_auto_map_may_be_a_text() -> None:
    files = with_config(auto_map={"AutoTokenizer": "tokenization_kimi.TikTokenTokenizer"})
    assert plan(files).header == plan(repository("kimi_k2")).header


def test_added_token_with_the_id_of_another_is_refused() -> None:
    with pytest.raises(CannotConvert, match=f"'<x>' with the id 300, which another token has in {VOCABULARY}"):
        plan(with_config(added_tokens_decoder={"300": {"content": "<x>", "special": True}}))


def test_two_special_tokens_with_one_text_are_refused() -> None:
    with pytest.raises(CannotConvert, match=rf"{CONFIG} has two tokens with the text '\[BOS\]'"):
        plan(with_config(added_tokens_decoder={str(at): {"content": "[BOS]"} for at in (369, 370)}))


HUNYUAN, HUNYUAN_CODE = "hy.tiktoken", "tokenization_hy.py"


def with_code(name: str, path: str, old: str, new: str) -> dict[str, bytes]:
    files = repository(name)
    assert old.encode() in files[path]
    return {**files, path: files[path].replace(old.encode(), new.encode())}


@pytest.mark.parametrize(("name", "path"), [("hunyuan_moe", HUNYUAN), ("qwen1", "qwen.tiktoken")])
def test_special_tokens_are_those_of_the_code(name: str, path: str) -> None:
    """They follow the vocabulary, and each is special."""
    made = metadata(repository(name))
    types = dict(zip(made["tokenizer.ggml.tokens"], made["tokenizer.ggml.token_type"], strict=True))
    assert tuple(types)[-len(LISTED[path]) :] == LISTED[path]
    assert [text for text, kind in types.items() if kind == PieceType.CONTROL] == list(LISTED[path])


def test_special_tokens_may_start_after_the_vocabulary_without_a_number() -> None:
    """So does the first code of Qwen."""
    files = repository("qwen1")
    code = files["tokenization_qwen.py"]
    older = b"\n".join(line for line in code.splitlines() if not line.startswith(b"SPECIAL"))
    older += b"\nSPECIAL_TOKENS = (\n    ENDOFTEXT,\n    IMSTART,\n    IMEND,\n) + EXTRAS\n"
    assert plan({**files, "tokenization_qwen.py": older}).header == plan(files).header


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("PAT_STR = r", "PATTERN = r", "splits texts in an unknown way"),
        ("# PAT_STR", "PAT_STR", "splits texts in an unknown way"),
        (r"|\p{N}|", r"|\p{N}{1,2}|", "splits texts in an unknown way"),
        ("SPECIAL_START_ID = ", "SPECIAL_START_ID = 1", "has the first special token at another place"),
        ("EXTRAS = tuple(", "EXTRAS = list(", "lists the special tokens in an unknown way"),
        ("+ EXTRAS", "+ OTHERS", "lists the special tokens in an unknown way"),
        ("BOSTOKEN = ", "BEGIN = ", "lists the special tokens in an unknown way"),
    ],
)
def test_code_that_says_something_else_is_refused(old: str, new: str, reason: str) -> None:
    with pytest.raises(CannotConvert, match=reason):
        plan(with_code("hunyuan_moe", HUNYUAN_CODE, old, new))


def test_more_words_from_another_file_are_refused() -> None:
    files = with_tokenizer_config("hunyuan_moe", extra_vocab_file="more.tiktoken")
    with pytest.raises(CannotConvert, match="lists the special tokens in an unknown way"):
        plan(files)


def test_pattern_may_be_an_ordinary_text() -> None:
    """GLM-4's has each backslash twice. By this name, llama.cpp does not merge a word that is a token either."""
    made = metadata(repository("chatglm"))
    assert made["tokenizer.ggml.pre"] == "llama-bpe"
    assert made["tokenizer.ggml.add_bos_token"] is False
    with pytest.raises(CannotConvert, match=f"{GLM_CODE} splits texts in an unknown way"):
        plan(with_code("chatglm", GLM_CODE, "{1,3}", "{1,2}"))


def test_glm_4s_special_tokens_are_all_named() -> None:
    files = repository("chatglm")
    listed = b'        self.special_tokens = ["<|endoftext|>", "[MASK]",\n            "%s"]\n'
    same = {**files, GLM_CODE: files[GLM_CODE] + listed % b"<|user|>"}
    assert plan(same).header == plan(files).header
    for other in (
        {**files, GLM_CODE: files[GLM_CODE] + listed % b"<|observation|>"},
        with_tokenizer_config("chatglm", added_tokens_decoder={}),
    ):
        with pytest.raises(CannotConvert, match=f"{CONFIG} does not name all special tokens"):
            plan(other)


def test_pieces_named_like_glm_4s_vocabulary_are_refused() -> None:
    """llama.cpp would find ChatGLM 3's token `eop` in each "people"."""
    files = {**repository("chatglm"), GLM: repository("llama_pieces")[GLM]}
    with pytest.raises(CannotConvert, match="the special tokens sop and eop within words, such as people"):
        plan(files)
