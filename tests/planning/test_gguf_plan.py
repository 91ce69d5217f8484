"""The plan of a GGUF: its blob, and the name of the blob."""

from collections.abc import Mapping

import pytest

from proxy.config.sections import ModelSettings
from proxy.errors import Damaged, Refusal
from proxy.gguf import engine_ggml
from proxy.gguf.engine import engine_for
from proxy.gguf.header import Field, read_header, write_header
from proxy.gguf.tensor_types import FILE_TYPES
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.planning.gguf_files import GgufChoice, GgufModel
from proxy.planning.gguf_plan import plan_native
from proxy.planning.plan import Format, GgufSummary
from tests.gguf.splitting import split, with_offsets
from tests.kit.tiny_gguf import GGUF_TYPES, finite, tiny_gguf, tiny_projector
from tests.planning.gguf_plans import NEW, OLD, assemble, hex_of, listed, planned, read, requantized

WHOLE = tiny_gguf()
UNQUANTIZED = ("F16", "BF16", "F32")

needs_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


def data_of(content: bytes) -> dict[str, tuple[TensorType, bytes]]:
    """Type and bytes of each tensor."""
    header = read(content)
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    return {
        tensor.name: (TensorType(tensor.type), content[starts[tensor.name] :][: tensor.size])
        for tensor in header.tensors
    }


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_file_goes_as_it_is(version: str) -> None:
    plan = planned({"sub/model-Q4_K_M.gguf": WHOLE}, version=version)
    [upload] = plan.uploads
    assert (upload.path, upload.digest, upload.size) == ("model-Q4_K_M.gguf", hex_of(WHOLE), len(WHOLE))
    assert upload.bars == ((hex_of(WHOLE), len(WHOLE)),)
    assert (plan.format, plan.quantization, plan.is_converted) == (Format.GGUF, None, False)
    assert (plan.reason, plan.template_source) == ("the GGUF Q4_K_M", "gguf")
    assert plan.result_size == len(WHOLE)
    assert plan.gguf_summary == GgufSummary("llama", 394_496, "Q4_K_M")
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (Field.uint32(0), "F32"),
        (Field.uint32(30), "IQ4_XS"),
        (Field.uint32(38), "MXFP4_MOE"),
        (Field.uint32(99), "unknown"),
        (Field.string("F16"), "unknown"),
        (None, "unknown"),
    ],
)
def test_the_file_type_is_shown_as_the_header_says_it(field: Field | None, shown: str) -> None:
    plan = planned({"m-Q4_K_M.gguf": tiny_gguf(general__file_type=field)})
    assert plan.gguf_summary == GgufSummary("llama", 394_496, shown)


def test_without_a_digest_the_bar_has_one_of_its_name() -> None:
    [upload] = planned({"m-Q4_K_M.gguf": WHOLE}, hashed=False).uploads
    assert upload.digest is None
    [bar] = upload.bars
    assert bar.digest.startswith("sha256:")
    assert bar.size == len(WHOLE)


def test_the_users_template_is_the_source() -> None:
    plan = planned({"m-Q4_K_M.gguf": WHOLE}, settings=ModelSettings(template="{{ .Prompt }}"))
    assert (plan.template_source, plan.settings.template) == ("config", "{{ .Prompt }}")


@pytest.mark.parametrize("no_tensor_first", [False, True])
@pytest.mark.parametrize(("shards", "version"), [(2, OLD), (3, NEW), (9, "0.40.0")])
def test_the_shards_become_the_file_that_was_split(shards: int, version: str, no_tensor_first: bool) -> None:
    parts = split(WHOLE, shards, prefix="Q4_K_M/big-Q4_K_M", no_tensor_first=no_tensor_first)
    plan = planned(parts, version=version)
    assert plan.gguf_summary == GgufSummary("llama", 394_496, "Q4_K_M")
    [upload] = plan.uploads
    assert upload.path == "big-Q4_K_M.gguf"
    assert upload.digest is None
    assert assemble(upload.recipe, parts) == WHOLE
    assert upload.size == plan.result_size == len(WHOLE)
    assert upload.bars == tuple((hex_of(part), len(part)) for part in parts.values())
    assert plan.reason == f"the GGUF Q4_K_M; its {shards} shards are merged"


@pytest.mark.parametrize("tag", ["latest", "q8_0"])
@pytest.mark.parametrize("place", [30, 5_000, -1])
def test_a_shard_that_comes_otherwise_than_announced_is_noticed(tag: str, place: int) -> None:
    """The digest of the result is not known before the transfer."""
    content = finite(tiny_gguf("F32"))
    parts = split(content, 2, prefix="m-F32")
    name = "m-F32-00002-of-00002.gguf"
    recipe = planned(parts, tag).uploads[0].recipe
    assert assemble(recipe, parts) == (content if tag == "latest" else requantized([content], "Q8_0"))
    assert recipe.takes_whole_files
    damaged = bytearray(parts[name])
    damaged[place] ^= 1
    with pytest.raises(Damaged, match=f"acme/model/{name} arrived damaged: its (digest|header)"):
        assemble(recipe, parts | {name: bytes(damaged)})


