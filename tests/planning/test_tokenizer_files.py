"""Tokenizer files that Ollama's converter would read wrongly: mended, made, or refused."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo.repository import tiny_llama
from proxy.errors import Refusal
from proxy.gguf.sentencepiece import MOST_TOKENS, count_pieces
from proxy.planning.tokenizer_files import TokenizerFiles, _Tokenizer, check_tokenizer
from proxy.planning.tokenizer_files import make_sentencepiece as make_of
from proxy.planning.weights import NotConvertible
from tests.planning.test_safetensors import JSON
from tests.tiny_models import tiny_embedding_gemma

TOKENIZER, SENTENCEPIECE, ADDED = "tokenizer.json", "tokenizer.model", "added_tokens.json"
SPECIALS, CONFIG = "special_tokens_map.json", "tokenizer_config.json"
LLAMA = {path: content for path, content in tiny_llama().items() if "token" in path}
GEMMA = {path: content for path, content in tiny_embedding_gemma().items() if "token" in path}
# That of a BPE with byte fallback: Ollama says these two in the GGUF by itself.
TRAINER = b"\x12\x05\x18\x02\x98\x02\x01"


def written(value: object) -> bytes:
    return json.dumps(value).encode()


def added(text: str, number: int, *, special: bool = True) -> dict[str, Any]:
    return {"id": number, "content": text, "special": special}


def llama(**changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json."""
    return {**json.loads(LLAMA[TOKENIZER]), **changes}


def sentencepiece(**changes: Any) -> dict[str, Any]:
    """A SentencePiece BPE in Hugging Face's dress, as Gemma's and Phi-3's."""
    texts = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"abc",
        "\u2581a",
        "ab",
        "\u2581ab",
    ]
    vocabulary = {text: number for number, text in enumerate(texts)}
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "vocab": vocabulary,
        "merges": ["\u2581 a", "a b", "\u2581a b"],
    }
    tokens = [added(text, vocabulary[text]) for text in ("<unk>", "<s>", "</s>")]
    return {"added_tokens": tokens, "pre_tokenizer": None, "decoder": {"type": "Sequence"}, "model": model, **changes}


def checked(files: dict[str, Any], *, rows: int | None = None) -> TokenizerFiles:
    """What is found of these files, with a tokenizer_config.json where there is none."""
    contents = {path: value if isinstance(value, bytes) else written(value) for path, value in files.items()}
    return check_tokenizer("acme/model", {CONFIG: b"{}", **contents}, rows)


def sent(found: TokenizerFiles, path: str) -> Any:
    return json.loads(found.changed[path] or b"null")


@pytest.mark.parametrize("files", [LLAMA, GEMMA, {TOKENIZER: LLAMA[TOKENIZER]}])
def test_what_ollama_reads_rightly_stays(files: dict[str, bytes]) -> None:
    assert checked(files) == TokenizerFiles()


@pytest.mark.parametrize(
    ("tokens", "mended"),
    [
        (["<a>", "<b>"], [{"content": "<a>"}, {"content": "<b>"}]),
        ([{"content": "<a>", "lstrip": False}, "<b>"], [{"content": "<a>", "lstrip": False}, {"content": "<b>"}]),
        ([{"content": "<a>"}], None),
        ([], None),
        (None, None),
    ],
)
def test_special_tokens_that_end_ollama_are_written_as_objects(tokens: Any, mended: Any) -> None:
    found = checked(GEMMA | {SPECIALS: {"bos_token": "<s>", "additional_special_tokens": tokens}})
    if mended is None:
        assert found == TokenizerFiles()
    else:
        assert sent(found, SPECIALS) == {"bos_token": "<s>", "additional_special_tokens": mended}
        assert "additional_special_tokens written as objects" in found.repairs[0]


