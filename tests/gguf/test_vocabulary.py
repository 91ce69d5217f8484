"""Metadata from the tokenizer files: tokens, special tokens and pre-tokenizers."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gguf.families import FAMILIES
from proxy.gguf.header import read_header
from proxy.gguf.model_config import CannotConvert
from proxy.gguf.pretokenizers import name_pre_tokenizer
from proxy.gguf.tokenizer_files import TokenizerFiles
from proxy.gguf.vocabulary import adds_bos
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.byte_level import byte_pairs
from tests.gguf.tiny_repositories.gemma import gemma4_pieces
from tests.gguf.tiny_repositories.sentencepiece import sentence_pieces
from tests.gguf.tiny_repositories.tokenizer import dump, edit_tokenizer
from tests.gguf.writing import plan, plan_of
from tests.kit.protobuf import bytes_field
from tests.kit.tiny_conversions import ODD_VALUES, check_refused_or_valid, plan_with, repository, small_files
from tests.kit.tiny_tokenizers import added_token

ADD_BOS = "tokenizer.ggml.add_bos_token"


@pytest.mark.parametrize("has_decoder", [False, True])
def test_added_tokens_of_tokenizer_json_win(has_decoder: bool) -> None:
    """Often no other file has the tokens after those of tokenizer.model, or the new names of a fine-tune."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        last = max(files["tokenizer.json"]["model"]["vocab"].values())
        added += [added_token("<|im_start|>", last + 1), added_token("<|plain|>", last + 2, special=False)]
        added.append(added_token("<|renamed|>", last))
        if not has_decoder:
            del files["tokenizer_config.json"]["added_tokens_decoder"]

    tokenizer = edit_tokenizer(sentence_pieces(), change, rows=2)
    files = replace(REPOSITORIES["llama-2"], tokenizer=lambda: tokenizer).files()
    header = read_header(plan(files).header)
    tokens, types = (header.get(f"tokenizer.ggml.{key}", list) or [] for key in ("tokens", "token_type"))
    assert tokens[-3:] == ["<|renamed|>", "<|im_start|>", "<|plain|>"]
    assert types[-3:] == [3, 3, 3]


def test_space_prefix_follows_tokenizer_json_then_model() -> None:
    """Without tokenizer.json the normalizer in tokenizer.model decides; with one, tokenizer.json does."""
    complete = repository("internlm2")
    files = {path: content for path, content in complete.items() if path != "tokenizer.json"}
    assert files["tokenizer.model"].endswith(b"\x18\x00")
    with_prefix = files["tokenizer.model"][:-2] + b"\x18\x01"
    for content, expected in ((files["tokenizer.model"], False), (with_prefix, True)):
        header = read_header(plan(files | {"tokenizer.model": content}).header)
        assert header.metadata["tokenizer.ggml.add_space_prefix"].value is expected
    header = read_header(plan({**complete, "tokenizer.model": with_prefix}).header)
    assert header.metadata["tokenizer.ggml.add_space_prefix"].value is False
    tiny = replace(REPOSITORIES["internlm2"], tokenizer=sentence_pieces)
    assert read_header(plan(tiny.files()).header).metadata["tokenizer.ggml.add_space_prefix"].value is True


@pytest.mark.parametrize("name", ["internlm3", "orion"])
def test_space_prefix_of_tokenizer_model_counts(name: str) -> None:
    """The authors' code leaves it to SentencePiece, whatever tokenizer_config.json has."""
    files = {path: content for path, content in repository(name).items() if path != "tokenizer.json"}
    config = json.loads(files["tokenizer_config.json"])
    without = files["tokenizer.model"] + bytes_field(3, b"\x18\x00")
    for written in ({}, {"add_prefix_space": True}):
        changed = files | {"tokenizer.model": without, "tokenizer_config.json": dump({**config, **written})}
        assert read_header(plan(changed).header).metadata["tokenizer.ggml.add_space_prefix"].value is False


@pytest.mark.parametrize("name", sorted(REPOSITORIES))
def test_adds_bos_agrees_with_the_written_metadata(name: str) -> None:
    files, weights = small_files(name)
    header = read_header(plan_of(files, weights).header)
    config = json.loads(files["config.json"])
    family = FAMILIES[config["architectures"][0]]
    adds = adds_bos(family, family.config(config), TokenizerFiles.read(files))
    # Without the key, llama.cpp adds BOS for SentencePiece only.
    written = header.get("tokenizer.ggml.add_bos_token", bool)
    assert adds is (written if written is not None else header.get("tokenizer.ggml.model", str) == "llama")


