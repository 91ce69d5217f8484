"""The comparison of a GGUF's tokenizer with tokenizer.json: its refusals and remarks."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.chat.describe import describe
from proxy.gguf.header import Field, read_header, write_header
from proxy.gguf.model_config import CannotConvert
from proxy.planning.modelfile import chat_metadata_of_files
from proxy.tokenizing.comparison import compare_tokenizers
from proxy.tokenizing.verdict import Verdict
from tests.gguf.pre_tokenizer_cases import covering_pieces
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.tiny_repositories.sentencepiece import PIECES_TEMPLATE
from tests.gguf.tiny_repositories.tiktoken import kimi_tokens
from tests.gguf.tiny_repositories.tokenizer import SPACE, Tokenizer, edit_tokenizer
from tests.gguf.writing import plan
from tests.kit.tiny_models import tiny_bert, tiny_xlm_roberta
from tests.kit.tiny_tokenizers import added_token
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
    metadata = chat_metadata_of_files("acme/tiny", files, {})
    return describe(metadata.jinja, metadata.facts).sample if metadata.jinja else ""


def compared(
    files: Mapping[str, bytes], *, prefix: bool | None = None, like: Mapping[str, bytes] | None = None
) -> Verdict:
    """`prefix` overrides the field; `like` replaces the files from which the GGUF is made."""
    sample = sample_of(files)
    header = plan(like or files, sample=sample).header
    if prefix is not None:
        metadata = read_header(header).metadata
        header = write_header({**metadata, PREFIX: Field.boolean(prefix)}, ())
    return compare_tokenizers(files, header, sample)


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
    "name", ["llama", "llama-2", "mistral", "qwen3", "gemma2", "gemma4", "phi4", "gpt_oss", "falcon", "kimi_k2"]
)
def test_common_repositories_have_equal_tokens(name: str) -> None:
    files = REPOSITORIES[name].files()
    assert compared(files) == Verdict()


def test_other_splits_at_crlf_are_a_remark() -> None:
    make, _ = CASES["laguna"]
    verdict = compared(make())
    assert not verdict.refusal
    [remark] = verdict.remarks
    assert "llama.cpp makes other tokens than tokenizer.json for lines that end with CR and LF: in " in remark


def test_tokens_of_tiktoken_that_no_merge_makes_are_a_remark() -> None:
    """In tiktoken, a word that is a token is not merged."""
    files = dict(kimi_tokens().files)
    count = len(files["tiktoken.model"].splitlines())
    for rank, text in enumerate((b" jumpily", b"jumping!"), count):
        files["tiktoken.model"] += base64.b64encode(text) + b" %d\n" % rank
    config = json.loads(files["tokenizer_config.json"]) | {"added_tokens_decoder": {}}
    files["tokenizer_config.json"] = json.dumps(config).encode()
    tokenizer = Tokenizer(files, count + 258, {})
    verdict = compared(replace(REPOSITORIES["kimi_k2"], tokenizer=lambda: tokenizer).files())
    assert not verdict.refusal
    unmade = "tokens of tiktoken.model that llama.cpp never makes of words: 2, such as '\u0120jumpily', 'jumping!'"
    assert unmade in verdict.remarks


def test_case_and_marks_within_words_are_a_remark() -> None:
    make, _ = CASES["kimi-k2"]
    [remark] = compared(make()).remarks
    texts, _, _ = remark.partition(": in ")
    assert "letters with marks" in texts
    assert "words in camel case" in texts


@pytest.mark.parametrize("template", [None, PIECES_TEMPLATE])
@pytest.mark.parametrize("model", [True, False])
def test_a_replace_normalizer_means_no_space_prefix(*, model: bool, template: str) -> None:
    files = repository("llama-2", normalized(REPLACE, None, template), model=model)
    assert compared(files) == Verdict()
    refusal = compared(files, prefix=True).refusal
    assert "tokenizer.json makes" in refusal
    assert "llama.cpp would make" in refusal


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
def test_pieces_saved_by_transformers_5(name: str, scheme: str, template: str | None, *, prefix: bool) -> None:
    """There is no tokenizer.model, and Metaspace decides by the text whether a space comes before it."""
    files = repository(name, normalized(None, metaspace(scheme), template), model=False)
    assert prefix_of(files) is prefix
    verdict = compared(files)
    assert not verdict.refusal
    # With these schemes, a text without the template begins with a space.
    differs_alone = scheme != "never" and not prefix
    assert any("without the chat template" in remark for remark in verdict.remarks) is differs_alone
    differs_next_to_specials = scheme == "always" or (scheme == "first" and not template)
    assert any(" next to " in remark for remark in verdict.remarks) is differs_next_to_specials
    if template:
        assert compared(files, prefix=not prefix).refusal.startswith("the tokens of the chat template would differ: ")


def test_a_template_that_needs_both_prefixes_is_refused() -> None:
    files = repository("llama-2", normalized(None, metaspace("always"), MIXED), model=False)
    assert compared(files).refusal.startswith("the tokens of the chat template would differ: ")


def test_a_sentencepiece_model_of_unigram_is_refused() -> None:
    files = REPOSITORIES["llama-2"].files()
    unigram = files["tokenizer.model"].replace(b"\x12\x05\x18\x02\x98\x02\x01", b"\x12\x05\x18\x01\x98\x02\x01")
    assert unigram != files["tokenizer.model"]
    with pytest.raises(CannotConvert, match="not of the type BPE"):
        plan({**files, "tokenizer.model": unigram})


@pytest.mark.parametrize("in_template", [True, False])
def test_a_token_without_a_row_in_the_weights(*, in_template: bool) -> None:
    """It is refused only if the template uses it."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        added.append(added_token("<|turn|>", added[-1]["id"] + 1))
        template = TAGS.replace("'<s>'", "'<|turn|>'") if in_template else TAGS
        files["tokenizer_config.json"]["chat_template"] = template

    verdict = compared(repository("llama-2", change))
    if in_template:
        assert "the chat template uses the token '<|turn|>'" in verdict.refusal
        assert "the weights have only" in verdict.refusal
    else:
        assert not verdict.refusal
        assert verdict.remarks == ("tokens of tokenizer.json that the GGUF lacks: 1, such as '<|turn|>'",)