@pytest.mark.parametrize(
    "model", [b"", b"IQ== 0\nIg== 1\nIw== 2\n", b"<html>", b"\x0a\xff", b"\x0a\x02\x0b\x00", b"\x08\x01", b"\x80" * 99]
)
def test_a_tokenizer_model_of_another_kind_is_left_out(model: bytes) -> None:
    found = checked(LLAMA | {SENTENCEPIECE: model})
    assert found.changed == {SENTENCEPIECE: None}
    assert found.repairs == ["tokenizer.model is left out: it is not a SentencePiece model"]
    with pytest.raises(NotConvertible, match="tokenizer.model is not a SentencePiece model, and no tokenizer.json"):
        checked({SENTENCEPIECE: model})


def test_a_sentencepiece_model_is_made_of_a_tokenizer_that_is_one() -> None:
    found = checked({TOKENIZER: sentencepiece()})
    assert count_pieces(found.changed[SENTENCEPIECE] or b"") == 266
    assert found.repairs == ["tokenizer.model made of tokenizer.json, which Ollama takes for a byte-level one"]


def test_tokens_beyond_the_pieces_are_made_a_file_of() -> None:
    beyond = [*sentencepiece()["added_tokens"], added("<user>", 266), added("<end>", 267)]
    found = checked({TOKENIZER: sentencepiece(added_tokens=beyond)})
    assert sent(found, ADDED) == {"<user>": 266, "<end>": 267}
    assert "added_tokens.json made of tokenizer.json: 2 tokens beyond tokenizer.model" in found.repairs
    model = found.changed[SENTENCEPIECE]
    assert model is not None
    assert sent(checked({TOKENIZER: sentencepiece(added_tokens=beyond), SENTENCEPIECE: model}), ADDED) == {
        "<user>": 266,
        "<end>": 267,
    }


@pytest.mark.parametrize(
    "there",
    [b"{", b"[]", b"5", {"<user>": 9999}, {"<user>": "266"}, {"<user>": None}, {"<other>": 266}, {}, [{"<user>": 266}]],
)
def test_a_file_of_added_tokens_that_does_not_fit_is_made_again(there: Any) -> None:
    tokenizer = sentencepiece(added_tokens=[added("<user>", 266)])
    model = make_of(_Tokenizer(sentencepiece()))
    files = {TOKENIZER: tokenizer, SENTENCEPIECE: model, ADDED: there}
    assert sent(checked(files), ADDED) == {"<user>": 266}
    assert ADDED not in checked(files | {ADDED: {"<user>": 266}}).changed


def test_a_unigram_beside_its_sentencepiece_model_gives_its_special_tokens_alone() -> None:
    tokenizer = sentencepiece(model={"type": "Unigram", "vocab": [["a", -1.0]]})
    found = checked({TOKENIZER: tokenizer, SENTENCEPIECE: make_of(_Tokenizer(sentencepiece()))})
    assert sent(found, TOKENIZER)["model"] == {"type": "BPE", "vocab": {}}
    assert sent(found, TOKENIZER)["added_tokens"] == tokenizer["added_tokens"]
    assert SENTENCEPIECE not in found.changed


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"type": "WordPiece", "vocab": {"a": 0}}, "WordPiece"),
        ({"type": "Unigram", "vocab": [["a", -1.0]]}, "Unigram"),
        ({"type": "WordLevel", "vocab": {"a": 0}}, "WordLevel"),
        ({"type": "BPE", "vocab": {"a": 0}}, "BPE"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": []}, "BPE"),
        ({"vocab": {"a": 0}}, "an unknown kind"),
    ],
)
def test_a_tokenizer_that_ollama_cannot_read_is_refused(model: dict[str, Any], kind: str) -> None:
    with pytest.raises(NotConvertible, match=f"tokenizer.json is of {kind}: Ollama reads BPE with merges, and Sent"):
        checked({TOKENIZER: llama(model=model)})


def test_merges_without_a_type_are_a_bpe() -> None:
    model = json.loads(LLAMA[TOKENIZER])["model"]
    del model["type"]
    assert checked({TOKENIZER: llama(model=model)}) == TokenizerFiles()


