"""The plan of a safetensors repository: which bytes go to Ollama, and what is said of them."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import NO_SETTINGS
from proxy.errors import Damaged, Refusal
from proxy.planning.capabilities import capabilities_of
from proxy.planning.embedding import check_companions
from proxy.planning.modelfile import Modelfile
from proxy.planning.plan import Converter, Format, Plan
from proxy.planning.preflight import Edit, check_weights
from proxy.planning.recipe import Range
from proxy.planning.safetensors import LENGTH_BYTES, read_header
from proxy.planning.safetensors_plan import edited, plan_safetensors
from proxy.planning.weights import INDEX, choose_files
from proxy.sources.base import RepositoryFile
from tests.assembling import assembled, begun
from tests.planning.listings import LFS, Listing
from tests.planning.shapes import LLAMA, MIXTRAL, Shapes, config, judged, shapes, weights
from tests.planning.test_safetensors import JSON
from tests.support import companions, digest_of

MODELFILE = Modelfile(NO_SETTINGS, "tokenizer_config.json", True)
COMPANIONS = {path: content for path, content in companions().items() if path not in ("README.md", "LICENSE")}


def planned(
    changes: dict[str, bytes] | None = None,
    *,
    tensors: Shapes | None = None,
    fields: dict[str, Any] | None = None,
    tag: str = "q8_0",
    modelfile: Modelfile = MODELFILE,
    version: str = "0.33.0",
    hashed: bool = True,
) -> Plan:
    """Of a small Llama in one file, but for the changes."""
    fields = fields or config(LLAMA)
    content = weights(tensors or shapes(fields["architectures"][0]))
    contents = COMPANIONS | {"config.json": json.dumps(fields).encode()} | (changes or {})
    files = [RepositoryFile(path, len(data)) for path, data in contents.items()]
    weight_file = RepositoryFile("model.safetensors", len(content), sha256=LFS if hashed else None)
    repository = Listing((weight_file, *files))
    selection = choose_files(repository, contents.get(INDEX))
    header = read_header("x", content[: LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")], len(content))
    found = judged(json.loads(contents["config.json"].decode("utf-8-sig")), version, tag)
    check_weights(repository.id, selection, {weight_file.path: header}, found, capabilities_of(version))
    read = contents if hashed else contents | {weight_file.path: content}
    tokenizer = check_companions(repository.id, found.architecture, contents)
    headers = {weight_file.path: header}
    return plan_safetensors("name", repository, selection, headers, read, found, tokenizer, modelfile)


def sent(plan: Plan, path: str) -> Any:
    [upload] = [upload for upload in plan.uploads if upload.path == path]
    assert upload.content is not None
    return json.loads(upload.content)


def test_a_good_repository_is_sent_as_it_is() -> None:
    plan = planned()
    fields = {"config.json": json.dumps(config(LLAMA)).encode()}
    assert {upload.path: upload.digest for upload in plan.uploads} == {
        path: digest_of(content) for path, content in (COMPANIONS | fields).items()
    } | {"model.safetensors": f"sha256:{LFS}"}
    assert (plan.format, plan.converter, plan.quantization) == (Format.SAFETENSORS, Converter.OLLAMA, "Q8_0")
    assert (plan.repairs, plan.warnings) == ((), ())
    assert plan.reason == "Ollama converts LlamaForCausalLM"
    assert [upload.path for upload in plan.weights] == ["model.safetensors"]


def test_a_small_file_without_a_digest_is_sent_from_memory() -> None:
    [upload] = planned(hashed=False).weights
    assert upload.content == weights(shapes(LLAMA))
    assert [bar.digest for bar in upload.bars] == [upload.digest] == [digest_of(weights(shapes(LLAMA)))]


def test_an_edited_file_is_a_new_header_before_the_same_data() -> None:
    tensors: Shapes = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (16,)), **shapes(LLAMA)}
    [upload] = planned(tensors=tensors).weights
    source = weights(tensors)
    length = int.from_bytes(source[:8], "little") + 8
    assert upload.digest is None
    assert upload.recipe.takes_whole_files
    [listed] = {part.file for part in upload.recipe.parts if isinstance(part, Range)}
    file = replace(listed, sha256=hashlib.sha256(source).hexdigest())
    parts = tuple(replace(part, file=file) if isinstance(part, Range) else part for part in upload.recipe.parts)
    made = assembled(replace(upload.recipe, parts=parts), [source])
    assert made[-len(source) + length :] == source[length:]
    size = int.from_bytes(made[:8], "little") + 8
    assert set(read_header("x", made[:size], len(made)).tensors) == shapes(LLAMA).keys()
    assert [bar.size for bar in upload.bars] == [len(source)]


def test_an_edited_file_that_begins_otherwise_than_it_was_planned_is_damaged() -> None:
    tensors: Shapes = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (16,)), **shapes(LLAMA)}
    [upload] = planned(tensors=tensors).weights
    source = bytearray(weights(tensors))
    source[20] ^= 1
    length = int.from_bytes(source[:8], "little") + 8
    with pytest.raises(Damaged, match="its header has come in two versions"):
        begun(upload.recipe, [bytes(source[:length])])


def test_an_edited_header_is_read_by_the_library_with_the_same_numbers() -> None:
    arrays = {name: np.arange(24, dtype=np.float32).reshape(4, 6) + number for number, name in enumerate("abcd")}
    arrays["scale"] = np.array(7, np.float32)
    content = safetensors.numpy.save(arrays, {"format": "pt"})
    length = int.from_bytes(content[:8], "little") + 8
    header = edited(content[:length], {"a": Edit("z"), "scale": Edit("scale", (1, 1)), "b": Edit("c"), "c": Edit("b")})
    assert len(header) % 8 == 0
    again = safetensors.numpy.load(header + content[length:])
    expected = {"z": arrays["a"], "b": arrays["c"], "c": arrays["b"], "d": arrays["d"]}
    assert again.keys() == {*expected, "scale"}
    assert all(np.array_equal(again[name], array) for name, array in expected.items())
    assert again["scale"].shape == (1, 1)


def test_an_entry_that_is_left_out_leaves_its_gap() -> None:
    content = weights({"a": ("F32", (4,)), "b": ("F32", (4,))})
    length = int.from_bytes(content[:8], "little") + 8
    before = json.loads(content[8:length])
    after = json.loads(edited(content[:length], {"a": Edit(None)})[8:])
    assert after == {key: value for key, value in before.items() if key != "a"}


@given(names=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5))
def test_any_names_can_be_edited(names: dict[str, str]) -> None:
    fields = {name: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]} for name in names}
    text = json.dumps(fields).encode()
    made = edited(len(text).to_bytes(8, "little") + text, {name: Edit(new) for name, new in names.items()})
    assert json.loads(made[8:]).keys() == set(names.values())
    assert int.from_bytes(made[:8], "little") == len(made) - 8


def test_a_mended_configuration_is_sent_in_place_of_the_old() -> None:
    plan = planned(fields=config(LLAMA, vocab_size=16.0, rms_norm_eps=...))
    assert sent(plan, "config.json") == config(LLAMA, rms_norm_eps=1e-6)
    assert b"16.0" not in json.dumps(sent(plan, "config.json")["vocab_size"]).encode()
    assert len(plan.repairs) == 2


def test_a_number_that_is_the_same_to_python_alone_is_sent_otherwise() -> None:
    plan = planned(fields=config(LLAMA, vocab_size=16.0))
    assert json.dumps(sent(plan, "config.json")) == json.dumps(config(LLAMA))


@pytest.mark.parametrize("version", ["0.6.8", "0.33.0"])
@pytest.mark.parametrize("path", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_nan_and_a_byte_order_mark_are_left_out(path: str, version: str) -> None:
    original = COMPANIONS | {"config.json": json.dumps(config(LLAMA)).encode()}
    fields = json.loads(original[path])
    strange = b"\xef\xbb\xbf" + json.dumps({**fields, "a": float("nan"), "b": [{"c": -float("inf")}]}).encode()
    plan = planned({path: strange}, version=version)
    assert sent(plan, path) == {**fields, "a": None, "b": [{"c": None}]}
    assert plan.repairs == (f"{path} written as JSON that Ollama reads: without a byte order mark and NaN",)


def test_nan_is_left_out_of_a_file_that_is_written_anew_too() -> None:
    strange = {"tokenizer_config.json": b'{"x": NaN, "add_bos_token": "true", "bos_token": "<s>"}'}
    plan = planned(strange)
    assert sent(plan, "tokenizer_config.json") == {"x": None, "add_bos_token": True, "bos_token": "<s>"}


def test_a_token_called_nan_is_no_reason_to_write_a_file_anew() -> None:
    tokenizer = json.loads(COMPANIONS["tokenizer.json"])
    tokenizer["added_tokens"][0]["content"] = "NaN"
    assert planned({"tokenizer.json": json.dumps(tokenizer).encode()}).repairs == ()


@pytest.mark.parametrize("path", ["generation_config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_a_file_that_ollama_could_not_parse_is_refused_before_the_weights(path: str) -> None:
    with pytest.raises(Refusal, match=f"acme/model/{path} is not JSON"):
        planned({path: b'{"a": 1,}'})


def test_an_index_is_never_sent() -> None:
    index = json.dumps({"weight_map": dict.fromkeys(shapes(LLAMA), "model.safetensors"), "x": float("nan")}).encode()
    assert INDEX not in {upload.path for upload in planned({INDEX: index}).uploads}


def test_what_the_modelfile_says_of_the_tokenizer_is_sent() -> None:
    modelfile = Modelfile(NO_SETTINGS, "chat_template.jinja", True, b'{"a": 1}', ("odd",))
    plan = planned({"chat_template.jinja": b"x"}, modelfile=modelfile)
    assert sent(plan, "tokenizer_config.json") == {"a": 1}
    assert (plan.template_source, plan.template_exact) == ("chat_template.jinja", True)
    assert "chat_template.jinja" not in {upload.path for upload in plan.uploads}
    assert "chat_template.jinja is put into tokenizer_config.json, where Ollama reads it" in plan.repairs
    assert "odd" in plan.warnings


@pytest.mark.parametrize(("tag", "also"), [("f16", 0), ("q8_0", 1), ("bf16", 1)])
def test_what_ollama_writes_is_the_conversion_and_then_the_result(tag: str, also: int) -> None:
    plan = planned(tag=tag)
    full = planned(tag="f16")
    assert plan.result_size is not None
    assert full.result_size is not None
    assert plan.made_size == plan.result_size + also * full.result_size
    numbers = sum(np.prod(shape) for _, shape in shapes(LLAMA).values())
    assert full.result_size == pytest.approx(2 * numbers + len(COMPANIONS["tokenizer.json"]), 0.05)


def test_the_experts_of_mixtral_are_swapped_in_the_header() -> None:
    plan = planned(fields=config(MIXTRAL))
    [upload] = plan.weights
    fields = json.loads(upload.recipe.parts[0].content[8:])  # type: ignore[union-attr]
    expert = "model.layers.0.block_sparse_moe.experts.0."
    assert fields[f"{expert}w3.weight"]["shape"] == list(shapes(MIXTRAL)[f"{expert}w2.weight"][1])
    assert any("8 tensors renamed" in repair for repair in plan.repairs)


@given(
    path=st.sampled_from(
        ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"]
    ),
    value=JSON | st.dictionaries(st.sampled_from(["chat_template", "bos_token", "add_bos_token"]), JSON, max_size=2),
    raw=st.none() | st.binary(max_size=20),
)
def test_any_small_file_is_sent_as_json_or_refused(path: str, value: Any, raw: bytes | None) -> None:
    try:
        plan = planned({path: json.dumps(value).encode() if raw is None else raw})
    except Refusal as refusal:
        str(refusal).encode()
    else:
        for upload in plan.uploads:
            if upload.content is not None:
                json.loads(upload.content, parse_constant=pytest.fail)