@pytest.mark.parametrize("tag", ["latest", "q8_0"])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_header_that_was_read_otherwise_is_noticed(hashed: bool, shards: int, tag: str) -> None:
    """The plan read it alone, without a digest, and the blob depends on it."""
    content = finite(tiny_gguf("F16"))
    parts = {"m-F16.gguf": content} if shards == 1 else split(content, shards, prefix="m-F16")
    first = next(iter(parts))
    plan = planned(parts, tag, hashed=hashed, seen=parts | {first: altered(parts[first])})
    if (shards, tag) == (1, "latest"):
        assert plan.uploads[0].recipe.files == plan.repository.files  # nothing of the header is in the plan
        return
    with pytest.raises(
        Damaged, match=f"acme/model/{first} arrived damaged: its header differs from the one that the plan read"
    ):
        assemble(plan.uploads[0].recipe, parts)


def altered(content: bytes) -> bytes:
    return content.replace(b"general.type", b"general.typE")


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
    assert assemble(upload.recipe, parts) == tiny_gguf("F16")
    assert sum(span.size for span in upload.recipe.spans(1 << 30)) <= len(first) + len(content)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_projector_goes_beside_the_model(version: str) -> None:
    projector = tiny_projector()
    plan = planned({"m-Q4_K_M.gguf": WHOLE, "mmproj-F16.GGUF": projector}, version=version)
    assert [(upload.path, upload.digest, upload.kind) for upload in plan.uploads] == [
        ("m-Q4_K_M.gguf", hex_of(WHOLE), "model"),
        ("mmproj-F16.gguf", hex_of(projector), "projector"),
    ]
    assert plan.result_size == len(WHOLE) + len(projector)


@needs_ggml
@pytest.mark.parametrize("version", [OLD, NEW, "0.34.1", "0.40.0"])
@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("label", UNQUANTIZED)
def test_unquantized_weights_are_quantized_here(label: str, shards: int, version: str) -> None:
    content = finite(tiny_gguf(label))
    parts = {f"m-{label}.gguf": content} if shards == 1 else split(content, shards, prefix=f"m-{label}")
    plan = planned(parts, "q4_k_m", version)
    [upload] = plan.uploads
    result = assemble(upload.recipe, parts)
    assert result == requantized(list(parts.values()), "Q4_K_M") == requantized([content], "Q4_K_M")
    assert (upload.path, upload.digest, upload.kind) == (
        "model.gguf" if shards == 1 else f"m-{label}.gguf",
        None,
        "model",
    )
    assert upload.size == plan.result_size == len(result)
    assert upload.bars == tuple((hex_of(part), len(part)) for part in parts.values())
    assert upload.recipe.takes_whole_files
    merged = f"; its {shards} shards are merged" if shards > 1 else ""
    assert plan.reason == f"the GGUF {label}{merged}; the proxy quantizes its {label} to Q4_K_M"
    assert (plan.quantization, plan.is_converted) == ("Q4_K_M", True)
    assert plan.gguf_summary == GgufSummary("llama", 394_496, "Q4_K_M")
    assert plan.warnings == ()


@needs_ggml
@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0", "BF16", "F32"])
@pytest.mark.parametrize("label", UNQUANTIZED)
def test_every_tensor_is_what_the_engine_makes_of_it(label: str, quantization: str) -> None:
    files = {f"m-{label}.gguf": finite(tiny_gguf(label))}
    plan = planned(files, quantization)
    if label == quantization:
        assert plan.quantization is None
        return
    result = assemble(plan.uploads[0].recipe, files)
    before, after = data_of(files[f"m-{label}.gguf"]), data_of(result)
    assert after.keys() == before.keys()
    kinds = set()
    for name, (was, content) in before.items():
        kind, became = after[name]
        if name.endswith("_norm.weight"):
            assert (kind, became) == (was, content)
            continue
        kinds.add(kind)
        engine = engine_for(kind)
        assert engine is not None
        assert became == engine.quantize(kind, label, content)
    assert FILE_TYPES[quantization].default in kinds


@pytest.mark.parametrize("field", [Field.uint32(1), Field.string("F16"), None])
def test_the_header_says_the_new_type_and_the_rest_as_before(field: Field | None) -> None:
    """Whatever the old header says about the file type and about shards."""
    content = finite(tiny_gguf("F16", general__file_type=field, tokenizer__ggml__pre=Field.string("x")))
    for parts in ({"m-F16.gguf": content}, split(content, 2, prefix="m-F16")):
        before, after = read(content), read(assemble(planned(parts, "q8_0").uploads[0].recipe, parts))
        assert after.metadata == before.metadata | {
            "general.file_type": Field.uint32(7),
            "general.quantization_version": Field.uint32(2),
        }
        ends = [tensor.offset + tensor.size for tensor in after.tensors]
        assert [tensor.offset for tensor in after.tensors] == [0, *ends[:-1]]


