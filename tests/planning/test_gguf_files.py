"""Which GGUF files of a repository a tag means, and which files are not models."""

import pytest

from proxy.config.values import Quantization
from proxy.errors import Refusal
from proxy.gguf import engine_ggml
from proxy.planning.capabilities import UNSUPPORTED
from proxy.planning.gguf_files import (
    GgufChoice,
    choose_gguf,
    choose_projector,
    find_gguf,
    gguf_models,
    passed_over,
)
from proxy.sources.base import RepositoryFile
from tests.planning.listings import listing

Q4_K_M = Quantization.Q4_K_M

needs_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


def label_of(path: str) -> str | None:
    [model] = gguf_models("acme/model", listing(path).files)
    return model.label


def chosen(tag: str, *paths: str, default: Quantization = Q4_K_M) -> GgufChoice:
    return choose_gguf("acme/model", listing(*paths).files, tag, default)


def paths_of(choice: GgufChoice) -> list[str]:
    return [file.path for file in choice.model.files]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("model.Q4_K_M.gguf", "Q4_K_M"),
        ("model-q4_k_m.gguf", "Q4_K_M"),
        ("model_Q4_K_M.GGUF", "Q4_K_M"),
        ("Q4_K_M.gguf", "Q4_K_M"),
        ("model.i1-IQ4_XS.gguf", "IQ4_XS"),
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-TQ1_0.gguf", "TQ1_0"),
        ("model-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("model-ud-iq1_s.gguf", "UD-IQ1_S"),
        ("model-Q4_K.gguf", "Q4_K"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("model-NVFP4.gguf", "NVFP4"),
        ("model-bf16.gguf", "BF16"),
        ("model-F16.gguf", "F16"),
        ("model-fp16.gguf", "F16"),
        ("model-FP32.gguf", "F32"),
        ("model-F16-to-Q8_0.gguf", "Q8_0"),
        ("Q2-Chat-Q5_K_S-00001-of-00001.gguf", "Q5_K_S"),
        ("Q4_K_M/model.gguf", "Q4_K_M"),
        ("Q8_0/model-Q4_K_M.gguf", "Q4_K_M"),
        ("UD-Q2_K_XL/deep/model.gguf", "UD-Q2_K_XL"),
        ("model.gguf", None),
        ("modelQ4_K_M.gguf", None),
        ("pdf16.gguf", None),
        ("BF160.gguf", None),
    ],
)
def test_a_label_is_the_last_quantization_in_the_name(path: str, label: str | None) -> None:
    """Or in the names of the folders."""
    assert label_of(path) == label


@pytest.mark.parametrize(
    ("tag", "path"),
    [
        ("q4_K_M", "model-Q4_K_M.gguf"),
        ("Q4_K", "model-Q4_K.gguf"),
        ("ud-q4_k_m", "model-UD-Q4_K_M.gguf"),
        ("Q5_K_M", "Q5_K_M/model.gguf"),
        ("FP16", "model-F16.gguf"),
        ("f16", "model-F16.gguf"),
        ("MODEL-ud-Q4_K_M.gguf", "model-UD-Q4_K_M.gguf"),
        ("other.GGUF", "more/other.gguf"),
    ],
)
def test_a_tag_is_a_whole_label_or_a_file_name_in_any_case(tag: str, path: str) -> None:
    files = ("model-UD-Q4_K_M.gguf", "model-Q4_K_M.gguf", "model-Q4_K.gguf", "Q5_K_M/model.gguf", "model-F16.gguf")
    choice = chosen(tag, *files, "more/other.gguf")
    assert paths_of(choice) == [path]
    assert (choice.quantization, choice.as_the_hub) == (None, True)


def test_of_two_with_one_label_the_top_folder_wins() -> None:
    """The file name chooses the other one."""
    files = ("b/model-Q4_K_M.gguf", "z-Q4_K_M.gguf", "a/model-Q4_K_M.gguf")
    assert paths_of(chosen("q4_k_m", *files)) == ["z-Q4_K_M.gguf"]
    assert paths_of(chosen("model-q4_k_m.gguf", *files)) == ["a/model-Q4_K_M.gguf"]


def test_a_file_name_goes_before_a_label() -> None:
    assert paths_of(chosen("q8_0.gguf", "a-Q8_0.gguf", "Q8_0.gguf")) == ["Q8_0.gguf"]


