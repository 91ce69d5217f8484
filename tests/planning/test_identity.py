"""Identities of plans: the bytes and their transforms count, the place and the texts do not."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from proxy.config.sections import ModelSettings
from proxy.gguf.header import Field, write_header
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.gguf.transforms import Transform
from proxy.planning import identity
from proxy.planning.identity import (
    data_identity,
    settings_identity,
    upload_identity,
    weights_identity,
    with_known_digests,
)
from proxy.planning.plan import Base, Format, Plan, Upload, small_file, weight_file
from proxy.planning.recipe import Literal, Range, Recipe, skip, verify_header
from proxy.sources.base import RepositoryFile
from tests.planning.listings import Listing

A, B = "a" * 64, "b" * 64
HASHED = RepositoryFile("model.safetensors", 100, sha256=A)
IN_GIT = RepositoryFile("model.safetensors", 100, git_sha1="c" * 40)
NAMELESS = RepositoryFile("model.safetensors", 100)
HERE = Listing((HASHED,))
MOVED = replace(HERE, commit="d" * 40)
ELSEWHERE = replace(HERE, id="acme/other")
CONFIG = small_file("config.json", b"{}")


UPPER = Transform(1, 1, bytes.upper)
HALVED = Transform(2, 1, lambda content: content[::2])


def made_of(*parts: Literal | Range) -> Upload:
    return Upload("model.safetensors", Recipe(parts))


def plan(*uploads: Upload, **fields: Any) -> Plan:
    made = uploads or (CONFIG, weight_file(HERE, "model.safetensors", HASHED))
    fields = {"repository": HERE, "quantization": "Q4_K_M", "is_converted": True, **fields}
    return Plan("hf.co/acme/model:q4_K_M", format=Format.SAFETENSORS, reason="a test", uploads=made, **fields)


def identities(one: Plan) -> tuple[str, str]:
    return weights_identity(one), settings_identity(one)


# ---- a blob


def test_a_known_digest_identifies_a_blob() -> None:
    content = Upload("tokenizer.json", Recipe((Literal(b"{}"),)))
    assert upload_identity(HERE, content) == CONFIG.digest == upload_identity(ELSEWHERE, CONFIG)
    whole = weight_file(HERE, "other.safetensors", HASHED)
    assert upload_identity(HERE, whole) == upload_identity(MOVED, whole) == whole.digest == f"sha256:{A}"


HEAD, TAIL = Range(HASHED, 0, 50), Range(HASHED, 50, 100)


def test_different_recipes_have_different_identities() -> None:
    parts: list[tuple[Literal | Range, ...]] = [
        (HEAD,),
        (TAIL,),
        (HEAD, TAIL),
        (TAIL, HEAD),
        (Range(HASHED, 0, 100),),
        (Range(replace(HASHED, sha256=B), 0, 50),),
        (Literal(b"x"), HEAD),
        (Literal(b"y"), HEAD),
        (structs.replace(HEAD, transform=UPPER),),
        (structs.replace(HEAD, transform=HALVED),),
        (Range(IN_GIT, 0, 50),),
        (Range(NAMELESS, 0, 50),),
        (Range(replace(NAMELESS, path="other.safetensors"), 0, 50),),
    ]
    blob_identities = [upload_identity(HERE, made_of(*some)) for some in parts]
    assert len(set(blob_identities)) == len(parts)
    assert blob_identities == [upload_identity(HERE, made_of(*some)) for some in parts]


@pytest.mark.parametrize("file", [HASHED, IN_GIT])
def test_a_part_of_a_file_with_a_digest_needs_no_commit(file: RepositoryFile) -> None:
    """It is the same in every commit and every repository."""
    part = made_of(Range(file, 0, 50))
    assert upload_identity(HERE, part) == upload_identity(MOVED, part) == upload_identity(ELSEWHERE, part)


@pytest.mark.parametrize("stop", [50, 100])
def test_a_file_without_a_digest_depends_on_the_commit(stop: int) -> None:
    """It is another one in every commit and every repository."""
    part = made_of(Range(NAMELESS, 0, stop))
    assert len({upload_identity(where, part) for where in (HERE, MOVED, ELSEWHERE)}) == 3


def test_a_transform_depends_on_version_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read other files of the commit."""
    part = made_of(structs.replace(HEAD, transform=UPPER))
    blob_identities = {upload_identity(where, part) for where in (HERE, MOVED, ELSEWHERE)}
    monkeypatch.setattr(identity, "__version__", "99")
    assert len(blob_identities | {upload_identity(HERE, part)}) == 4


