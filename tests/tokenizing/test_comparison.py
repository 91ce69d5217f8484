"""What the comparison of a GGUF's tokenizer with tokenizer.json finds, refuses and says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.chat.describe import describe
from proxy.gguf.config import CannotConvert
from proxy.gguf.header import Field, read_header, write_header
from proxy.planning.modelfile import chat_metadata_of_files
from proxy.tokenizing.comparison import compare
from proxy.tokenizing.verdict import Verdict
from tests.gguf.pre_tokenizer_cases import covering_pieces
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.sentencepiece import PIECES_TEMPLATE
from tests.gguf.tiny_repositories.tokenizer import SPACE, added_token, edit_tokenizer
from tests.gguf.writing import plan
from tests.kit.tiny_models import tiny_bert, tiny_xlm_roberta
from tests.tokenizing.make_llama_tokens import CASES

Change = Callable[[dict[str, dict[str, Any]]], None]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREFIX = "tokenizer.ggml.add_space_prefix"
TAGS = "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}{% endfor %}"
SPACED = (
    "{{ bos_token }}{% for m in messages %}{{ ' ' + m.role + ' ' + m.content + ' ' + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' assistant' }}{% endif %}"
)
MIXED = "{% for m in messages %}{{ '<s>' + m.role + ' ' + '</s>' + ' ' + m.content }}{% endfor %}"


def repository(name: str, change: Change, *, model: bool = True, rows: int = 0) -> dict[str, bytes]:
    tokenizer = edit_tokenizer(covering_pieces(model=model), change, rows=rows)
    return replace(REPOSITORIES[name], tokenizer=lambda: tokenizer).files()


def sample_of(files: Mapping[str, bytes]) -> str:
    brought = chat_metadata_of_files("acme/tiny", files, {})
    return describe(brought.jinja, brought.facts).sample if brought.jinja else ""


def compared(
    files: Mapping[str, bytes], *, prefix: bool | None = None, like: Mapping[str, bytes] | None = None
) -> Verdict:
    """`prefix` overrules the field, `like` are the files that the GGUF is made of instead."""
    sample = sample_of(files)
    header = plan(like or files, sample=sample).header
    if prefix is not None:
        metadata = read_header(header).metadata
        header = write_header({**metadata, PREFIX: Field.boolean(prefix)}, ())
    return compare(files, header, sample)


def prefix_of(files: Mapping[str, bytes]) -> bool:
    field = read_header(plan(files, sample=sample_of(files)).header).metadata.get(PREFIX)
    return field is None or bool(field.value)


def normalized(normalizer: object, pre_tokenizer: object, template: str | None) -> Change:
    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"].update(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
        files["tokenizer_config.json"]["chat_template"] = template

    return change


def metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}


@pytest.mark.parametrize(
    "name", ["llama", "llama-2", "mistral", "qwen3", "gemma2", "gemma4", "phi4", "gpt_oss", "falcon"]
)
def test_usual_repositories_are_the_same(name: str) -> None:
    files = REPOSITORIES[name].files()
    assert compared(files) == Verdict()


def test_ends_of_lines_that_llama_cpp_cuts_otherwise_are_said() -> None:
    make, _ = CASES["laguna"]
    verdict = compared(make())
    assert not verdict.refused
    [remark] = verdict.remarks
    assert "llama.cpp makes other tokens than tokenizer.json of lines that end with CR and LF: of " in remark


@pytest.mark.parametrize("template", [None, PIECES_TEMPLATE])
@pytest.mark.parametrize("model", [True, False])
def test_no_space_comes_before_a_text_where_tokenizer_json_only_replaces_them(*, model: bool, template: str) -> None:
    files = repository("llama-2", normalized(REPLACE, None, template), model=model)
    assert compared(files) == Verdict()
    refused = compared(files, prefix=True).refused
    assert "tokenizer.json makes" in refused
    assert "llama.cpp would make" in refused


@pytest.mark.parametrize("name", ["llama-2", "mistral", "ernie4_5", "jamba", "nemotron"])
@pytest.mark.parametrize(
    ("scheme", "template", "prefix"),
    [
        ("always", None, True),
        ("always", TAGS, True),
        ("always", SPACED, False),
        ("first", None, True),
        ("first", TAGS, False),
        ("first", SPACED, False),
        ("never", None, False),
        ("never", TAGS, False),
    ],
)
def test_pieces_as_transformers_5_saves_them(name: str, scheme: str, template: str | None, *, prefix: bool) -> None:
    """Without tokenizer.model, and with a step that decides by the text whether a space comes before it."""
    files = repository(name, normalized(None, metaspace(scheme), template), model=False)
    assert prefix_of(files) is prefix
    verdict = compared(files)
    assert not verdict.refused
    # A prompt of its own begins with the space of these schemes.
    is_other_alone = scheme != "never" and not prefix
    assert any("without the chat template" in remark for remark in verdict.remarks) is is_other_alone
    is_other_beside = scheme == "always" or (scheme == "first" and not template)
    assert any(" beside " in remark for remark in verdict.remarks) is is_other_beside
    if template:
        assert compared(files, prefix=not prefix).refused.startswith("in the chat template ")


def test_a_template_that_needs_both_is_refused() -> None:
    files = repository("llama-2", normalized(None, metaspace("always"), MIXED), model=False)
    assert compared(files).refused.startswith("in the chat template ")


def test_a_model_of_unigram_is_refused() -> None:
    files = REPOSITORIES["llama-2"].files()
    unigram = files["tokenizer.model"].replace(b"\x12\x05\x18\x02\x98\x02\x01", b"\x12\x05\x18\x01\x98\x02\x01")
    assert unigram != files["tokenizer.model"]
    with pytest.raises(CannotConvert, match="not of the type BPE"):
        plan({**files, "tokenizer.model": unigram})


@pytest.mark.parametrize("in_template", [True, False])
def test_a_token_without_a_row_in_the_weights_is_refused_where_the_template_has_it(*, in_template: bool) -> None:
    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        added.append(added_token("<|turn|>", added[-1]["id"] + 1))
        template = TAGS.replace("'<s>'", "'<|turn|>'") if in_template else TAGS
        files["tokenizer_config.json"]["chat_template"] = template

    verdict = compared(repository("llama-2", change))
    if in_template:
        assert "the chat template has the token '<|turn|>'" in verdict.refused
        assert "the weights have rows for" in verdict.refused
    else:
        assert not verdict.refused
        assert verdict.remarks == ("tokens of tokenizer.json that the GGUF does not have: 1, as '<|turn|>'",)


@pytest.mark.parametrize(("before", "after"), [("𠀀", ">>"), ("П", "Приве")])
def test_a_piece_that_no_merge_makes_is_refused_where_the_vocabulary_has_its_characters(
    before: str, after: str
) -> None:
    """llama.cpp puts it together. A text whose letters are no tokens is rare for a model."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        model = files["tokenizer.json"]["model"]
        model["vocab"][after] = model["vocab"].pop(before)
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if before not in "".join(pair)]

    verdict = compared(repository("llama-2", change, model=False))
    if after.startswith(before):
        assert not verdict.refused
        assert any("of 'Привет, мир!'" in remark for remark in verdict.remarks)
    else:
        assert f"llama.cpp would make '{after}'" in verdict.refused


