"""The plan of a GGUF: its blob, the name of the blob, and refusals of what would not load."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from proxy.config.sections import NO_SETTINGS, ModelSettings
from proxy.config.values import Quantization
from proxy.errors import Damaged, Refusal
from proxy.gguf import engine_ggml
from proxy.gguf.engine import engine_for
from proxy.gguf.header import Field, GgufHeader, read_header, write_header
from proxy.gguf.requantize import TransformedRange, requantize
from proxy.gguf.tensor_types import FILE_TYPES, NEED_IMPORTANCE
from proxy.gguf.tensors import TensorInfo, TensorType
from proxy.planning.capabilities import capabilities_of
from proxy.planning.gguf_files import GgufChoice, GgufModel, choose_gguf, choose_projector
from proxy.planning.gguf_plan import plan_gguf, plan_native
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Format, GgufSummary, Plan, PlanRequest
from proxy.planning.recipe import Recipe
from proxy.sources.base import RepositoryFile
from tests.gguf.splitting import split, with_offsets
from tests.kit.assembling import assembled
from tests.kit.tiny_gguf import GGUF_TYPES, finite, tiny_gguf, tiny_projector
from tests.planning.listings import Listing

WHOLE = tiny_gguf()
OLD, NEW = "0.24.0", "0.33.0"
UNQUANTIZED = ("F16", "BF16", "F32")

needs_ggml = pytest.mark.skipif(engine_ggml.load() is None, reason="libggml-python is not installed")


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
    seen: Mapping[str, bytes] | None = None,
) -> Plan:
    """`seen`: the files that the headers are read from, if they are not the ones that arrive later."""
    repository = listed(files, hashed=hashed)
    choice = choose_gguf(repository.id, repository.files, tag, Quantization.Q4_K_M)
    headers = [read_header((seen or files)[file.path], size=file.size) for file in choice.model.files]
    projector = choose_projector(choice.model, repository.files)
    name = f"hf.co/acme/model:{tag}"
    modelfile = Modelfile(settings, "config" if settings.template is not None else "gguf", None)
    request = PlanRequest(name, repository, settings, capabilities_of(version))
    return plan_gguf(request, choice, headers, projector, modelfile)


def assemble(recipe: Recipe, files: Mapping[str, bytes]) -> bytes:
    """The blob that the engine makes from the files."""
    chunks = [files[span.file.path][span.start : span.stop] for span in recipe.spans(100_000)]
    return assembled(recipe, chunks, "acme/model")


def read(content: bytes) -> GgufHeader:
    return read_header(content, size=len(content))


def requantized(contents: Sequence[bytes], quantization: str) -> bytes:
    """The expected blob, with each tensor quantized in one piece."""
    quantized = requantize([read(content) for content in contents], quantization)
    whole = [quantized.header]
    for content, pieces in zip(contents, quantized.parts, strict=True):
        for piece in pieces:
            if isinstance(piece, TransformedRange):
                source = content[piece.start : piece.stop]
                whole.append(piece.transform.change(source) if piece.transform else source)
            else:
                whole.append(bytes(piece.size))
    return b"".join(whole)


def data_of(content: bytes) -> dict[str, tuple[TensorType, bytes]]:
    """Type and bytes of each tensor."""
    header = read(content)
    starts = {tensor.name: header.data_start + tensor.offset for tensor in header.tensors}
    return {
        tensor.name: (TensorType(tensor.type), content[starts[tensor.name] :][: tensor.size])
        for tensor in header.tensors
    }


def hex_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


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


@pytest.mark.parametrize("name", NEED_IMPORTANCE)
def test_importance_matrix_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(
        Refusal, match=f"^acme/model: {name} needs an importance matrix, .* without one is {NEED_IMPORTANCE[name]}$"
    ):
        planned({"m-F16.gguf": tiny_gguf("F16")}, name.lower())


@pytest.mark.parametrize("tag", ["TQ1_0", "tq2_0"])
@pytest.mark.parametrize("version", [OLD, NEW, "0.40.0"])
def test_what_no_ollama_runs_is_not_made(tag: str, version: str) -> None:
    with pytest.raises(
        Refusal, match=rf"^acme/model: Ollama {version} does not run {tag.upper()}; pull with .*: Q4_K_M, .*, F16"
    ) as refusal:
        planned({"m-F16.gguf": tiny_gguf("F16")}, tag, version)
    assert "TQ" not in str(refusal.value).partition(";")[2]
    [upload] = planned({f"m-{tag}.gguf": WHOLE}, tag, version).uploads
    assert upload.digest == hex_of(WHOLE)  # what is there goes as it is


def test_a_quantization_without_an_engine_is_refused(only_numpy: None) -> None:
    """The refusal lists what this machine can make."""
    files = {"m-F16.gguf": finite(tiny_gguf("F16"))}
    message = r"^acme/model: nothing on this machine makes Q6_K .*: Q8_0, F16, BF16, F32\. On .* adds the others$"
    with pytest.raises(Refusal, match=message):
        planned(files, "q6_k")
    assert assemble(planned(files, "q8_0").uploads[0].recipe, files) == requantized(list(files.values()), "Q8_0")


@pytest.mark.parametrize(
    ("label", "number", "tag", "message"),
    [
        ("F16", b"\x00\x7c", "q8_0", "Q8_0: it holds a NaN, an infinity or .* Q8_0; pull it as BF16 or F32"),
        ("F32", b"\x00\x00\x80\x7f", "q8_0", "Q8_0: it holds a NaN, an infinity or .* Q8_0; pull it as BF16 or F32"),
        ("F32", b"\x00\x00\x80\x47", "f16", "F16: it holds a number beyond what F16 can hold; pull it as BF16 or F32"),
    ],
)
def test_a_number_that_does_not_fit_names_file_and_tensor(label: str, number: bytes, tag: str, message: str) -> None:
    """Only the bytes show it."""
    content = bytearray(finite(tiny_gguf(label)))
    at = read(bytes(content)).data_start
    content[at : at + len(number)] = number
    files = {f"m-{label}.gguf": bytes(content)}
    recipe = planned(files, tag).uploads[0].recipe
    with pytest.raises(Refusal, match=f"^m-{label}.gguf: token_embd.weight cannot become {message}$"):
        assemble(recipe, files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiny_projector(), r"acme/model/x-F16.gguf is not a complete model \(mmproj\)"),
        (tiny_gguf(general__architecture=Field.string("clip"), general__type=None), r"not a complete model \(clip\)"),
        (tiny_gguf(general__architecture=None, general__type=None), r"not a complete model \(no architecture\)"),
        (tiny_gguf(general__type=Field.string("adapter")), r"not a complete model \(adapter\)"),
        (tiny_gguf(general__type=Field.string("imatrix")), r"not a complete model \(imatrix\)"),
        (
            tiny_gguf(split__count=Field.uint16(2)),
            "is the first of 2 shards, but the names of the others do not show it",
        ),
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


@pytest.mark.parametrize(
    ("changes", "version", "message"),
    [
        (
            {"general__architecture": Field.string("ufo")},
            NEW,
            "has the architecture 'ufo', which no Ollama up to 0.40.0",
        ),
        (
            {"general__architecture": Field.string("gptj")},
            OLD,
            "has the architecture 'gptj', which no Ollama up to 0.40",
        ),
        *(
            ({"general__architecture": Field.string(name)}, version, f"{name} {reason}; pull another model")
            for name, version, reason in (
                ("dream", OLD, "generates by diffusion, which Ollama's llama.cpp server cannot do"),
                ("llada-moe", NEW, "generates by diffusion, which Ollama's llama.cpp server cannot do"),
                ("t5", OLD, ".*, and Ollama's llama.cpp server does not run such an encoder"),
                (
                    "minimax-01",
                    NEW,
                    r"runs in no Ollama up to 0\.40: its llama\.cpp \(b10488\) aborts at the first token",
                ),
                ("eagle3", NEW, "drafts tokens for another model, and answers nothing by itself"),
            )
        ),
        ({"general__architecture": Field.string("eurobert")}, OLD, "does not run eurobert; update it to 0.30.0 or"),
        (
            {"tokenizer__ggml__pre": Field.string("scissors")},
            NEW,
            "has the pre-tokenizer 'scissors', which no Ollama up to 0.40.0 knows",
        ),
        ({"tokenizer__ggml__tokens": Field.strings(["a", "", "", "b", "a"])}, NEW, "has two tokens with the text 'a'"),
    ],
)
@pytest.mark.parametrize("shards", [1, 2])
def test_what_ends_the_loader_is_refused(changes: dict[str, Any], version: str, message: str, shards: int) -> None:
    content = tiny_gguf(tokenizer__ggml__model=Field.string("gpt2"), **changes)
    files = {"x-Q4_K_M.gguf": content} if shards == 1 else split(content, shards, prefix="x-Q4_K_M")
    with pytest.raises(Refusal, match=message):
        planned(files, version=version)
    if "tokens" not in message:
        assert planned(files, version="0.41.0").uploads, "a newer Ollama may know more"


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


@pytest.mark.parametrize("count", [None, Field.string("4"), Field.int32(-1)])
def test_without_a_layer_count_a_gguf_stays_as_it_is(count: Field | None) -> None:
    """The rules for the types need it."""
    files = {"m-F16.gguf": finite(tiny_gguf("F16", llama__block_count=count))}
    with pytest.raises(
        Refusal,
        match=r"m-F16.gguf cannot be used: the metadata has llama\.block_count = .*, which is no count; pull another",
    ):
        planned(files, "q4_k_m")
    assert planned(files, "latest").quantization is None


def test_shards_that_do_not_fit_are_refused() -> None:
    one, other = split(WHOLE, 2), split(WHOLE, 2)
    names = list(one)
    wrong = {names[0]: one[names[0]], names[1]: other[names[0]]}
    with pytest.raises(
        Refusal, match="acme/model/model-00001-of-00002.gguf cannot be used: part 2 of 2 has the split.no"
    ):
        planned(wrong)


def test_the_plan_of_ollamas_own_pull_says_what_it_fetches() -> None:
    files = {"sub/m-Q4_K_M.gguf": WHOLE, "mmproj-F16.gguf": tiny_projector(), "m-Q8_0.gguf": b""}
    repository = listed(files)
    model = GgufModel("Q4_K_M", (repository.files[0],))
    plan = plan_native("hf.co/acme/model:Q4_K_M", repository, GgufChoice(model, None, as_the_hub=True), "because")
    assert [upload.path for upload in plan.uploads] == ["sub/m-Q4_K_M.gguf", "mmproj-F16.gguf"]
    assert plan.reason == "the GGUF Q4_K_M, because: Ollama pulls it by itself"
    assert plan.result_size == len(WHOLE) + len(tiny_projector())