@pytest.mark.parametrize(("before", "after"), [("𠀀", ">>"), ("П", "Приве")])
def test_a_piece_that_no_merge_makes(before: str, after: str) -> None:
    """llama.cpp merges it all the same: refused, unless a character has no token, because such texts are rare."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        model = files["tokenizer.json"]["model"]
        model["vocab"][after] = model["vocab"].pop(before)
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if before not in "".join(pair)]

    verdict = compared(repository("llama-2", change, model=False))
    if after.startswith(before):
        assert not verdict.refusal
        assert any("in 'Привет, мир!'" in remark for remark in verdict.remarks)
    else:
        assert f"llama.cpp would make '{after}'" in verdict.refusal


@pytest.mark.parametrize("number", [-1, 0])
def test_a_renamed_token_is_refused(number: int) -> None:
    """The GGUF is made from the files before the change."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        token = files["tokenizer.json"]["added_tokens"][number]
        files["tokenizer.json"]["model"]["vocab"].pop(token["content"], None)
        files["tokenizer.json"]["model"]["unk_token"] = None
        token["content"] = "<|renamed|>"
        files["tokenizer_config.json"].pop("added_tokens_decoder")

    before = repository("llama-2", lambda _: None, model=False)
    refusal = compared(repository("llama-2", change, model=False), like=before).refusal
    assert refusal.startswith("tokenizer.json gives the token '<|renamed|>' the id ")


@pytest.mark.parametrize("name", ["gemma", "gemma2", "llama-2"])
def test_special_tokens_of_tokenizer_json_are_enough(name: str) -> None:
    """As transformers 5 saves them; their pieces may be normal or unused."""
    files = REPOSITORIES[name].files()
    config = json.loads(files["tokenizer_config.json"])
    del config["added_tokens_decoder"]
    assert compared({**files, "tokenizer_config.json": json.dumps(config).encode()}) == Verdict()