@needs_ggml
def test_bars_fill_with_the_bytes_that_are_taken() -> None:
    """In the order of the shards, each read to its end, although the blob is smaller."""
    parts = split(finite(tiny_gguf("F16")), 3, prefix="m-F16", no_tensor_first=True)
    [upload] = planned(parts, "q4_k_m").uploads
    digests, sizes = [hex_of(part) for part in parts.values()], [len(part) for part in parts.values()]
    assert upload.bars == tuple(zip(digests, sizes, strict=True))
    assert [(part.digest, part.file_bytes) for part in upload.bar_ranges] == list(zip(digests, sizes, strict=True))
    assert sum(part.blob_bytes for part in upload.bar_ranges) == upload.size
    assert upload.fetch_size == sum(sizes) > upload.size


@needs_ggml
@pytest.mark.parametrize("label", UNQUANTIZED)
def test_a_projector_stays_as_it_is_beside_what_is_quantized(label: str) -> None:
    projector = tiny_projector()
    files = {f"m-{label}.gguf": finite(tiny_gguf(label)), "mmproj-F16.gguf": projector}
    plan = planned(files, "q4_k_m")
    model, other = plan.uploads
    assert (other.path, other.digest, other.kind) == ("mmproj-F16.gguf", hex_of(projector), "projector")
    assert plan.result_size == len(assemble(model.recipe, files)) + len(projector)


@pytest.mark.parametrize("name", ["m-F16.gguf", "Big.F16.GGUF", "sub/m-f16.gguf"])
def test_what_the_blob_is_called_does_not_depend_on_the_file(name: str) -> None:
    """Only Ollama's create sees it."""
    [upload] = planned({name: finite(tiny_gguf("F16"))}, "q8_0").uploads
    assert upload.path == "model.gguf"


@needs_ggml
@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ((40, 4), {"q8_0": None, "q4_k_m": "F16", "BF16": "BF16"}),
        ((64, 4), {"q8_0": "Q8_0", "q4_k_m": "Q5_0", "q5_k_m": "Q5_1"}),
    ],
)
def test_rows_that_a_block_does_not_divide(shape: tuple[int, ...], kinds: Mapping[str, str | None]) -> None:
    tensors = [TensorInfo("blk.0.attn_q.weight", shape, TensorType.F16)]
    metadata = {
        "general.architecture": Field.string("llama"),
        "general.file_type": Field.uint32(1),
        "llama.block_count": Field.uint32(1),
    }
    files = {"m-F16.gguf": write_header(metadata, tensors) + bytes(tensors[0].size)}
    for tag, kind in kinds.items():
        if kind is None:
            with pytest.raises(
                Refusal, match=f"m-F16.gguf cannot be used: the tensor 'blk.0.attn_q.weight' has rows of {shape[0]}, no"
            ):
                planned(files, tag)
        else:
            [upload] = planned(files, tag).uploads
            assert {name: one.name for name, (one, _) in data_of(assemble(upload.recipe, files)).items()} == {
                "blk.0.attn_q.weight": kind
            }


def test_a_split_of_one_is_a_file() -> None:
    content = tiny_gguf(split__count=Field.uint16(1), split__no=Field.uint16(0))
    [upload] = planned({"m-Q4_K_M-00001-of-00001.gguf": content}).uploads
    assert upload.digest == hex_of(content)


@pytest.mark.parametrize("label", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("shards", [1, 2])
def test_what_is_only_named_unquantized_is_not_quantized_again(label: str, shards: int) -> None:
    kind, content = GGUF_TYPES[label][0].name, tiny_gguf(label)
    parts = {"m-F16.gguf": content} if shards == 1 else split(content, shards, prefix="m-F16")
    with pytest.raises(
        Refusal,
        match=f"acme/model/{next(iter(parts))} is named F16, but token_embd.weight is {kind}, which the proxy does "
        "not quantize again; pull it as F16$",
    ):
        planned(parts, "Q4_K_S")
    plan = planned(parts, "F16")
    assert (plan.quantization, plan.is_converted) == (None, False)
    assert assemble(plan.uploads[0].recipe, parts) == content


def test_the_plan_of_ollamas_own_pull_says_what_it_fetches() -> None:
    files = {"sub/m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": tiny_projector(), "m-Q8_0.gguf": b""}
    repository = listed(files)
    model = GgufModel("Q4_K_M", (repository.files[0],))
    plan = plan_native("hf.co/acme/model:Q4_K_M", repository, GgufChoice(model, None, as_the_hub=True), "because")
    assert [upload.path for upload in plan.uploads] == ["sub/m-Q4_K_M.gguf", "mmproj-F16.gguf"]
    assert plan.reason == "the GGUF Q4_K_M, because: Ollama pulls it by itself"
    assert plan.result_size == len(WHOLE) + len(tiny_projector())
