"""Pooling from modules.json: read, or refused before the model makes wrong embeddings."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.gguf.conversion import Pooling
from proxy.planning.embedding import module_files, pooling_of
from proxy.planning.weights import NotConvertible
from tests.kit.tiny_models import newer_sentence_transformer, tiny_bert, tiny_embedding_gemma
from tests.planning.test_safetensors import JSON

POOLING, MODULES = "1_Pooling/config.json", "modules.json"
BERT = tiny_bert()
MODULE = "sentence_transformers.models."


def pooled(files: dict[str, bytes], *, embeds: bool = True, **changes: Any) -> Pooling | None:
    """The pooling of a repository with changed files; the value ... removes a file."""
    contents = dict(files)
    for name, value in changes.items():
        path = {"pooling": POOLING, "modules": MODULES}[name]
        contents.pop(path)
        if value is not ...:
            contents[path] = value if isinstance(value, bytes) else json.dumps(value).encode()
    return pooling_of("acme/model", contents, embeds=embeds)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("mean", Pooling.MEAN), ("cls", Pooling.CLS), ("lasttoken", Pooling.LAST)]
)
def test_old_and_new_pooling_configurations_are_equal(mode: Any, pooling: Pooling) -> None:
    older = tiny_bert(pooling=mode)
    assert pooled(older) is pooled(newer_sentence_transformer(older)) is pooling


@pytest.mark.parametrize("files", [tiny_bert(pooling="max"), newer_sentence_transformer(tiny_bert(pooling="max"))])
def test_pooling_that_no_gguf_can_say_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(NotConvertible, match=f"{POOLING} pools by max; Ollama knows mean and cls and lasttoken"):
        pooled(files)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode": 5},
        {"pooling_mode": [{}]},
        {"pooling_mode": {"mean": 1}},
        {"pooling_mode": "cls", "pooling_mode_mean_tokens": True},
        {},
    ],
)
def test_pooling_by_another_or_by_two_or_by_nothing_is_refused(pooling: dict[str, Any]) -> None:
    with pytest.raises(NotConvertible, match="Ollama knows mean and cls and lasttoken"):
        pooled(BERT, pooling=pooling)


def test_a_list_of_one_way_to_pool_is_that_way() -> None:
    assert pooled(BERT, pooling={"pooling_mode": ["cls"]}) is Pooling.CLS


@pytest.mark.parametrize("modules", [..., [], {}, b"[", 5, [5], [{"type": f"{MODULE}Transformer", "path": ""}]])
def test_without_pooling_only_a_text_model_is_accepted(modules: Any) -> None:
    with pytest.raises(NotConvertible, match="acme/model has no modules.json that describes how its embeddings"):
        pooled(BERT, modules=modules)
    assert pooled(BERT, embeds=False, modules=modules) is None


def test_without_the_file_on_pooling_an_upload_is_incomplete() -> None:
    with pytest.raises(Refusal, match="acme/model/1_Pooling/config.json is missing"):
        pooled(BERT, pooling=...)


def test_a_dense_layer_at_the_end_of_a_bert_is_refused() -> None:
    modules = [*json.loads(BERT[MODULES]), {"type": f"{MODULE}Dense", "path": "2_Dense"}]
    with pytest.raises(NotConvertible, match="has the modules Transformer, Pooling, Normalize, Dense"):
        pooled(BERT, modules=modules)


def test_the_dense_layers_of_embedding_gemma_belong_to_it() -> None:
    assert module_files(tiny_embedding_gemma()[MODULES]) == (
        "1_Pooling/config.json",
        *("2_Dense/config.json", "2_Dense/model.safetensors"),
        *("3_Dense/config.json", "3_Dense/model.safetensors"),
    )


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


@given(
    modules=JSON | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["a.Pooling", "Dense", 5]), "path": JSON})),
    pooling=JSON | st.dictionaries(st.sampled_from(["pooling_mode", "pooling_mode_cls_token"]), JSON),
    whole=st.sets(st.sampled_from(["modules", "pooling"])),
)
def test_any_json_in_these_files_is_taken_or_refused(modules: Any, pooling: Any, whole: set[str]) -> None:
    given_files = {"modules": modules, "pooling": pooling}
    try:
        pooling = pooled(BERT, **{name: value for name, value in given_files.items() if name not in whole})
    except Refusal as refusal:
        str(refusal).encode()
    else:
        assert isinstance(pooling, Pooling)