def test_bos_is_off_if_no_file_asks_for_it() -> None:
    """llama.cpp would put BOS before each text of this pre-tokenizer."""
    files = dict(repository("llama"))
    tokenizer = json.loads(files["tokenizer.json"]) | {"post_processor": None}
    header = read_header(plan({**files, "tokenizer.json": json.dumps(tokenizer).encode()}).header)
    assert header.get("tokenizer.ggml.pre", str) == "llama-bpe"
    assert header.get(ADD_BOS, bool) is False


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("processor", [True, False])
@pytest.mark.parametrize(
    ("tokenizer_class", "config_decides"),
    [("PreTrainedTokenizerFast", False), ("Qwen2Tokenizer", False), ("LlamaTokenizerFast", True), (None, True)],
)
def test_post_processor_wins_except_for_a_few_classes(
    tokenizer_class: str | None, config_decides: bool, processor: bool, config: bool
) -> None:
    """As in transformers 4; transformers 5 makes no difference between the classes."""
    files = dict(repository("llama" if processor else "qwen2"))
    post_processor = json.loads(files["tokenizer.json"])["post_processor"]
    assert ("TemplateProcessing" in str(post_processor)) is processor
    changed = json.loads(files["tokenizer_config.json"])
    changed |= {"tokenizer_class": tokenizer_class, "add_bos_token": config}
    header = read_header(plan({**files, "tokenizer_config.json": json.dumps(changed).encode()}).header)
    assert header.get(ADD_BOS, bool) is (config if config_decides else processor)


@pytest.mark.parametrize("name", ["Phi-3-tiny", "llama3-phi3", "a-phi-3.5"])
def test_name_that_looks_like_phi_3_is_changed(name: str) -> None:
    """llama.cpp would require Phi-3's tokens."""
    header = read_header(plan(repository("llama"), name=name).header)
    assert not re.search("phi-?3", header.get("general.name", str) or "", re.IGNORECASE)


def test_tokens_that_strip_like_phi_3s_add_phi_3_to_the_name() -> None:
    """llama.cpp derives from the name that these tokens strip the spaces after them."""
    files = dict(repository("phi3"))
    tokenizer = json.loads(files["tokenizer.json"])
    for token in tokenizer["added_tokens"]:
        token["content"] = {"[INST]": "<|endoftext|>"}.get(token["content"], token["content"])
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    header = read_header(plan(files | {"tokenizer.json": dump(tokenizer)}, name="mine").header)
    assert header.get("general.name", str) == "Mine (Phi-3)"


