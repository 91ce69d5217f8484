"""Embedding models: pooled as Ollama can, in the words that it reads, or refused before they embed wrongly."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.planning.embedding import check_companions, module_files
from proxy.planning.tokenizer_files import TokenizerFiles
from proxy.planning.weights import NotConvertible
from tests.planning.test_safetensors import JSON
from tests.tiny_models import newer_sentence_transformer, tiny_bert, tiny_embedding_gemma, tiny_nomic_bert

POOLING, MODULES, TOKENIZER, TOKENIZER_CONFIG = (
    *("1_Pooling/config.json", "modules.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)
BERT = tiny_bert()
MODULE = "sentence_transformers.models."


def checked(files: dict[str, bytes], architecture: str = "BertModel", **changes: Any) -> TokenizerFiles:
    """What is found of a repository of which some files are otherwise; ... takes one away."""
    contents = {path: content for path, content in files.items() if not path.endswith(".safetensors")}
    for name, value in changes.items():
        path = {"pooling": POOLING, "modules": MODULES, "tokenizer": TOKENIZER, "config": TOKENIZER_CONFIG}[name]
        contents.pop(path)
        if value is not ...:
            contents[path] = value if isinstance(value, bytes) else json.dumps(value).encode()
    return check_companions("acme/model", architecture, contents)


def fields(files: dict[str, bytes], path: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**json.loads(files[path]), **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("files", "architecture"),
    [
        (BERT, "BertModel"),
        (tiny_bert(pooling="cls", normalize=False), "BertModel"),
        (tiny_nomic_bert(), "NomicBertModel"),
        (tiny_nomic_bert(experts=2), "NomicBertMoEModel"),
    ],
)
def test_a_model_as_it_was_always_written_is_left_as_it_is(files: dict[str, bytes], architecture: str) -> None:
    assert checked(files, architecture) == TokenizerFiles()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_words_of_newer_sentence_transformers_are_put_into_the_older(pooling: Any) -> None:
    older = tiny_bert(pooling=pooling)
    found = checked(newer_sentence_transformer(older))
    written = {path: json.loads(content or b"") for path, content in found.changed.items()}
    assert [module["type"] for module in written[MODULES]] == [
        f"{MODULE}{name}" for name in ("Transformer", "Pooling", "Normalize")
    ]
    modes = {key: value for key, value in written[POOLING].items() if key.startswith("pooling_mode_")}
    assert modes == {
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_cls_token": pooling == "cls",
    }
    assert [repair.partition(":")[0] for repair in found.repairs] == [MODULES, POOLING]


@pytest.mark.parametrize(
    ("files", "pools"),
    [(tiny_bert(pooling="max"), "max"), (newer_sentence_transformer(tiny_bert(pooling="max")), "max")],
)
def test_pooling_that_ollama_does_not_know_is_refused(files: dict[str, bytes], pools: str) -> None:
    with pytest.raises(NotConvertible, match=f"{POOLING} pools by {pools}; Ollama knows mean and cls"):
        checked(files)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode": 5},
        {"pooling_mode": [{}]},
        {"pooling_mode": {"mean": 1}},
        {"pooling_mode": "cls", "pooling_mode_mean_tokens": True},
        {},
    ],
)
def test_pooling_by_another_or_by_two_or_by_nothing_is_refused(pooling: dict[str, Any]) -> None:
    with pytest.raises(NotConvertible, match="Ollama knows mean and cls"):
        checked(BERT, pooling=pooling)


def test_a_list_of_one_way_to_pool_is_that_way() -> None:
    changed = checked(BERT, pooling={"pooling_mode": ["cls"]}).changed[POOLING]
    assert json.loads(changed or b"")["pooling_mode_cls_token"] is True


@pytest.mark.parametrize("architecture", ["BertModel", "NomicBertModel", "NomicBertMoEModel"])
@pytest.mark.parametrize("modules", [..., [], {}, b"[", 5, [5], [{"type": f"{MODULE}Transformer", "path": ""}]])
def test_without_a_word_on_pooling_a_model_is_refused(architecture: str, modules: Any) -> None:
    with pytest.raises(NotConvertible, match="acme/model has no modules.json that says how its embeddings are pooled"):
        checked(BERT, architecture, modules=modules)


def test_without_the_file_on_pooling_an_upload_is_incomplete() -> None:
    with pytest.raises(Refusal, match="acme/model/1_Pooling/config.json is missing"):
        checked(BERT, pooling=...)


def test_a_dense_layer_at_the_end_of_a_bert_is_refused() -> None:
    modules = [*json.loads(BERT[MODULES]), {"type": f"{MODULE}Dense", "path": "2_Dense"}]
    with pytest.raises(NotConvertible, match="has a Dense layer at its end, which Ollama would leave out"):
        checked(BERT, modules=modules)


def test_the_dense_layers_of_embedding_gemma_belong_to_it() -> None:
    files = tiny_embedding_gemma()
    assert module_files(files[MODULES]) == (
        "1_Pooling/config.json",
        *("2_Dense/config.json", "2_Dense/model.safetensors"),
        *("3_Dense/config.json", "3_Dense/model.safetensors"),
    )
    found = checked(files, "Gemma3TextModel")
    assert {MODULES, POOLING}.isdisjoint(found.changed)
    newer = [
        {**module, "type": f"sentence_transformers.x.{module['type'].rpartition('.')[2]}"}
        for module in json.loads(files[MODULES])
    ]
    assert MODULES in checked(files, "Gemma3TextModel", modules=newer).changed


def test_what_is_no_module_is_left_out_where_modules_are_written_again() -> None:
    modules = [*json.loads(newer_sentence_transformer(BERT)[MODULES]), 5, None]
    assert len(json.loads(checked(BERT, modules=modules).changed[MODULES] or b"")) == 3


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        (None, ()),
        (b"", ()),
        (b"[", ()),
        (b"{}", ()),
        (b"\xff", ()),
        (b"[" * 100_000, ()),
        (b'[5, {}, {"type": 5}, {"type": "Pooling", "path": 5}]', ("5/config.json",)),
        (b'[{"type": "a.Pooling", "path": "/x/y/"}]', ("x/y/config.json",)),
    ],
)
def test_whatever_stands_in_modules_json_names_files_or_none(content: bytes | None, paths: tuple[str, ...]) -> None:
    assert module_files(content) == paths


@pytest.mark.parametrize(
    "files",
    [
        tiny_bert(early_specials=True),
        BERT | {TOKENIZER_CONFIG: json.dumps(fields(BERT, TOKENIZER_CONFIG, bos_token="[CLS]")).encode()},
        {path: content for path, content in BERT.items() if path != TOKENIZER_CONFIG},
    ],
    ids=["other numbers", "a bos_token alone", "no tokenizer_config.json"],
)
def test_cls_and_sep_are_named_where_ollama_would_guess_wrongly(files: dict[str, bytes]) -> None:
    found = checked(files)
    config = json.loads(found.changed[TOKENIZER_CONFIG] or b"")
    expected = {"cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    assert expected | {"add_bos_token": True, "add_eos_token": True} == {
        key: config[key] for key in (*expected, "add_bos_token", "add_eos_token")
    }
    assert "[CLS] and [SEP] named as the tokens that begin and end a text" in found.repairs[0]


@pytest.mark.parametrize("other", ["[CLS]", "[SEP]"])
def test_one_other_number_of_the_two_is_enough(other: str) -> None:
    tokenizer = json.loads(BERT[TOKENIZER])
    for token in tokenizer["added_tokens"]:
        token["id"] += 900 * (token["content"] == other)
    assert list(checked(BERT, tokenizer=tokenizer).changed) == [TOKENIZER_CONFIG]


def test_a_token_may_be_an_object_and_called_otherwise() -> None:
    tokenizer = json.loads(BERT[TOKENIZER])
    tokenizer["added_tokens"] = [{"id": 0, "content": "<s>"}, {"id": 2, "content": "</s>"}]
    config = {"cls_token": {"content": "<s>"}, "sep_token": "</s>"}
    written = json.loads(checked(BERT, tokenizer=tokenizer, config=config).changed[TOKENIZER_CONFIG] or b"")
    assert (written["bos_token"], written["eos_token"], written["add_bos_token"]) == ("<s>", "</s>", True)


@pytest.mark.parametrize("added", [..., None, [], {}, 5, [5], [{}], [{"content": ["[CLS]"]}]])
def test_a_tokenizer_that_does_not_say_how_a_text_begins_is_refused(added: Any) -> None:
    with pytest.raises(NotConvertible, match="tokenizer.json does not say which tokens begin and end a text"):
        checked(BERT, tokenizer=fields(BERT, TOKENIZER, added_tokens=added))


def test_a_model_of_text_is_none_of_this() -> None:
    with pytest.raises(NotConvertible, match="is of WordPiece"):
        checked(BERT, "LlamaForCausalLM", modules=...)


@given(
    modules=JSON | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["a.Pooling", "Dense", 5]), "path": JSON})),
    pooling=JSON | st.dictionaries(st.sampled_from(["pooling_mode", "pooling_mode_cls_token"]), JSON),
    tokenizer=JSON
    | st.fixed_dictionaries({"added_tokens": st.lists(st.dictionaries(st.sampled_from(["content", "id"]), JSON))}),
    config=JSON | st.dictionaries(st.sampled_from(["cls_token", "sep_token", "bos_token"]), JSON),
    architecture=st.sampled_from(["BertModel", "NomicBertModel", "Gemma3TextModel"]),
    whole=st.sets(st.sampled_from(["modules", "pooling", "tokenizer", "config"])),
)
def test_any_json_in_these_files_is_taken_or_refused(
    modules: Any, pooling: Any, tokenizer: Any, config: Any, architecture: str, whole: set[str]
) -> None:
    given_files = {"modules": modules, "pooling": pooling, "tokenizer": tokenizer, "config": config}
    try:
        found = checked(BERT, architecture, **{name: value for name, value in given_files.items() if name not in whole})
    except Refusal as refusal:
        str(refusal).encode()
    else:
        assert all(isinstance(json.loads(content), dict | list) for content in found.changed.values() if content)