def test_added_tokens_after_a_gap_are_refused() -> None:
    """The tokenizers package gives them consecutive ids and ignores the ids in the file."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        added = files["tokenizer.json"]["added_tokens"]
        added += [added_token("<|a|>", added[-1]["id"] + 3)]

    refusal = compared(repository("llama-2", change, model=False, rows=3)).refusal
    assert "gives the token '<|a|>' the id" in refusal


def test_missing_nfc_is_a_remark() -> None:
    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"]["normalizer"] = {"type": "NFC"}

    tokenizer = REPOSITORIES["qwen3"].tokenizer()
    files = replace(REPOSITORIES["qwen3"], tokenizer=lambda: edit_tokenizer(tokenizer, change)).files()
    verdict = compared(files)
    assert not verdict.refusal
    assert len(verdict.remarks) == 1
    assert "characters that are not composed: in 'e\u0301te\u0301" in verdict.remarks[0].replace("\\u0301", "\u0301")


def test_ids_without_a_token_change_no_other_token() -> None:
    assert compared(REPOSITORIES["qwen2_holes"].files()) == Verdict()


def test_added_tokens_that_transformers_renumbers_are_refused() -> None:
    """The vocabulary lacks them too, so transformers renumbers them; the weights may use the written ids."""
    files = REPOSITORIES["qwen2_holes"].files()
    tokenizer = json.loads(files["tokenizer.json"])
    first, vocabulary = tokenizer["added_tokens"][0], tokenizer["model"]["vocab"]
    for token in tokenizer["added_tokens"]:
        del vocabulary[token["content"]]
    refusal = compared({**files, "tokenizer.json": json.dumps(tokenizer).encode()}).refusal
    assert refusal.startswith(f"tokenizer.json gives the token '{first['content']}' the id {len(vocabulary)}, but")


def test_padding_and_truncation_of_tokenizer_json_change_nothing() -> None:
    """Training leaves them in the file, and transformers resets them (spiceai/spiceai 13416)."""

    def change(files: dict[str, dict[str, Any]]) -> None:
        files["tokenizer.json"] |= {
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None}
            | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"},
        }

    files = repository("llama-2", change)
    assert compared(files) == Verdict()


def test_a_missing_end_token_is_refused() -> None:
    """An embedding model may need it at the end of each text."""
    files = REPOSITORIES["olmo2_tokens"].files()
    config = json.loads(files["tokenizer_config.json"])
    config.pop("chat_template")
    files["tokenizer_config.json"] = json.dumps(config).encode()
    assert compared(files) == Verdict()
    metadata = read_header(plan(files).header).metadata
    header = write_header({**metadata, "tokenizer.ggml.add_eos_token": Field.boolean(False)}, ())
    refusal = compare_tokenizers(files, header, "").refusal
    assert refusal.startswith("the tokens that begin and end a text would differ: in 'a', ")


@pytest.mark.parametrize("files", [tiny_bert(), tiny_xlm_roberta()], ids=["bert", "xlm_roberta"])
def test_embedding_models_have_equal_tokens(files: dict[str, bytes]) -> None:
    assert not compared(files).refusal


def test_unigram_without_a_newline_normalizer_is_refused() -> None:
    """tokenizer.json splits at newlines, llama.cpp only at spaces."""
    files = tiny_xlm_roberta()
    tokenizer = json.loads(files["tokenizer.json"]) | {"normalizer": None}
    refusal = compared({**files, "tokenizer.json": json.dumps(tokenizer).encode()}).refusal
    assert "llama.cpp would make" in refusal


def test_a_comparison_that_fails_is_a_remark() -> None:
    files = REPOSITORIES["llama"].files()
    header = plan(files).header
    (remark,) = compare_tokenizers({**files, "tokenizer.json": b'{"model": {"type": "Psychic"}}'}, header, "").remarks
    assert "could not be compared with the repository's: the tokenizers package cannot read it" in remark
    metadata = read_header(header).metadata
    other = write_header({**metadata, "tokenizer.ggml.pre": Field.string("viking")}, ())
    (remark,) = compare_tokenizers(files, other, "").remarks
    assert "could not be compared with the repository's: the proxy does not know the pre-tokenizer 'viking'" in remark


@pytest.mark.parametrize(("name", "other"), [("llama-bpe", "qwen2"), ("qwen2", "gpt-2"), ("gpt-2", "smollm")])
def test_another_pre_tokenizer_is_refused(name: str, other: str) -> None:
    files = CASES[name][0]()
    metadata = read_header(plan(files).header).metadata
    wrong = write_header({**metadata, "tokenizer.ggml.pre": Field.string(other)}, ())
    assert not compare_tokenizers(files, plan(files).header, "").refusal
    assert compare_tokenizers(files, wrong, "").refusal
