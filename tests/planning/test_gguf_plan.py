"""The plan of a GGUF: what becomes a blob of it, under which name, and what would not load is refused."""

import hashlib
from collections.abc import Mapping

import pytest

from proxy.config import NO_SETTINGS, ModelSettings, Quantization
from proxy.errors import Damaged, Refusal
from proxy.gguf.header import Field, read_header, write_header
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.planning.capabilities import capabilities_of
from proxy.planning.gguf_files import GgufChoice, GgufModel, choose_gguf, choose_projector
from proxy.planning.gguf_plan import plan_gguf, plan_native
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Converter, Format, Plan
from proxy.planning.recipe import Assembly, Recipe
from proxy.sources.base import RepositoryFile
from tests.gguf.splitting import split, with_offsets
from tests.planning.listings import Listing
from tests.tiny_gguf import KINDS, tiny_gguf, tiny_projector

WHOLE = tiny_gguf()
OLD, NEW = "0.24.0", "0.33.0"


def listed(files: Mapping[str, bytes], *, hashed: bool = True) -> Listing:
    return Listing(
        tuple(
            RepositoryFile(path, len(content), hashlib.sha256(content).hexdigest() if hashed else None)
            for path, content in files.items()
        )
    )


def planned(
    files: Mapping[str, bytes],
    tag: str = "latest",
    version: str = OLD,
    *,
    settings: ModelSettings = NO_SETTINGS,
    hashed: bool = True,
) -> Plan:
    repository = listed(files, hashed=hashed)
    choice = choose_gguf(repository.id, repository.files, tag, Quantization.Q4_K_M)
    headers = [read_header(files[file.path], size=file.size) for file in choice.model.files]
    projector = choose_projector(choice.model, repository.files)
    name = f"hf.co/acme/model:{tag}"
    modelfile = Modelfile(settings, "config" if settings.template is not None else "gguf", None)
    return plan_gguf(name, repository, choice, headers, projector, capabilities_of(version), modelfile)


def made(recipe: Recipe, files: Mapping[str, bytes]) -> bytes:
    """What the engine makes of the files."""
    assembly = Assembly(recipe, "acme/model")
    pieces = [files[span.file.path][span.start : span.stop] for span in recipe.spans(100_000)]
    content = b"".join(piece for chunk in [[], *([piece] for piece in pieces)] for piece in assembly.add(chunk))
    assembly.digest()
    return content


def hex_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_file_goes_as_it_is(version: str) -> None:
    plan = planned({"sub/model-Q4_K_M.gguf": WHOLE}, version=version)
    [upload] = plan.uploads
    assert (upload.path, upload.digest, upload.size) == ("model-Q4_K_M.gguf", hex_of(WHOLE), len(WHOLE))
    assert upload.bars == ((hex_of(WHOLE), len(WHOLE)),)
    assert (plan.format, plan.quantization, plan.converter) == (Format.GGUF, None, Converter.NOBODY)
    assert (plan.reason, plan.template_source) == ("the GGUF Q4_K_M", "gguf")
    assert plan.result_size == len(WHOLE)
    # From v0.30 on Ollama writes a copy of its own.
    assert plan.made_size == (0 if version == OLD else len(WHOLE))
    assert (plan.repairs, plan.warnings) == ((), ())


def test_without_a_digest_the_bar_has_one_of_its_name() -> None:
    [upload] = planned({"m-Q4_K_M.gguf": WHOLE}, hashed=False).uploads
    assert upload.digest is None
    [bar] = upload.bars
    assert bar.digest.startswith("sha256:")
    assert bar.size == len(WHOLE)


def test_the_users_own_template_is_told() -> None:
    plan = planned({"m-Q4_K_M.gguf": WHOLE}, settings=ModelSettings(template="{{ .Prompt }}"))
    assert (plan.template_source, plan.settings.template) == ("config", "{{ .Prompt }}")