@pytest.mark.parametrize("number", [-1, 0])
def test_a_renamed_token_is_found(number: int) -> None:
    """In the GGUF of the files before the change."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        token = files["tokenizer.json"]["added_tokens"][number]
        files["tokenizer.json"]["model"]["vocab"].pop(token["content"], None)
        files["tokenizer.json"]["model"]["unk_token"] = None
        token["content"] = "<|renamed|>"
        files["tokenizer_config.json"].pop("added_tokens_decoder")

    before = repository("llama-2", lambda _: None, model=False)
    refused = compared(repository("llama-2", change, model=False), like=before).refused
    assert refused.startswith("the token '<|renamed|>' is number ")


@pytest.mark.parametrize("name", ["gemma", "gemma2", "llama-2"])
def test_special_tokens_of_tokenizer_json_alone_are_found(name: str) -> None:
    """As transformers 5 writes them, beside pieces that are normal or unused."""
    files = REPOSITORIES[name].files()
    config = json.loads(files["tokenizer_config.json"])
    del config["added_tokens_decoder"]
    assert compared({**files, "tokenizer_config.json": json.dumps(config).encode()}) == Verdict()


def test_added_tokens_behind_a_hole_are_refused_where_their_numbers_differ() -> None:
    """Tokenizers numbers them one after the other, whatever the file says."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        added += [added_token("<|a|>", added[-1]["id"] + 3)]

    refused = compared(repository("llama-2", change, model=False, rows=3)).refused
    assert "the token '<|a|>' is number" in refused