def test_holes_in_the_numbers_are_filled() -> None:
    tokenizer = llama()
    size = len(tokenizer["model"]["vocab"])
    tokens = [added("<x>", size + 2), added("<y>", size + 5)]
    found = checked({TOKENIZER: llama(added_tokens=tokens)})
    vocabulary = sent(found, TOKENIZER)["model"]["vocab"]
    holes = {f"<|unused_{number}|>": number for number in (size, size + 1, size + 3, size + 4)}
    assert vocabulary == tokenizer["model"]["vocab"] | holes
    assert sent(found, TOKENIZER)["added_tokens"] == tokens
    assert found.repairs == ["tokenizer.json: 4 unused numbers filled, so that the others keep theirs"]


@pytest.mark.parametrize("number", [MOST_TOKENS, 10**12, 10**300, -1, 1.5, "7", None, True, [1]])
@pytest.mark.parametrize("tokenizer", [llama, sentencepiece])
def test_a_token_of_an_impossible_number_is_refused_at_once(tokenizer: Any, number: Any) -> None:
    start = time.process_time()
    with pytest.raises(Refusal, match="acme/model/tokenizer.json cannot be understood"):
        checked({TOKENIZER: tokenizer(added_tokens=[added("<x>", number)])})
    model = tokenizer()["model"]
    with pytest.raises(Refusal, match="acme/model/tokenizer.json cannot be understood"):
        checked({TOKENIZER: tokenizer(model={**model, "vocab": {**model["vocab"], "<x>": number}})})
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("pre_tokenizer", "known"),
    [
        (llama()["pre_tokenizer"], True),
        (llama()["pre_tokenizer"]["pretokenizers"][0], False),  # alone, Ollama does not look at it
        ({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x"}}]}, False),
        ({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"String": " "}}]}, False),
        ({"type": "ByteLevel"}, False),  # GPT-2's way, and not Ollama's default
        (None, False),
    ],
)
def test_a_way_to_split_that_ollama_does_not_know_is_warned_of(pre_tokenizer: Any, known: bool) -> None:
    warnings = checked({TOKENIZER: llama(pre_tokenizer=pre_tokenizer)}).warnings
    assert bool(warnings) is not known
    assert all("does not know this tokenizer's way to split text" in warning for warning in warnings)


def test_without_a_configuration_there_is_a_warning() -> None:
    found = check_tokenizer("acme/model", {TOKENIZER: LLAMA[TOKENIZER]})
    assert found.warnings == [
        "acme/model has no tokenizer_config.json: the model may not know where to begin and to stop"
    ]


@pytest.mark.parametrize("path", [TOKENIZER, SPECIALS])
@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[]", b"[" * 100_000, b'{"a": "\\ud800"}', b'{"a":' * 101 + b"5" + b"}" * 101]
)
def test_a_file_that_is_no_json_object_is_refused_by_name(path: str, content: bytes) -> None:
    with pytest.raises(Refusal, match=f"acme/model/{path} is "):
        checked(LLAMA | {path: content})


def test_a_hostile_tokenizer_model_is_counted_in_bounded_time() -> None:
    start = time.process_time()
    for hostile in (b"\xff" * 2_000_000, b"\x18\x00" * 4_000_000, b"\x0a\x02\x0a\x00" * 2_000_000):
        assert count_pieces(hostile) is None
    assert time.process_time() - start < 20


def test_the_pieces_are_counted_as_the_library_counts_them() -> None:
    library = pytest.importorskip("sentencepiece")
    content = GEMMA[SENTENCEPIECE] + TRAINER
    assert count_pieces(content) == library.SentencePieceProcessor(model_proto=content).vocab_size()
    assert count_pieces(content[:-1]) is None
    assert count_pieces(content + b"\x0a") is None