@pytest.mark.parametrize("no_tensor_first", [False, True])
@pytest.mark.parametrize("shards", [2, 3, 9])
def test_before_0_30_the_shards_become_the_file_that_was_split(shards: int, no_tensor_first: bool) -> None:
    parts = split(WHOLE, shards, prefix="Q4_K_M/big-Q4_K_M", no_tensor_first=no_tensor_first)
    plan = planned(parts)
    [upload] = plan.uploads
    assert upload.path == "big-Q4_K_M.gguf"
    assert upload.digest is None
    assert made(upload.recipe, parts) == WHOLE
    assert [bar.digest for bar in upload.bars] == [hex_of(part) for part in parts.values()]
    assert sum(bar.size for bar in upload.bars) == upload.size == plan.result_size == len(WHOLE)
    # What of a shard is not taken, its own header, is small beside its tensors.
    for bar, part in zip(upload.bars[1:], list(parts.values())[1:], strict=True):
        header = read_header(part, size=len(part))
        assert bar.size == len(part) - header.data_start
    assert f"Ollama 0.24.0 takes no split GGUF, so its {shards} shards are merged" in plan.reason


@pytest.mark.parametrize("tag", ["latest", "q4_k_m"])
@pytest.mark.parametrize("place", [30, 5_000, -1])
def test_a_shard_that_comes_otherwise_than_announced_is_noticed(tag: str, place: int) -> None:
    """Nobody knows the digest of what is made of it."""
    parts = split(tiny_gguf("F32"), 2, prefix="m-F32")
    name = "m-F32-00002-of-00002.gguf"
    recipe = planned(parts, tag).uploads[0].recipe
    assert made(recipe, parts) == tiny_gguf("F32", general__file_type=Field.uint32(int(tag == "q4_k_m")))
    assert recipe.takes_whole_files
    damaged = bytearray(parts[name])
    damaged[place] ^= 1
    with pytest.raises(Damaged, match=f"acme/model/{name} arrived damaged: its (digest|header)"):
        made(recipe, parts | {name: bytes(damaged)})


@pytest.mark.parametrize("hashed", [True, False])
def test_a_header_that_was_read_otherwise_is_noticed(hashed: bool) -> None:
    """It is part of what is made, although it came by itself and unchecked."""
    parts = split(WHOLE, 2)
    plan = planned(parts | {"model-00001-of-00002.gguf": altered(parts["model-00001-of-00002.gguf"])}, hashed=hashed)
    with pytest.raises(Damaged, match="model-00001-of-00002.gguf arrived damaged: its header has come in two versions"):
        made(plan.uploads[0].recipe, parts)


def altered(content: bytes) -> bytes:
    return content.replace(b"llama.block_count", b"llama.block_counT")


def test_tensors_out_of_order_are_fetched_once() -> None:
    first, second = split(tiny_gguf("F16"), 2).values()
    header = read_header(second, size=len(second))
    a, b, *rest = header.tensors
    turned = [a.offset + b.size, a.offset]
    content = with_offsets(second, [*turned, *(tensor.offset for tensor in rest)])[: header.data_start]
    middle = [second[header.data_start + tensor.offset :][: tensor.size] for tensor in (b, a)]
    content += b"".join(middle) + second[header.data_start + rest[0].offset :]
    parts = {"m-00001-of-00002.gguf": first, "m-00002-of-00002.gguf": content}
    [upload] = planned(parts).uploads
    assert made(upload.recipe, parts) == tiny_gguf("F16")
    assert sum(span.size for span in upload.recipe.spans(1 << 30)) <= len(first) + len(content)


def test_from_0_30_on_the_shards_go_as_they_are_under_llama_cpps_names() -> None:
    parts = {name[:-5] + ".GGUF": part for name, part in split(WHOLE, 3, prefix="Q4_K_M/Big-Q4_K_M").items()}
    plan = planned(parts, version=NEW)
    assert [(upload.path, upload.digest) for upload in plan.uploads] == [
        (f"Big-Q4_K_M-0000{number}-of-00003.gguf", hex_of(part)) for number, part in enumerate(parts.values(), 1)
    ]
    assert plan.made_size == plan.result_size == sum(map(len, parts.values()))
    assert plan.reason == "the GGUF Q4_K_M"


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_projector_goes_beside_the_model(version: str) -> None:
    projector = tiny_projector()
    plan = planned({"m-Q4_K_M.gguf": WHOLE, "mmproj-F16.GGUF": projector}, version=version)
    assert [(upload.path, upload.digest) for upload in plan.uploads] == [
        ("m-Q4_K_M.gguf", hex_of(WHOLE)),
        ("mmproj-F16.gguf", hex_of(projector)),
    ]
    assert plan.result_size == len(WHOLE) + len(projector)


