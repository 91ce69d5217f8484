"""Which files of a repository become the model, and refusals from the listing and the index alone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.planning.json_files import MAX_DEPTH, json_object
from proxy.planning.weights import INDEX, NotConvertible, choose_files, has_weights
from proxy.pull.reading import READABLE_BYTES, check_readable
from proxy.sources.base import RepositoryFile
from tests.planning.listings import BASE, Listing, index, listing
from tests.planning.test_safetensors import JSON


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model-00001-of-00001.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "original/model.safetensors", "onnx/model.safetensors"], ["model.safetensors"]),
    ],
)
def test_without_an_index_one_family_of_weights_is_taken(present: list[str], chosen: list[str]) -> None:
    selection = choose_files(listing(*present, *BASE), None)
    assert [file.path for file in selection.weights] == chosen


def test_with_an_index_exactly_its_shards_are_taken() -> None:
    repository = listing("model-a.safetensors", "model-b.safetensors", "model.safetensors", "old.safetensors", *BASE)
    selection = choose_files(repository, index("model-b.safetensors", "model-a.safetensors", "model-b.safetensors"))
    assert [file.path for file in selection.weights] == ["model-a.safetensors", "model-b.safetensors"]


def test_the_companions_are_what_ollama_reads_and_nothing_else() -> None:
    repository = listing(
        "model.safetensors",
        *BASE,
        "tokenizer.model",
        "generation_config.json",
        "1_Pooling/config.json",
        "README.md",
        "original/params.json",
        "vocab.json",
        "pytorch_model.bin",
        "onnx/config.json",
    )
    paths = [file.path for file in choose_files(repository, None).companions]
    assert paths == ["config.json", "tokenizer.json", "tokenizer.model", "generation_config.json"]


@pytest.mark.parametrize(
    "path", ["../x.safetensors", "/x.safetensors", "a\\x.safetensors", "x\0.safetensors", "a//b", ""]
)
def test_an_unsafe_path_in_the_index_is_refused(path: str) -> None:
    with pytest.raises(Refusal, match="unsafe file"):
        choose_files(listing("model.safetensors", *BASE), index("model.safetensors", path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (index("sub/model.safetensors"), "reads only"),
        (index(5), "unsafe file"),
        (index(["model.safetensors"]), "unsafe file"),
        (b"{}", "names no shards"),
        (b'{"weight_map": []}', "names no shards"),
        (b"[1]", "not a JSON object"),
        (b"\xff", "is not JSON"),
    ],
)
def test_a_broken_index_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=message) as error:
        choose_files(listing("model.safetensors", "sub/model.safetensors", *BASE), content)
    assert "acme/model/model.safetensors.index.json" in str(error.value)


def test_an_index_of_missing_shards_is_refused() -> None:
    with pytest.raises(
        Refusal, match=r"index\.json names gone\.safetensors, which the repository does not have; .*incompl"
    ):
        choose_files(
            listing("sub/model.safetensors", "model-00001-of-00002.safetensors", *BASE), index("gone.safetensors")
        )


@pytest.mark.parametrize(
    "whole",
    [["model.safetensors"], ["model-1-of-2.safetensors", "model-2-of-2.safetensors"], ["consolidated.safetensors"]],
)
def test_beside_an_index_of_missing_shards_whole_weights_are_taken(whole: list[str]) -> None:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    selection = choose_files(listing(*whole, *shards[:2], *BASE), index(*shards))
    assert [file.path for file in selection.weights] == whole
    assert selection.weight_map is None
    assert f"names {shards[2]}, which the repository does not have" in selection.warnings[0]
    assert all(warning.endswith(f"; the proxy takes {whole[0]}") for warning in selection.warnings)


@pytest.mark.parametrize(
    ("whole", "incomplete"),
    [
        (["consolidated.safetensors"], ["model-00001-of-00002.safetensors"]),
        (["consolidated.safetensors"], ["model-1-of-3.safetensors", "model-3-of-3.safetensors"]),
        (["model.fp16.safetensors"], ["model-00002-of-00002.safetensors"]),
        (["consolidated-1-of-2.safetensors", "consolidated-2-of-2.safetensors"], ["model-1-of-2.safetensors"]),
        (
            ["model-1-of-3.safetensors", "model-2-of-3.safetensors", "model-3-of-3.safetensors"],
            ["model-1-of-2.safetensors"],
        ),
    ],
)
def test_whole_weights_are_taken_and_the_incomplete_named(whole: list[str], incomplete: list[str]) -> None:
    selection = choose_files(listing(*whole, *incomplete, *BASE), None)
    assert [file.path for file in selection.weights] == whole
    assert selection.weight_map is None
    [warning] = selection.warnings
    assert f"{incomplete[0]} is one of " in warning
    assert "its upload is incomplete" in warning


def test_an_empty_weight_file_is_not_taken() -> None:
    files = (RepositoryFile("model.safetensors", 0), *listing("consolidated.safetensors", *BASE).files)
    selection = choose_files(Listing(files), None)
    assert [file.path for file in selection.weights] == ["consolidated.safetensors"]
    assert selection.warnings[0].startswith("acme/model/model.safetensors is empty; ask the repository's owner")
    with pytest.raises(Refusal, match=r"names model\.safetensors, which is empty"):
        choose_files(Listing(files[:1] + files[2:]), index("model.safetensors"))


def test_shards_may_be_counted_from_zero() -> None:
    shards = ["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"]
    assert [file.path for file in choose_files(listing(*shards, *BASE), None).weights] == shards


@pytest.mark.parametrize(
    ("present", "missing"), [((1,), 2), ((2,), 1), ((1, 3), 2), ((0, 1), 2), ((1, 2), 3), ((3,), 1)]
)
def test_incomplete_weights_alone_are_refused(present: tuple[int, ...], missing: int) -> None:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in present]
    with pytest.raises(Refusal, match=f"{shards[0]} is one of 3 shards, but number {missing} is not .* incomplete"):
        choose_files(listing(*shards, *BASE), None)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([*BASE, "pytorch_model.bin"], "no safetensors weights"),
        ([*BASE, "adapter_model.safetensors"], "no safetensors weights"),
        (["model.safetensors", "tokenizer.json"], "no config.json"),
        (["model.safetensors", "config.json", "vocab.json"], "no tokenizer"),
    ],
)
def test_a_repository_that_cannot_become_a_model_is_refused(present: list[str], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        choose_files(listing(*present), None)


def test_large_files_without_a_sha256_are_refused() -> None:
    """They would fill the memory."""
    files = [RepositoryFile(f"file-{number}.json", READABLE_BYTES // 8, git_sha1="1" * 40) for number in range(9)]
    with pytest.raises(Refusal, match="acme/model/file-0.json has 8388608 bytes"):
        check_readable("acme/model", files)
    check_readable("acme/model", files[:8])
    with pytest.raises(Refusal):
        check_readable("acme/model", files[:2], READABLE_BYTES // 8)


def test_an_empty_file_is_not_read() -> None:
    empty = RepositoryFile("added_tokens.json", 0)
    selection = choose_files(Listing((empty, *listing("model.safetensors", *BASE).files)), None)
    assert empty not in selection.companions


def test_companions_that_the_repository_names_are_taken_too() -> None:
    repository = listing("model.safetensors", *BASE, "2_Dense/config.json", "2_Dense/model.safetensors")
    selection = choose_files(repository, None, ("2_Dense/config.json", "2_Dense/model.safetensors", "gone.json"))
    assert [file.path for file in selection.companions] == [*BASE, "2_Dense/config.json"]
    assert [file.path for file in selection.weights] == ["model.safetensors", "2_Dense/model.safetensors"]
    with pytest.raises(Refusal, match="unsafe file"):
        choose_files(listing("model.safetensors", *BASE, "../x.json"), None, ("../x.json",))


def test_a_pickle_is_named_where_there_is_nothing_else() -> None:
    with pytest.raises(NotConvertible, match="pytorch_model.bin is a pickle"):
        choose_files(listing(*BASE, "pytorch_model.bin"), None)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["model.safetensors"], True),
        (["model.safetensors.index.json"], True),
        (["consolidated.00.safetensors"], True),
        (["adapter_model.safetensors", "onnx/model.safetensors", "pytorch_model.bin", "m.gguf"], False),
    ],
)
def test_safetensors_of_a_whole_model_are_recognised(paths: list[str], expected: bool) -> None:
    assert has_weights(listing(*paths).files) is expected


def test_an_empty_tokenizer_is_none() -> None:
    empty = RepositoryFile("tokenizer.json", 0)
    with pytest.raises(NotConvertible, match="has no tokenizer"):
        choose_files(Listing((empty, *listing("model.safetensors", "config.json").files)), None)


def test_tekken_alone_is_named_in_the_refusal() -> None:
    with pytest.raises(NotConvertible, match=r"has no tokenizer but tekken\.json, Mistral's own"):
        choose_files(listing("model.safetensors", "config.json", "tekken.json"), None)


def test_json_keeps_large_numbers_and_surrogate_pairs() -> None:
    text = '\ufeff{"model_max_length": 1000000000000000019884624838656, "a": "\\ud83d\\ude00"}'
    assert json_object("x", text.encode()) == {"model_max_length": 10**30 + 19884624838656, "a": "\U0001f600"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": "\\ud83d"}',
        b'{"\\uDE00": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"a": ' * 100_000,
        '{"a": 1}'.encode("utf-16"),
        b"",
    ],
)
def test_json_that_cannot_be_written_again_is_refused(content: bytes) -> None:
    with pytest.raises(Refusal, match="acme/x is (empty|not JSON|nested)"):
        json_object("acme/x", content)


def test_json_may_be_as_deep_as_any_real_file() -> None:
    assert json_object("x", b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}")


@given(
    index=JSON
    | st.fixed_dictionaries(
        {"weight_map": JSON | st.dictionaries(st.text(), JSON | st.sampled_from(["model.safetensors", INDEX, "../x"]))}
    )
)
def test_any_json_as_index_is_followed_or_refused(index: Any) -> None:
    repository = listing("model.safetensors", "model-1.safetensors", INDEX, *BASE)
    try:
        selection = choose_files(repository, json.dumps(index).encode())
    except Refusal as refusal:
        str(refusal).encode()
    else:
        assert {file.path for file in selection.weights} <= {"model.safetensors", "model-1.safetensors"}