def test_a_made_model_has_the_pieces_that_the_library_reads() -> None:
    library = pytest.importorskip("sentencepiece")
    tokens = [*sentencepiece()["added_tokens"], added("<x>", 270, special=False)]
    fields = sentencepiece()["model"]
    fields["vocab"]["<x>"] = 270
    model = make_of(_Tokenizer(sentencepiece(added_tokens=tokens, model=fields)))
    pieces = library.SentencePieceProcessor(model_proto=model + TRAINER)
    assert [pieces.id_to_piece(number) for number in (0, 1, 2, 3, 258, 259)] == [
        *("<unk>", "<s>", "</s>", "<0x00>", "<0xFF>", "\u2581")
    ]
    assert [pieces.id_to_piece(number) for number in range(266, 271)] == [
        *(f"<|unused_{number}|>" for number in range(266, 270)),
        "<x>",
    ]
    numbers = range(pieces.vocab_size())
    assert [number for number in numbers if pieces.is_unknown(number)] == [0]
    assert [number for number in numbers if pieces.is_control(number)] == [1, 2]
    assert [number for number in numbers if pieces.is_byte(number)] == list(range(3, 259))
    scores = {pieces.id_to_piece(number): pieces.get_score(number) for number in numbers}
    assert [scores[text] for text in ("\u2581a", "ab", "\u2581ab")] == [0, -1, -2]
    assert all(scores[text] < -2 for text in "abc")
    assert 270 in pieces.encode("a<x>b")  # the type of a token that is found in any text


def test_a_made_model_tokenizes_as_the_tokenizer_that_it_was_made_of(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    hub = pytest.importorskip("tokenizers")
    normalizer = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    }
    fields = sentencepiece(normalizer=normalizer, decoder=None)
    tokens = [
        {**token, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
        for token in fields["added_tokens"]
    ]
    original = hub.Tokenizer.from_str(json.dumps(fields | {"added_tokens": tokens, "version": "1.0"}))
    made = library.SentencePieceProcessor(model_proto=make_of(_Tokenizer(fields)) + TRAINER)
    for text in ("ab", "a b c", "abc ab", "b\u00e9 a", "aab ba"):
        assert made.encode(text) == original.encode(text, add_special_tokens=False).ids, text


@given(lines=st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=40))
def test_a_list_of_tokens_as_llama_3_has_it_is_never_taken_for_sentencepiece(lines: list[bytes]) -> None:
    import base64

    text = b"".join(base64.b64encode(line) + b" %d\n" % number for number, line in enumerate(lines))
    assert count_pieces(text) is None


PARTS = st.sampled_from(["type", "vocab", "merges", "byte_fallback", "unk_token", "pretokenizers", "pattern", "single"])
TOKENIZERS = st.fixed_dictionaries(
    {},
    optional={
        "added_tokens": JSON
        | st.lists(st.dictionaries(st.sampled_from(["id", "content", "special"]), JSON), max_size=3),
        "pre_tokenizer": JSON | st.dictionaries(PARTS, JSON | st.lists(st.dictionaries(PARTS, JSON), max_size=2)),
        "post_processor": JSON | st.dictionaries(st.sampled_from(["processors", "single", "type"]), JSON),
        "model": JSON
        | st.dictionaries(
            PARTS, JSON | st.dictionaries(st.text(max_size=3), st.integers(-1, 9)) | st.sampled_from(["BPE"])
        ),
        "decoder": JSON,
    },
)


@given(
    fields=TOKENIZERS,
    base=st.sampled_from([{}, llama(), sentencepiece()]),
    pieces=st.sampled_from([None, GEMMA[SENTENCEPIECE]]) | st.binary(max_size=20),
    more=st.dictionaries(
        st.sampled_from([ADDED, SPECIALS, CONFIG]),
        JSON
        | st.dictionaries(
            st.sampled_from(["additional_special_tokens", "bos_token", "add_bos_token", "chat_template", "<x>"]),
            JSON | st.lists(JSON),
        ),
        max_size=3,
    ),
    rows=st.none() | st.integers(0, 1000),
)
def test_any_tokenizer_files_are_mended_or_refused(
    fields: dict[str, Any], base: dict[str, Any], pieces: bytes | None, more: dict[str, Any], rows: int | None
) -> None:
    files = {TOKENIZER: base | fields, **more} | ({} if pieces is None else {SENTENCEPIECE: pieces})
    try:
        found = checked(files, rows=rows)
    except Refusal as refusal:
        str(refusal).encode()
    else:
        "".join(found.repairs + found.warnings).encode()
        for path, content in found.changed.items():
            assert content is None or path == SENTENCEPIECE or isinstance(json.loads(content), dict)