def test_added_tokens_of_merged_pieces_are_user_defined() -> None:
    """llama.cpp's converter makes them normal, so that only merges could produce them."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        tokenizer = files["tokenizer.json"]
        tokenizer["added_tokens"] += [added_token("<unused3>", 8, special=False)]

    tiny = replace(REPOSITORIES["gemma4"], tokenizer=lambda: edit_tokenizer(gemma4_pieces(), change))
    types = read_header(plan(tiny.files()).header).get("tokenizer.ggml.token_type", list) or []
    assert (types[8], types[9]) == (4, 1)


@pytest.mark.parametrize(
    ("key", "value", "is_special"),
    [
        ("model_max_length", 4096, False),
        ("additional_special_tokens", ["<think>"], True),
        ("extra_special_tokens", ["<think>"], True),
        ("extra_special_tokens", [{"content": "<think>"}], True),
        ("extra_special_tokens", {"thought_token": "<think>"}, True),
        ("extra_special_tokens", ["<think>no", 5, None], False),
    ],
)
def test_extra_special_tokens_are_special(key: str, value: object, is_special: bool) -> None:
    """Gemma 4 has the list (ggml-org/llama.cpp 24781), Qwen VL the object; transformers 5 adds both as special."""
    files = dict(repository("qwen2"))
    config = json.loads(files["tokenizer_config.json"])
    config.pop("additional_special_tokens", None)
    for token in config.get("added_tokens_decoder", {}).values():
        assert token["content"] != "<think>" or not token["special"]
    header = read_header(plan(files | {"tokenizer_config.json": dump(config | {key: value})}).header)
    tokens, types = (header.get(f"tokenizer.ggml.{name}", list) or [] for name in ("tokens", "token_type"))
    assert types[tokens.index("<think>")] == (3 if is_special else 4)


@pytest.mark.parametrize(
    ("normalizer", "token", "named"),
    [(None, None, "normalizer"), ("space", None, "space before each text"), (None, "a\nb", "line")],
)
def test_merged_pieces_are_refused(normalizer: str | None, token: str | None, named: str) -> None:
    tokenizer = json.loads(repository("gemma4")["tokenizer.json"])
    if token:
        tokenizer["model"]["vocab"][token] = tokenizer["model"]["vocab"].pop("<unused3>")
    elif normalizer:
        tokenizer["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, tokenizer["normalizer"]],
        }
    else:
        tokenizer["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(CannotConvert, match=named):
        plan_with("gemma4", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [
        ({"pre_tokenizer": None}, "pre-tokenizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "ByteLevel"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x"}}]}},
            "Split",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "merges"),
        ({"added_tokens": [{"id": -1, "content": "x"}]}, "added"),
        ({"post_processor": {"type": "BertProcessing"}}, "BertProcessing"),
    ],
)
def test_tokenizer_is_refused(tokenizer: Mapping[str, Any], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        plan_with("llama", tokenizer=tokenizer)


def test_sentencepiece_of_another_type_is_refused() -> None:
    files = dict(repository("llama-2"))
    files["tokenizer.model"] = files["tokenizer.model"].replace(b"\x18\x02\x98\x02\x01", b"\x18\x01\x98\x02\x01")
    with pytest.raises(CannotConvert, match="BPE"):
        plan(files)
    files["tokenizer.model"] = b"nothing"
    with pytest.raises(CannotConvert, match=r"tokenizer\.model"):
        plan(files)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "smollm"])
def test_pre_tokenizer_is_recognized_by_its_structure(pre: str) -> None:
    assert name_pre_tokenizer(json.loads(byte_pairs(pre).files["tokenizer.json"])) == pre


def test_ignore_merges_with_unmergeable_words_is_refused() -> None:
    """llama.cpp knows this pre-tokenizer only without ignore_merges; o200k has no such words."""
    files = repository("phi4_mini")
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["model"]["vocab"]["<think>"] = 9998  # an added token
    assert name_pre_tokenizer(tokenizer) == "gpt-4o"
    tokenizer["model"]["vocab"]["brownies"] = 9999
    with pytest.raises(CannotConvert, match="with ignore_merges"):
        name_pre_tokenizer(tokenizer)


@pytest.mark.parametrize("merges", [None, [], ["a"], [["a"]], [[1, 2]], ["Ġ t h"], [["Ġ", "t"], ["h", "e"]]])
def test_ignore_merges_without_valid_merges_is_refused(merges: object) -> None:
    tokenizer = json.loads(repository("phi4_mini")["tokenizer.json"])
    tokenizer["model"]["merges"] = merges
    with pytest.raises(CannotConvert, match="with ignore_merges"):
        name_pre_tokenizer(tokenizer)


NASTY = (
    "the quick brown fox 3 33 333 3333 3.14 I've WE'LL you're  two   spaces\t\ttabs\n\n\nlines\r\n naïve café "
    "日本語のテキスト 中文字 한국어 עברית العربية हिन्दी Ελληνικά кириллица "
    "🚀🙂‍↔️ 👩‍👩‍👧 e\u0301 <|im_start|>user<|im_end|> ... !?"
)


def test_scores_of_pieces_merge_like_the_tokenizers_package() -> None:
    """llama.cpp joins the neighbours with the best score, so the scores must lead it to the same tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    files = sentence_pieces(model=False)
    tiny = replace(REPOSITORIES["llama-2"], tokenizer=lambda: files)
    header = read_header(plan(tiny.files()).header)
    texts = header.metadata["tokenizer.ggml.tokens"].value
    scores = header.metadata["tokenizer.ggml.scores"].value
    assert isinstance(texts, list)
    assert isinstance(scores, list)
    judge = tokenizers.Tokenizer.from_str(files.files["tokenizer.json"].decode())
    for text in (NASTY.replace("<|im_start|>", ""), "the fox", "  the  ", "", "x", "watching the weather's north"):
        assert _merge(text, texts, scores) == judge.encode(text, add_special_tokens=False).ids


def _merge(text: str, texts: list[str], scores: list[float]) -> list[int]:
    """As SentencePiece merges: the best pair first, the left one of equal pairs; an unknown character becomes bytes."""
    ids = {piece: token_id for token_id, piece in enumerate(texts)}
    symbols = list(("\u2581" + text).replace(" ", "\u2581")) if text else []
    while True:
        pairs = [
            (-scores[ids[left + right]], at)
            for at, (left, right) in enumerate(pairwise(symbols))
            if left + right in ids
        ]
        if not pairs:
            break
        _, at = min(pairs)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    tokens = []
    for symbol in symbols:
        tokens += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return tokens


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["llama", "qwen3", "llama-2", "mistral", "olmo2_tokens"]), st.booleans(), st.data())
def test_any_tokenizer_is_refused_or_makes_a_valid_file(name: str, model: bool, data: st.DataObject) -> None:
    """Any value replaces any other in its JSON files, or bytes of tokenizer.model change."""
    files = dict(repository(name))
    if "tokenizer.model" in files and (not model or data.draw(st.booleans())):
        content = files.pop("tokenizer.model")
        if model:
            at = data.draw(st.integers(0, len(content) - 1))
            files["tokenizer.model"] = content[:at] + data.draw(st.binary(max_size=2)) + content[at + 1 :]
    path = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    parsed = json.loads(files[path])
    place: Any = parsed
    for _ in range(data.draw(st.integers(0, 5))):
        values = place.values() if isinstance(place, dict) else place
        inner = [value for value in values if value and isinstance(value, dict | list)]
        if not inner:
            break
        place = data.draw(st.sampled_from(inner[:40]))
    keys = list(place)[:40] if isinstance(place, dict) else range(min(len(place), 40))
    place[data.draw(st.sampled_from(keys))] = data.draw(ODD_VALUES)
    if path == "tokenizer_config.json" and not isinstance(parsed.get("chat_template"), str | None):
        return
    files[path] = json.dumps(parsed).encode()
    check_refused_or_valid(files)