def test_a_transform_id_replaces_commit_and_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same transform_id is the same blob in every commit, repository and version."""
    first, second = (made_of(structs.replace(HEAD, transform=UPPER, transform_id=one)) for one in ("a", "b"))
    assert len({upload_identity(where, first) for where in (HERE, MOVED, ELSEWHERE)}) == 1
    before = upload_identity(HERE, first)
    assert upload_identity(HERE, second) != before
    monkeypatch.setattr(identity, "__version__", "99")
    assert upload_identity(HERE, first) == before


def test_bytes_that_are_only_read_do_not_count() -> None:
    more = made_of(skip(HASHED, 0, 50), TAIL, verify_header("it", HASHED, 10, bool))
    assert {upload_identity(where, more) for where in (HERE, MOVED)} == {upload_identity(HERE, made_of(TAIL))}


# ---- the tensor data


def gguf_of(
    tensors: Sequence[TensorInfo] = (TensorInfo("a", (32,), TensorType.F32, 0),),
    data: Literal | Range = HEAD,
    **metadata: Field,
) -> Upload:
    """A GGUF that the proxy makes."""
    return made_of(Literal(write_header(metadata, tensors)), skip(HASHED, 0, 50), data)


def test_metadata_do_not_identify_tensor_data() -> None:
    ggufs = gguf_of(), gguf_of(template=Field.string("a")), gguf_of(template=Field.string("longer" * 99))
    assert len({upload_identity(HERE, gguf) for gguf in ggufs}) == 3
    assert len({data_identity(where, gguf) for gguf in ggufs for where in (HERE, MOVED)}) == 1


def test_whatever_the_data_depend_on_identifies_them() -> None:
    """Two types may need the same number of bytes, such as Q4_0 and IQ4_NL: the header tells them apart."""
    ggufs = [
        gguf_of(),
        gguf_of(data=TAIL),
        gguf_of(data=structs.replace(HEAD, transform=UPPER, transform_id="a")),
        gguf_of(data=structs.replace(HEAD, transform=UPPER, transform_id="b")),
        gguf_of(tensors=[TensorInfo("b", (32,), TensorType.F32, 0)]),
        gguf_of(tensors=[TensorInfo("a", (2, 16), TensorType.F32, 0)]),
        gguf_of(tensors=[TensorInfo("a", (32,), TensorType.Q4_0, 0)]),
        gguf_of(tensors=[TensorInfo("a", (32,), TensorType.IQ4_NL, 0)]),
        gguf_of(tensors=[TensorInfo("a", (32,), TensorType.F32, 32)]),
    ]
    assert len({data_identity(HERE, gguf) for gguf in ggufs}) == len(ggufs)


def test_other_blobs_have_no_tensor_data() -> None:
    header = Literal(write_header({}, []))
    whole_file = weight_file(HERE, "model.gguf", HASHED)
    for blob in (CONFIG, whole_file, made_of(header), made_of(Literal(b"GGUF"), HEAD), made_of(HEAD, TAIL)):
        assert data_identity(HERE, blob) is None


# ---- a plan


def test_the_order_of_uploads_does_not_count() -> None:
    """Their bytes and their paths do."""
    weights = weight_file(HERE, "model.safetensors", HASHED)
    assert weights_identity(plan(CONFIG, weights)) == weights_identity(plan(weights, CONFIG))
    others = [
        plan(small_file("config.json", b"[]"), weights),
        plan(small_file("tokenizer.json", b"{}"), weights),
        plan(CONFIG, replace(weights, path="other.safetensors")),
        plan(CONFIG, weight_file(HERE, "model.safetensors", replace(HASHED, sha256=B))),
        plan(CONFIG),
        plan(CONFIG, weights, small_file("tokenizer.json", b"")),
    ]
    assert len({weights_identity(plan(CONFIG, weights)), *map(weights_identity, others)}) == len(others) + 1
    assert {settings_identity(other) for other in others} == {settings_identity(plan())}


def test_every_quantization_is_a_model_of_its_own() -> None:
    plans = [plan(quantization=one) for one in (None, "F16", "Q8_0", "Q4_K_M", "Q4_K_S")]
    assert len(set(map(weights_identity, plans))) == len(plans)
    assert len(set(map(settings_identity, plans))) == 1


def test_the_case_of_an_adapters_base_does_not_count() -> None:
    on_base, in_capitals, on_other = (
        plan(base=Base(name, None)) for name in ("hf.co/acme/base:q8_0", "hf.co/Acme/BASE:Q8_0", "hf.co/acme/base:f16")
    )
    assert weights_identity(on_base) == weights_identity(in_capitals)
    assert len({weights_identity(one) for one in (plan(), on_base, on_other)}) == 3


SETTINGS = ModelSettings(template="t", system="s", parameters={"top_k": 1, "stop": ["a", "b"]}, license=["MIT"])


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "u"},
        {"template": None},
        {"template": ""},
        {"system": "t"},
        {"system": None},
        {"license": ["MIT", "BSD"]},
        {"license": None},
        {"parameters": {}},
        {"parameters": {"top_k": 2, "stop": ["a", "b"]}},
        {"parameters": {"top_k": 1}},
        {"parameters": {"top_k": 1, "stop": ["b", "a"]}},
        {"parameters": {"top_k": 1, "stop": ["a", "b"], "seed": 0}},
        {"parameters": {"top_p": 1, "stop": ["a", "b"]}},
    ],
    ids=str,
)
def test_every_setting_changes_the_settings_identity(changes: dict[str, Any]) -> None:
    fields = {"template": "t", "system": "s", "parameters": SETTINGS.parameters, "license": ["MIT"], **changes}
    before, after = plan(settings=SETTINGS), plan(settings=ModelSettings(**fields))
    assert settings_identity(before) != settings_identity(after)
    assert weights_identity(before) == weights_identity(after)


def test_the_order_of_parameters_does_not_count() -> None:
    turned = dict(reversed(SETTINGS.parameters.items()))
    other = ModelSettings(template="t", system="s", parameters=turned, license=["MIT"])
    assert list(turned) != list(SETTINGS.parameters)
    assert settings_identity(plan(settings=SETTINGS)) == settings_identity(plan(settings=other))


def test_a_template_is_its_text_wherever_that_was_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for file in (first, second):
        file.write_text("t")
    plans = [
        plan(settings=ModelSettings(template="t")),
        plan(settings=ModelSettings(template_file=str(first))),
        plan(settings=ModelSettings(template_file=str(second))),
    ]
    assert len(set(map(identities, plans))) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"warnings": ("it is slow",)},
        {"settings": ModelSettings(revision="main")},
        {"repository": MOVED},
        {"repository": ELSEWHERE},
        {"reason": "another"},
        {"name": "hf.co/acme/other:q4_K_M"},
        {"result_size": 5},
        {"template_source": "the library", "template_exact": True},
    ],
    ids=str,
)
def test_what_changes_no_byte_changes_no_identity(fields: dict[str, Any]) -> None:
    assert identities(replace(plan(), **fields)) == identities(plan())


@pytest.mark.parametrize("where", [MOVED, ELSEWHERE])
def test_a_commit_counts_where_a_files_digest_is_not_known(where: Listing) -> None:
    upload = weight_file(HERE, "model.safetensors", NAMELESS)
    before, after = plan(CONFIG, upload), plan(CONFIG, upload, repository=where)
    assert weights_identity(before) != weights_identity(after)
    assert weights_identity(before) != weights_identity(after)
    assert settings_identity(before) == settings_identity(after)


# ---- digests that an earlier pull has found


UNKNOWN = weight_file(HERE, "model.safetensors", NAMELESS)


def found_for(*uploads: Upload) -> Callable[[str], str | None]:
    return {upload_identity(HERE, upload): f"sha256:{B}" for upload in uploads}.get


def test_only_a_digest_that_is_not_known_is_filled_in() -> None:
    weights = weight_file(HERE, "other.safetensors", HASHED)
    before = plan(CONFIG, UNKNOWN, weights)
    after = with_known_digests(before, found_for(CONFIG, UNKNOWN, weights))
    assert [upload.digest for upload in before.uploads] == [CONFIG.digest, None, f"sha256:{A}"]
    assert [upload.digest for upload in after.uploads] == [CONFIG.digest, f"sha256:{B}", f"sha256:{A}"]
    assert identities(after) == identities(before)
    assert [upload.bars for upload in after.uploads] == [upload.bars for upload in before.uploads]


def test_a_digest_that_nobody_has_found_stays_unknown() -> None:
    assert with_known_digests(plan(CONFIG, UNKNOWN), lambda _: None) == plan(CONFIG, UNKNOWN)


def test_an_adapters_base_is_filled_in_too() -> None:
    made = made_of(structs.replace(HEAD, transform=UPPER))
    base = plan(UNKNOWN)
    before = plan(made, base=Base("hf.co/acme/base:q8_0", base))
    after = with_known_digests(before, found_for(UNKNOWN))
    assert after.base is not None
    assert after.base.plan is not None
    assert [upload.digest for upload in after.uploads] == [None]
    assert [upload.digest for upload in after.base.plan.uploads] == [f"sha256:{B}"]
    assert identities(after) == identities(before)
    assert identities(after.base.plan) == identities(base)


def test_a_base_that_is_there_needs_no_plan() -> None:
    before = plan(UNKNOWN, base=Base("hf.co/acme/base:q8_0", None))
    assert with_known_digests(before, found_for(UNKNOWN)).base == before.base