@pytest.mark.parametrize("label", ["F16", "BF16"])
def test_unquantized_weights_are_for_ollama_to_quantize(label: str) -> None:
    content = tiny_gguf(label)
    plan = planned({f"m-{label}.gguf": content, "mmproj-F16.gguf": tiny_projector()}, "q4_k_m")
    assert plan.uploads[0].digest == hex_of(content)
    assert plan.quantization == "Q4_K_M"
    assert plan.reason == f"the GGUF {label}; Ollama quantizes its {label} to Q4_K_M"
    assert plan.result_size is not None
    # 4.8 bits for a number of a layer, 6.5625 for one of the embedding, and the projector as it is.
    assert plan.result_size == pytest.approx(
        len(tiny_projector()) + (4 * 256 * 256 * 4.8 + 256 * 512 * 6.5625) / 8, 0.1
    )
    assert plan.made_size == plan.result_size
    assert (plan.repairs, plan.warnings) == ((), ())


@pytest.mark.parametrize(
    ("content", "tag", "said"),
    [
        (tiny_gguf("F32"), "q4_K_M", 1),
        (tiny_gguf("F32"), "F16", 32),
        (tiny_gguf("F32", general__file_type=None), "Q8_0", 1),
        (tiny_gguf("F32", general__file_type=Field.uint32(1)), "F16", 32),
        (tiny_gguf("F32", general__file_type=Field.uint32(32)), "BF16", 1),
    ],
)
def test_a_type_that_ollama_does_not_quantize_is_written_as_one_that_it_does(
    content: bytes, tag: str, said: int
) -> None:
    """0, which is F32, is nothing to it: "quantization is only supported for F16, BF16 and F32 models"."""
    plan = planned({"m-F32.gguf": content}, tag)
    [upload] = plan.uploads
    result = made(upload.recipe, {"m-F32.gguf": content})
    before, after = (read_header(one, size=len(one)) for one in (content, result))
    assert after.metadata == before.metadata | {"general.file_type": Field.uint32(said)}
    assert after.tensors == before.tensors
    assert result[after.data_start :] == content[before.data_start :]
    assert upload.bars == ((hex_of(content), len(result)),)
    assert "general.file_type is changed" in plan.repairs[0]


def test_a_split_of_f32_is_merged_and_written_as_f16() -> None:
    content = tiny_gguf("F32")
    parts = split(content, 2, prefix="m-F32")
    [upload] = planned(parts, "q8_0").uploads
    assert made(upload.recipe, parts) == tiny_gguf("F32", general__file_type=Field.uint32(1))
    first, second = planned(parts, "q8_0", NEW).uploads
    assert read_header(made(first.recipe, parts)).get("general.file_type", int) == 1
    assert second.digest == hex_of(parts["m-F32-00002-of-00002.gguf"])


@pytest.mark.parametrize(("version", "warned"), [(OLD, True), (NEW, False)])
@pytest.mark.parametrize("tag", ["BF16", "F32"])
def test_an_ollama_that_spoils_the_output_matrix_is_a_warning(tag: str, version: str, warned: bool) -> None:
    plan = planned({"m-F16.gguf": tiny_gguf("F16")}, tag, version)
    assert bool(plan.warnings) == warned
    assert all(f"makes the output matrix Q6_K when it is asked for {tag}" in warning for warning in plan.warnings)