def test_the_shards_of_a_split_are_one_model_in_their_order() -> None:
    shards = [f"Q8_0/model-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    files = (shards[2], "model-Q4_K_M.gguf", shards[0], shards[1])
    for tag in ("q8_0", "model-q8_0-00002-of-00003.gguf"):
        choice = chosen(tag, *files)
        assert paths_of(choice) == shards
        assert choice.model.is_split
        assert not choice.as_the_hub  # its registry refuses them
    assert chosen("q4_k_m", *files).as_the_hub


def test_two_folders_or_two_counts_are_two_models() -> None:
    one = [f"{folder}/m-0000{number}-of-00002.gguf" for folder in ("Q8_0", "Q4_K_M") for number in (1, 2)]
    two = [f"Q8_0/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    models = gguf_models("acme/model", listing(*one, *two).files)
    assert [[file.path for file in model.files] for model in models] == [one[2:], one[:2], two]


def test_a_missing_shard_is_refused_with_its_number() -> None:
    files = ("m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf")
    with pytest.raises(Refusal, match="acme/model: m-Q8_0-00001-of-00003.gguf is one of 3 shards, but number 2 is not"):
        chosen("q8_0", *files)


INCOMPLETE = "m-Q4_K_M-00001-of-00003.gguf"


@pytest.mark.parametrize(
    "incomplete", ["m-00002-of-00002.gguf", INCOMPLETE, f"a/{INCOMPLETE}", "Q4_0-00003-of-00003.gguf"]
)
def test_an_incomplete_split_only_spoils_its_own_tag(incomplete: str) -> None:
    files = (incomplete, "m-Q8_0.gguf", "m-Q2_K-00001-of-00002.gguf", "m-Q2_K-00002-of-00002.gguf")
    assert paths_of(chosen("q8_0", *files)) == ["m-Q8_0.gguf"]
    assert paths_of(chosen("q2_k", *files)) == list(files[2:])
    assert chosen("q8_0", *files).warnings == ()
    own = incomplete.rpartition("/")[2]
    with pytest.raises(Refusal, match=f"{incomplete} is one of . shards, .* incomplete; .*these: .*Q8_0"):
        chosen(own, *files)


def test_latest_is_the_best_whole_model() -> None:
    choice = chosen("latest", INCOMPLETE, "m-Q4_0.gguf", "m-Q8_0.gguf")
    assert paths_of(choice) == ["m-Q4_0.gguf"]
    assert not choice.as_the_hub  # its registry would take the shard
    [warning] = choice.warnings
    assert (
        f"{INCOMPLETE} is one of 3 shards, but number 2 is not in the repository: its upload is incomplete" in warning
    )
    assert chosen("latest", "m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf").warnings == ()


def test_of_two_with_one_label_the_whole_one_is_taken() -> None:
    choice = chosen("q4_k_m", INCOMPLETE, "whole/m-Q4_K_M.gguf")
    assert paths_of(choice) == ["whole/m-Q4_K_M.gguf"]
    assert not choice.as_the_hub
    assert "incomplete" in choice.warnings[0]


@needs_ggml
def test_the_proxy_makes_what_is_incomplete_from_unquantized_weights() -> None:
    choice = chosen("q4_k_m", INCOMPLETE, "m-F16.gguf")
    assert (paths_of(choice), choice.quantization) == (["m-F16.gguf"], Quantization.Q4_K_M)
    assert "incomplete" in choice.warnings[0]
    with pytest.raises(Refusal, match="m-IQ1_S-00001-of-00002.gguf is one of 2 shards"):
        chosen("iq1_s", "m-IQ1_S-00001-of-00002.gguf", "m-F16.gguf")


def test_an_empty_file_is_no_model_and_no_projector() -> None:
    empty = [RepositoryFile("m-Q4_K_M.gguf", 0), RepositoryFile("mmproj-F16.gguf", 0)]
    files = [*empty, *listing("m-Q8_0.gguf").files]
    choice = choose_gguf("acme/model", files, "latest", Q4_K_M)
    assert paths_of(choice) == ["m-Q8_0.gguf"]
    assert "acme/model/m-Q4_K_M.gguf is empty" in choice.warnings[0]
    assert choose_projector(choice.model, files) is None
    with pytest.raises(
        Refusal, match="acme/model/m-Q4_K_M.gguf is empty; ask the repository's owner to upload it again"
    ):
        choose_gguf("acme/model", empty, "latest", Q4_K_M)


def test_beside_other_weights_an_incomplete_gguf_is_passed_over() -> None:
    models = gguf_models("acme/model", listing(INCOMPLETE, "m-Q8_0.gguf").files)
    assert passed_over(models, "q8_0") == passed_over(models, "latest") == ()
    assert "incomplete" in passed_over(models, "q4_k_m")[0]
    with pytest.raises(Refusal, match="its upload is incomplete; ask the repository's owner to upload it again"):
        passed_over(models, INCOMPLETE)


def test_a_shard_alone_is_a_whole_file_where_it_is_one_of_one() -> None:
    choice = chosen("latest", "m-Q4_K_M-00001-of-00001.gguf")
    assert not choice.model.is_split


@pytest.mark.parametrize(
    "companion",
    [
        "mmproj-Q4_K_M.gguf",
        "model.mmproj-Q4_K_M.gguf",
        "imatrix-Q4_K_M.gguf",
        "imatrix.gguf",
        "model-imatrix.gguf",
        "mtp-model-Q4_K_M.gguf",
        "MTP-Q4_K_M.gguf",
        "eagle3-model-Q4_K_M.gguf",
        "eagle-model-Q4_K_M.gguf",
        "model-draft-Q4_K_M.gguf",
        "Draft.Q4_K_M.gguf",
    ],
)
@pytest.mark.parametrize("tag", ["latest", "q4_k_m"])
def test_a_companion_is_never_the_model(companion: str, tag: str) -> None:
    """The model is last in alphabetical order."""
    assert paths_of(chosen(tag, companion, "zz/zz-Q4_K_M.gguf")) == ["zz/zz-Q4_K_M.gguf"]


@pytest.mark.parametrize("path", ["eagle2-9b-Q4_K_M.gguf", "mtp-Q4_K_M.gguf", "draft-0.5b-Q4_K_M.gguf"])
def test_a_repository_may_hold_a_draft_model_only(path: str) -> None:
    assert paths_of(chosen("q4_k_m", path, "mmproj-F16.gguf")) == [path]


@pytest.mark.parametrize(
    "path",
    ["model.imatrix-Q4_K_M.gguf", "overdrafts-Q4_K_M.gguf", "Legal-Drafter-Q4_K_M.gguf", "beagle-7b-Q4_K_M.gguf"],
)
def test_names_that_only_look_like_companions(path: str) -> None:
    assert paths_of(chosen("latest", path, "zz/other-Q8_0.gguf")) == [path]


@pytest.mark.parametrize("files", [("mmproj-F16.gguf",), ("imatrix.gguf", "x-imatrix.gguf")])
def test_projectors_and_matrices_alone_are_refused(files: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match="acme/model has GGUF files, but none of them is a complete model"):
        chosen("latest", *files)


@pytest.mark.parametrize(
    ("default", "files", "path", "as_the_hub"),
    [
        (Q4_K_M, ("m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"), "m-Q4_K_M.gguf", True),
        (Quantization.Q8_0, ("m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"), "m-Q8_0.gguf", False),
        (Quantization.Q8_0, ("m-Q8_0.gguf",), "m-Q8_0.gguf", True),
        (Quantization.Q8_0, ("m-Q4_K_M.gguf", "m-Q5_0.gguf"), "m-Q4_K_M.gguf", True),
        (Q4_K_M, ("m-IQ4_XS.gguf", "m-Q3_K.gguf", "m-Q4_K_S.gguf", "m-Q4_0.gguf"), "m-Q4_0.gguf", True),
        (Q4_K_M, ("m-Q3_K.gguf", "m-IQ4_XS.gguf", "m-UD-Q4_K_XL.gguf"), "m-IQ4_XS.gguf", True),
        (Q4_K_M, ("z.gguf", "m-F16.gguf"), "m-F16.gguf", True),
        (Q4_K_M, ("model.gguf",), "model.gguf", True),
        (Q4_K_M, ("sub/m-Q4_K_M.gguf", "m-Q8_0.gguf"), "sub/m-Q4_K_M.gguf", True),
        (
            Q4_K_M,
            ("m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"),
            "m-Q4_K_M-00001-of-00002.gguf",
            False,
        ),
    ],
)
@pytest.mark.parametrize("tag", ["latest", "LATEST"])
def test_latest_is_the_default_then_what_the_hub_takes(
    default: Quantization, files: tuple[str, ...], path: str, as_the_hub: bool, tag: str
) -> None:
    choice = chosen(tag, *files, default=default)
    assert paths_of(choice)[0] == path
    assert (choice.quantization, choice.as_the_hub) == (None, as_the_hub)


@pytest.mark.parametrize("tag", ["latest", "Q4_K_M"])
def test_the_order_of_the_listing_does_not_matter(tag: str) -> None:
    files = ("b-Q4_K_M.gguf", "a-Q4_K_M.gguf")
    assert paths_of(chosen(tag, *files)) == paths_of(chosen(tag, *files[::-1])) == ["a-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("files", "source"),
    [
        (("m-BF16.gguf", "m-F16.gguf", "m-F32.gguf", "m-Q8_0.gguf"), "m-F16.gguf"),
        (("m-F32.gguf", "m-BF16.gguf"), "m-BF16.gguf"),
        (("m-FP32.gguf",), "m-FP32.gguf"),
    ],
)
@pytest.mark.parametrize("tag", ["q4_K_M", "Q4_K_S", "q5_k_m", "IQ4_XS", "mxfp4_moe", "q2_k"])
def test_what_is_missing_is_made_of_unquantized_weights(files: tuple[str, ...], source: str, tag: str) -> None:
    choice = chosen(tag, *files)
    assert paths_of(choice) == [source]
    assert (choice.quantization, choice.as_the_hub) == (Quantization(tag), False)


@pytest.mark.parametrize(("tag", "quantization"), [("q4_k", "Q4_K_M"), ("Q5_K", "Q5_K_M"), ("q3_K", "Q3_K_M")])
def test_a_short_name_is_the_middle_one_where_it_is_no_label(tag: str, quantization: str) -> None:
    """As llama.cpp reads it."""
    choice = chosen(tag, "m-F16.gguf")
    assert (paths_of(choice), choice.quantization) == (["m-F16.gguf"], Quantization(quantization))
    assert not choice.as_the_hub
    label = chosen(tag, "m-F16.gguf", f"m-{tag.upper()}.gguf")
    assert (paths_of(label), label.quantization) == ([f"m-{tag.upper()}.gguf"], None)


@pytest.mark.parametrize("label", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("tag", ["iq1_s", "IQ1_S"])
def test_what_needs_an_importance_matrix_says_so(tag: str, label: str) -> None:
    with pytest.raises(
        Refusal, match=r"^acme/model: IQ1_S needs an importance matrix, .*; the nearest .* without one is Q2_K$"
    ):
        chosen(tag, f"m-{label}.gguf")
    assert paths_of(chosen(tag, f"m-{label}.gguf", "m-IQ1_S.gguf")) == ["m-IQ1_S.gguf"]
    with pytest.raises(Refusal, match="no GGUF for the tag .*; pull with one of these: Q8_0$"):
        chosen(tag, "m-Q8_0.gguf")


def test_a_refusal_lists_the_tags_that_there_are() -> None:
    with pytest.raises(Refusal) as refusal:
        chosen("q5_k_m", "m-Q8_0.gguf", "Q8_0/m.gguf", "m-UD-Q4_K_XL.gguf", "plain.gguf", "mmproj-F16.gguf")
    assert str(refusal.value) == (
        "acme/model has no GGUF for the tag 'q5_k_m'; pull with one of these: Q8_0, UD-Q4_K_XL, plain.gguf, m.gguf"
    )


LONG = f"{'a' * 76}.gguf"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (LONG, "the tag has 81 characters, and Ollama takes at most 80"),
        ("a model.gguf", "the tag contains ' ', and Ollama takes only letters, digits and _ - ."),
        ("-m.gguf", "the tag does not begin with a letter, a digit or _, as Ollama demands"),
        ("é.gguf", "the tag does not begin with a letter, a digit or _, as Ollama demands"),
    ],
)
def test_a_name_that_cannot_be_typed_is_not_offered(name: str, rule: str) -> None:
    """A tag of Ollama has at most 80 characters."""
    with pytest.raises(Refusal) as refusal:
        chosen("q5_k_m", "b.gguf", f"z/{name}")
    assert str(refusal.value) == (
        f"acme/model has no GGUF for the tag 'q5_k_m'; no tag means z/{name}: {rule}; pull with one of these: b.gguf"
    )


def test_the_longest_name_that_can_be_typed_is_offered() -> None:
    with pytest.raises(Refusal, match=f": {LONG[1:]}$"):
        chosen("q5_k_m", LONG[1:])


def test_without_a_name_that_can_be_typed_the_offer_is_latest() -> None:
    with pytest.raises(Refusal, match="; pull with one of these: latest$"):
        chosen("q5_k_m", LONG)
    assert paths_of(chosen("latest", LONG)) == [LONG]


def test_a_second_file_of_one_name_is_not_offered() -> None:
    with pytest.raises(Refusal, match="; no tag means b/m.gguf: another file has this name too; .*: m.gguf$"):
        chosen("q5_k_m", "a/m.gguf", "b/M.gguf".replace("M", "m"))


def offered(refused: pytest.ExceptionInfo[Refusal]) -> list[str]:
    return str(refused.value).rpartition(": ")[2].split(", ")


@needs_ggml
@pytest.mark.parametrize("tag", ["q7", "q4_k_xl", "auto"])
def test_a_refusal_lists_what_is_made_here_and_runs(tag: str) -> None:
    with pytest.raises(
        Refusal, match="of these: BF16; or with one that the proxy makes from its BF16: Q4_K_M, Q5_K_M,"
    ) as refusal:
        chosen(tag, "m-BF16.gguf")
    assert offered(refusal) == [one for one in Quantization if one not in UNSUPPORTED]


def test_a_machine_with_numpy_alone_offers_what_that_makes(only_numpy: None) -> None:
    with pytest.raises(Refusal) as refusal:
        chosen("q7", "m-BF16.gguf")
    assert offered(refusal) == ["Q8_0", "F16", "BF16", "F32"]


@pytest.mark.parametrize("tag", ["q4_k_m", "Q4", "NL", "model", "Q4_K.gguf", "XL", "m"])
def test_what_is_only_a_part_of_a_label_or_name_is_not_found(tag: str) -> None:
    files = listing("model-Q4_K.gguf", "m-UD-Q4_K_M.gguf", "m-IQ4_NL.gguf", "m-UD-Q4_K_XL.gguf").files
    assert find_gguf(gguf_models("acme/model", files), tag) is None


@pytest.mark.parametrize(
    ("path", "projectors", "expected"),
    [
        ("m-Q4_K_M.gguf", (), None),
        ("m-Q4_K_M.gguf", ("mmproj-F16.gguf",), "mmproj-F16.gguf"),
        ("m-Q4_K_M.gguf", ("mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"), "mmproj-F16.gguf"),
        ("m-Q4_K_M.gguf", ("mmproj-BF16.gguf", "mmproj-F32.gguf"), "mmproj-BF16.gguf"),
        ("m-Q8_0.gguf", ("mmproj-F16.gguf", "mmproj-Q8_0.gguf", "mmproj-Q4_0.gguf"), "mmproj-Q8_0.gguf"),
        ("m-F16.gguf", ("mmproj-BF16.gguf", "mmproj-Q8_0.gguf", "mmproj-F16.gguf"), "mmproj-F16.gguf"),
        ("m-F32.gguf", ("mmproj-F16.gguf", "mmproj-F32.gguf"), "mmproj-F32.gguf"),
        ("m.gguf", ("mmproj-F32.gguf", "mmproj-Q8_0.gguf"), "mmproj-Q8_0.gguf"),
        ("m.gguf", ("mmproj-model.gguf", "mmproj-F32.gguf"), "mmproj-model.gguf"),
        ("a/b/m-Q8_0.gguf", ("mmproj-Q8_0.gguf", "a/mmproj-F32.gguf", "a/c/mmproj-F16.gguf"), "a/c/mmproj-F16.gguf"),
        ("a/b/m-Q8_0.gguf", ("a/mmproj-Q8_0.gguf", "a/b/mmproj-F32.gguf"), "a/b/mmproj-F32.gguf"),
        ("a/b/m-Q8_0.gguf", ("c/b/mmproj-F16.gguf", "c/mmproj-Q8_0.gguf"), "c/mmproj-Q8_0.gguf"),
        ("m-Q8_0.gguf", ("model-MMPROJ-f16.GGUF",), "model-MMPROJ-f16.GGUF"),
        ("m-Q8_0.gguf", ("mmproj-F16.json", "mmproj-F16.safetensors"), None),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_projector_from_the_nearest_folder_and_bits(
    path: str, projectors: tuple[str, ...], expected: str | None, turned: bool
) -> None:
    paths = (path, *projectors)
    files = listing(*(paths[::-1] if turned else paths)).files
    [model] = gguf_models("acme/model", files)
    projector = choose_projector(model, files)
    assert (projector.path if projector else None) == expected