def test_composed_characters_are_said() -> None:
    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"]["normalizer"] = {"type": "NFC"}

    tokenizer = REPOSITORIES["qwen3"].tokenizer()
    files = replace(REPOSITORIES["qwen3"], tokenizer=lambda: edit_tokenizer(tokenizer, change)).files()
    verdict = compared(files)
    assert not verdict.refused
    assert len(verdict.remarks) == 1
    assert "characters that are not composed: of 'e\u0301te\u0301" in verdict.remarks[0].replace("\\u0301", "\u0301")


def test_numbers_without_a_token_change_no_other_token() -> None:
    assert compared(REPOSITORIES["qwen2_holes"].files()) == Verdict()


def test_added_tokens_that_transformers_numbers_anew_are_refused() -> None:
    """Those behind such a number that the vocabulary does not have too: the weights may mean the numbers as written."""
    files = REPOSITORIES["qwen2_holes"].files()
    tokenizer = json.loads(files["tokenizer.json"])
    first, vocabulary = tokenizer["added_tokens"][0], tokenizer["model"]["vocab"]
    for token in tokenizer["added_tokens"]:
        del vocabulary[token["content"]]
    refused = compared({**files, "tokenizer.json": json.dumps(tokenizer).encode()}).refused
    assert refused.startswith(f"the token '{first['content']}' is number {len(vocabulary)} by tokenizer.json")


def test_a_text_that_gets_no_end_is_refused() -> None:
    """As an embedding model's that has to end each text."""
    files = REPOSITORIES["olmo2_tokens"].files()
    config = json.loads(files["tokenizer_config.json"])
    config.pop("chat_template")
    files["tokenizer_config.json"] = json.dumps(config).encode()
    assert compared(files) == Verdict()
    metadata = read_header(plan(files).header).metadata
    header = write_header({**metadata, "tokenizer.ggml.add_eos_token": Field.boolean(False)}, ())
    assert compare(files, header, "").refused.startswith("of 'a' ")


@pytest.mark.parametrize("files", [tiny_bert(), tiny_xlm_roberta()], ids=["bert", "xlm_roberta"])
def test_embedding_models_are_the_same(files: dict[str, bytes]) -> None:
    assert not compared(files).refused


def test_line_ends_that_unigram_does_not_know_are_refused() -> None:
    """tokenizer.json cuts at them, llama.cpp at spaces alone."""
    files = tiny_xlm_roberta()
    tokenizer = json.loads(files["tokenizer.json"]) | {"normalizer": None}
    refused = compared({**files, "tokenizer.json": json.dumps(tokenizer).encode()}).refused
    assert "llama.cpp would make" in refused


def test_what_cannot_be_compared_is_said() -> None:
    files = REPOSITORIES["llama"].files()
    header = plan(files).header
    (remark,) = compare({**files, "tokenizer.json": b'{"model": {"type": "Psychic"}}'}, header, "").remarks
    assert "could not be compared with tokenizer.json: the tokenizers package cannot read it" in remark
    metadata = read_header(header).metadata
    other = write_header({**metadata, "tokenizer.ggml.pre": Field.string("viking")}, ())
    (remark,) = compare(files, other, "").remarks
    assert "could not be compared with tokenizer.json: the pre-tokenizer 'viking'" in remark


@pytest.mark.parametrize(("name", "other"), [("llama-bpe", "qwen2"), ("qwen2", "gpt-2"), ("gpt-2", "smollm")])
def test_another_cut_is_refused(name: str, other: str) -> None:
    files = CASES[name][0]()
    metadata = read_header(plan(files).header).metadata
    wrong = write_header({**metadata, "tokenizer.ggml.pre": Field.string(other)}, ())
    assert not compare(files, plan(files).header, "").refused
    assert compare(files, wrong, "").refused