@pytest.mark.parametrize("tag", ["q4_k_m", "Q8_0"])
def test_an_ollama_before_0_22_cannot_quantize_bf16(tag: str) -> None:
    files = {"m-BF16.gguf": tiny_gguf("BF16")}
    with pytest.raises(Refusal, match="m-BF16.gguf: Ollama 0.21.0 cannot quantize BF16 of a GGUF; pull it as BF16"):
        planned(files, tag, "0.21.0")
    assert planned(files, "BF16", "0.21.0").quantization is None
    assert planned(files, tag, "0.22.0").quantization is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiny_projector(), r"acme/model/x-F16.gguf is not a model of its own \(mmproj\)"),
        (tiny_gguf(general__architecture=Field.string("clip"), general__type=None), r"of its own \(clip\)"),
        (tiny_gguf(general__architecture=None, general__type=None), r"of its own \(no architecture\)"),
        (tiny_gguf(general__type=Field.string("adapter")), r"of its own \(adapter\)"),
        (tiny_gguf(general__type=Field.string("imatrix")), r"of its own \(imatrix\)"),
        (tiny_gguf(split__count=Field.uint16(2)), "is the first of 2 shards, and the others are not named as such"),
        (
            tiny_gguf(general__architecture=Field.uint32(1)),
            "cannot be used: general.architecture is of the kind uint32",
        ),
        (tiny_gguf(general__type=Field.uint32(1)), "cannot be used: general.type is of the kind uint32"),
        (tiny_gguf(split__count=Field.string("2")), "cannot be used: split.count is of the kind string"),
    ],
)
@pytest.mark.parametrize("tag", ["F16", "latest"])
def test_what_is_no_model_is_refused(content: bytes, message: str, tag: str) -> None:
    with pytest.raises(Refusal, match=message):
        planned({"x-F16.gguf": content}, tag)


def test_a_split_of_one_is_a_file() -> None:
    content = tiny_gguf(split__count=Field.uint16(1), split__no=Field.uint16(0))
    [upload] = planned({"m-Q4_K_M-00001-of-00001.gguf": content}).uploads
    assert upload.digest == hex_of(content)


@pytest.mark.parametrize("label", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("version", [OLD, NEW])
def test_what_is_only_named_unquantized_is_not_quantized_again(label: str, version: str) -> None:
    kind = KINDS[label][0].name
    with pytest.raises(Refusal, match=f"is named F16, but token_embd.weight is {kind}, which Ollama cannot quantize"):
        planned({"m-F16.gguf": tiny_gguf(label)}, "Q4_K_S", version)
    assert planned({"m-F16.gguf": tiny_gguf(label)}, "F16", version).quantization is None


def test_a_file_type_of_another_kind_is_refused_where_it_is_needed() -> None:
    content = tiny_gguf("F16", general__file_type=Field.string("F16"))
    with pytest.raises(Refusal, match="cannot be used: general.file_type is of the kind string"):
        planned({"m-F16.gguf": content}, "q4_k_m")


def test_shards_that_do_not_fit_are_refused_where_they_are_merged() -> None:
    one, other = split(WHOLE, 2), split(WHOLE, 2)
    names = list(one)
    wrong = {names[0]: one[names[0]], names[1]: other[names[0]]}
    with pytest.raises(
        Refusal, match="acme/model/model-00001-of-00002.gguf cannot be used: part 2 of 2 has the split.no"
    ):
        planned(wrong)


@pytest.mark.parametrize("version", ["0.29.9", "0.30.0"])
def test_the_version_decides_who_merges(version: str) -> None:
    uploads = planned(split(WHOLE, 2), version=version).uploads
    assert len(uploads) == (1 if version == "0.29.9" else 2)


def test_the_plan_of_ollamas_own_pull_says_what_it_fetches() -> None:
    files = {"sub/m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": tiny_projector(), "m-Q8_0.gguf": b""}
    repository = listed(files)
    model = GgufModel("Q4_K_M", (repository.files[0],))
    plan = plan_native("hf.co/acme/model:Q4_K_M", repository, GgufChoice(model, None, as_the_hub=True), "because")
    assert [upload.path for upload in plan.uploads] == ["sub/m-Q4_K_M.gguf", "mmproj-F16.gguf"]
    assert plan.reason == "the GGUF Q4_K_M, because: Ollama pulls it by itself"
    assert plan.result_size == len(WHOLE) + len(tiny_projector())


def test_rows_that_llama_quantize_does_not_take_are_refused() -> None:
    tensors = [TensorInfo("output.weight", (40, 4), TensorType.F16)]
    metadata = {"general.architecture": Field.string("llama"), "general.file_type": Field.uint32(1)}
    files = {"m-F16.gguf": write_header(metadata, tensors) + bytes(320)}
    with pytest.raises(
        Refusal, match="output.weight has rows of 40 numbers, which Ollama 0.33.0 cannot quantize to Q8_0"
    ):
        planned(files, "q8_0", NEW)
    assert planned(files, "q8_0", OLD).quantization == "Q8_0"
    assert planned(files, "BF16", NEW).quantization == "BF16"
