"""Whether a repository becomes a working model, by its config.json and the headers of its weights alone."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.planning.capabilities import CONVERTS
from proxy.planning.preflight import NEEDS_PREPROCESSOR, PACKED, Edit
from proxy.planning.weights import NotConvertible
from tests.planning.shapes import (
    FACTORS,
    FAMILIES,
    FEED_FORWARD,
    GEMMA,
    GEMMA2,
    GEMMA3,
    HIDDEN,
    LLAMA,
    MIXTRAL,
    PHI3,
    QWEN2,
    ROWS,
    Shapes,
    checked,
    config,
    judged,
    shapes,
)
from tests.planning.test_repairs import CONFIGS
from tests.planning.test_safetensors import JSON

DOWN = "model.layers.0.mlp.down_proj.weight"
GPT_OSS, BERT = "GptOssForCausalLM", "BertModel"


def without(tensors: Shapes, *names: str) -> Shapes:
    return {name: shape for name, shape in tensors.items() if name not in names}


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
@pytest.mark.parametrize("architecture", [family for family in FAMILIES if family != MIXTRAL])
def test_a_whole_model_is_taken_as_it_is(architecture: str, version: str) -> None:
    fields = config(architecture)
    found = checked(fields, shapes(architecture), version=version, tag="q8_0")
    assert found.config == fields
    assert (found.repairs, found.warnings, found.edits) == ([], [], {"model.safetensors": {}})
    assert (found.architecture, found.quantization) == (architecture, "Q8_0")


@pytest.mark.parametrize(
    ("architecture", "version", "message"),
    [
        ("XLMRobertaXLModel", "0.24.0", "neither this proxy nor any Ollama converts XLMRobertaXLModel$"),
        ("Qwen3VLForConditionalGeneration", "0.6.8", "Ollama 0.6.8 cannot convert .*; Ollama 0.12.7 can, up to"),
        ("GptOssForCausalLM", "0.6.8", "Ollama 0.6.8 does not run GptOssForCausalLM; Ollama 0.11.5 or newer does"),
        (
            "LagunaForCausalLM",
            "0.40.0",
            "does not know LagunaForCausalLM, and Ollama 0.40.0 converts nothing",
        ),
        (
            "LagunaForCausalLM",
            "0.34.1",
            "does not know LagunaForCausalLM, and Ollama 0.34.1 converts nothing",
        ),
        ("MllamaForConditionalGeneration", "0.33.0", "0.33.0 converts MllamaForConditionalGeneration, but cannot run"),
    ],
)
def test_an_architecture_that_this_ollama_does_not_convert_is_refused_with_those_that_do(
    architecture: str, version: str, message: str
) -> None:
    with pytest.raises(NotConvertible, match=f"^acme/model/config.json: .*{message}"):
        judged({"architectures": [architecture]}, version)


@pytest.mark.parametrize(
    ("architecture", "version"),
    [
        ("Qwen3ForCausalLM", "0.6.6"),
        ("Qwen3ForCausalLM", "0.33.0"),
        ("MistralForCausalLM", "0.24.0"),
        ("Qwen2ForCausalLM", "0.5.5"),
        ("LlamaForCausalLM", "0.34.1"),
    ],
)
def test_a_family_that_the_proxy_knows_is_left_to_it(architecture: str, version: str) -> None:
    with pytest.raises(
        NotConvertible,
        match=f"^acme/model/config.json: Ollama {version} does not convert {architecture}, but this proxy does: set "
        "pull.converter to auto$",
    ):
        judged({"architectures": [architecture]}, version)


@pytest.mark.parametrize(
    ("architecture", "version", "newer"),
    [("Qwen3ForCausalLM", "0.6.5", "0.6.6"), ("SmolLM3ForCausalLM", "0.11.4", "0.11.5")],
)
def test_a_family_that_nobody_here_runs_yet_says_who_does(architecture: str, version: str, newer: str) -> None:
    """Ollama's own converter would not help either."""
    with pytest.raises(
        NotConvertible,
        match=f"config.json: Ollama {version} does not run {architecture}; Ollama {newer} or newer does$",
    ):
        judged({"architectures": [architecture]}, version)


@pytest.mark.parametrize("version", ["0.7.0", "0.24.0"])
def test_mllama_is_taken_where_it_runs(version: str) -> None:
    assert judged({"architectures": ["MllamaForConditionalGeneration"]}, version).quantization == "F16"


def test_mistral_is_taken_by_the_releases_that_had_it() -> None:
    assert judged(config("MistralForCausalLM"), "0.6.4").architecture == "MistralForCausalLM"


@pytest.mark.parametrize("names", [..., None, [], {}, 5, [None], [["LlamaForCausalLM"]], "", "a b", "\x1b[2J", ["x\n"]])
def test_a_configuration_without_an_architecture_is_refused(names: Any) -> None:
    fields = {} if names is ... else {"architectures": names}
    with pytest.raises(NotConvertible, match="acme/model/config.json names no architecture"):
        judged(fields)


def test_an_architecture_outside_of_a_list_is_put_into_one() -> None:
    fields = config(LLAMA, architectures=LLAMA)
    found = judged(fields)
    assert found.config["architectures"] == [LLAMA]
    assert found.repairs == ["config.json: architectures written as a list"]
    assert fields["architectures"] == LLAMA  # what was read stays what it was


def test_the_first_of_two_architectures_counts() -> None:
    assert judged(config(LLAMA, architectures=[LLAMA, "Other"])).repairs == []
    with pytest.raises(NotConvertible, match="Other"):
        judged(config(LLAMA, architectures=["Other", LLAMA]))


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
@pytest.mark.parametrize("method", [*PACKED, "GPTQ"])
def test_weights_that_are_packed_already_are_refused(method: str, key: str) -> None:
    with pytest.raises(NotConvertible, match=f"quantized already \\({method.lower()}\\).*they were quantized from"):
        judged(config(LLAMA, **{key: {"quant_method": method, "bits": 4}}))


@pytest.mark.parametrize(
    "said", [{"quant_method": "fp8"}, {"quant_method": None}, {"quant_method": 8}, "gptq", [1], {}]
)
def test_another_word_on_quantization_is_not_judged_by_its_name(said: Any) -> None:
    assert judged(config(LLAMA, quantization_config=said)).architecture == LLAMA


@pytest.mark.parametrize(("tag", "quantization"), [("latest", "Q4_K_M"), ("Q8_0", "Q8_0"), ("q4_k", "Q4_K_M")])
def test_the_tag_says_the_quantization(tag: str, quantization: str) -> None:
    assert judged(config(LLAMA), tag=tag).quantization == quantization


@pytest.mark.parametrize("tag", ["q5_k_m", "iq2_xs", "mxfp4", "nonsense"])
def test_a_quantization_that_no_longer_is_names_those_that_are(tag: str) -> None:
    with pytest.raises(Refusal, match=f"0.33.0 cannot quantize to '{tag}'.*: F32, F16, BF16, Q8_0, Q4_K_S, Q4_K_M \\("):
        judged(config(LLAMA), tag=tag)


def test_old_releases_quantize_to_more() -> None:
    assert judged(config(LLAMA), "0.6.8", "q5_k_m").quantization == "Q5_K_M"


def test_gpt_oss_is_taken_without_a_tag_only() -> None:
    assert judged({"architectures": [GPT_OSS]}, tag="latest").quantization is None
    with pytest.raises(
        Refusal, match="MXFP4 already, which Ollama 0.24.0 cannot quantize to 'f16'; pull without a tag"
    ):
        judged({"architectures": [GPT_OSS]}, "0.24.0")


# Without these the converter divides by zero, ends the server, or makes a model that does not load (A6, A7, C13, C14).
@pytest.mark.parametrize("value", [..., None, 0, -1, "two", 2.5, [2], True, 2**31, 10**30, float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        *((architecture, "num_attention_heads") for architecture in (*FAMILIES, "NomicBertModel")),
        (LLAMA, "num_hidden_layers"),
        (QWEN2, "hidden_size"),
        (PHI3, "intermediate_size"),
        (GEMMA3, "max_position_embeddings"),
        (MIXTRAL, "num_local_experts"),
    ],
)
def test_a_number_that_ends_ollama_is_refused_by_its_key(architecture: str, key: str, value: Any) -> None:
    with pytest.raises(Refusal, match=f"acme/model/config.json has no usable {key} .*Ollama makes no {architecture}"):
        judged(config(architecture, **{key: value}))


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 2.0},
        {"type": "linear", **FACTORS},
        {"type": "dynamic", "factor": 2.0},
        {"type": "yarn", **FACTORS},
        {"type": "llama3", **FACTORS},
        {"rope_type": "mrope", **FACTORS},
        {"type": "longrope"},
        {"type": "longrope", "short_factor": [1.0], "long_factor": None},
        {"type": "su", "short_factor": [1.0] * 12, "long_factor": [1.0] * 12},  # Phi-4-mini's three quarters
        {"type": 5, **FACTORS},
        {"type": ["su"], **FACTORS},
    ],
)
def test_a_rope_scaling_of_phi3_that_ends_ollama_or_does_not_load_is_refused(scaling: dict[str, Any]) -> None:
    with pytest.raises(NotConvertible, match="has a rope_scaling .* of which Ollama's Phi-3 makes no working model"):
        judged(config(PHI3, rope_scaling=scaling))


@pytest.mark.parametrize(
    ("scaling", "kind"),
    [
        (None, None),
        ({"rope_type": "default"}, None),
        ({"type": "linear", "factor": 2.0}, None),
        ({"rope_type": "llama3"}, None),
        ({"type": "yarn", "factor": 4.0}, "yarn"),
        ({"rope_type": "dynamic"}, "dynamic"),
        ({"rope_type": "longrope"}, "longrope"),
    ],
)
def test_a_scaling_that_ollama_leaves_out_is_warned_of(scaling: Any, kind: str | None) -> None:
    warnings = judged(config(LLAMA, rope_scaling=scaling)).warnings
    assert len(warnings) == (kind is not None)
    assert all(f"does not apply the rope_scaling {kind}" in warning for warning in warnings)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_missing_tensor_is_refused_by_name(architecture: str) -> None:
    whole = shapes(architecture)
    for name in whole:
        shown = name.replace(".w2.", ".wX.").replace(".w3.", ".w2.").replace(".wX.", ".w3.")
        with pytest.raises(Refusal, match=f"acme/model has no tensor {shown}, which {architecture} needs"):
            checked(config(architecture), without(whole, name))


def test_more_layers_than_there_are_is_found_at_once() -> None:
    start = time.process_time()
    with pytest.raises(Refusal, match=r"no tensor model\.layers\.2\.input_layernorm\.weight"):
        checked(config(LLAMA, num_hidden_layers=2**31 - 1), shapes(LLAMA))
    with pytest.raises(Refusal, match="experts.2.w1.weight"):
        checked(config(MIXTRAL, num_local_experts=2**31 - 1), shapes(MIXTRAL))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["model.vision.patch.weight", "model.layers.2.mlp.up_proj.weight", "model.mtp.weight"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_tensor_that_ollama_has_no_place_for_is_refused_by_name(architecture: str, name: str) -> None:
    extra: Shapes = {name: ("BF16", (HIDDEN, HIDDEN))}
    with pytest.raises(NotConvertible, match=f"has the tensor {name}, which Ollama's {architecture} has no place for"):
        checked(config(architecture), shapes(architecture) | extra)


@pytest.mark.parametrize("shape", [(), (0, HIDDEN), (ROWS, 0)])
def test_a_tensor_without_numbers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match=r"model\.embed_tokens\.weight"):
        checked(config(LLAMA), shapes(LLAMA) | {"model.embed_tokens.weight": ("BF16", shape)})
    query: Shapes = {"model.layers.0.self_attn.q_proj.weight": ("BF16", shape)}
    with pytest.raises(Refusal, match=r"model\.layers\.0\.self_attn\.q_proj\.weight"):
        checked(config(LLAMA, num_key_value_heads=None), shapes(LLAMA) | query)


@pytest.mark.parametrize("architecture", [LLAMA, QWEN2, PHI3, MIXTRAL])
def test_an_output_matrix_of_its_own_is_taken(architecture: str) -> None:
    found = checked(config(architecture), shapes(architecture) | {"lm_head.weight": ("BF16", (ROWS, HIDDEN))})
    assert "lm_head.weight" not in found.edits["model.safetensors"]


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (LLAMA, "model.layers.0.self_attn.rotary_emb.inv_freq"),
        (QWEN2, "model.layers.1.self_attn.masked_bias"),
        (LLAMA, "model.layers.0.self_attn.k_scale"),
        (LLAMA, "model.layers.0.mlp.up_proj.input_scale"),
        *((architecture, "lm_head.weight") for architecture in (GEMMA, GEMMA2, GEMMA3)),
    ],
)
@pytest.mark.parametrize("dtype", ["BF16", "I64"])
def test_a_useless_tensor_is_left_out(architecture: str, name: str, dtype: str) -> None:
    found = checked(config(architecture), shapes(architecture) | {name: (dtype, (ROWS, HIDDEN))})
    assert found.edits["model.safetensors"] == {name: Edit(None)}
    assert found.repairs == [f"1 tensors left out that Ollama has no place for, such as {name}"]


def test_a_model_that_was_saved_without_its_head_gets_the_names_of_a_whole_one() -> None:
    bare = {name.removeprefix("model."): shape for name, shape in shapes(LLAMA).items()}
    found = checked(config(LLAMA), bare)
    assert found.edits["model.safetensors"] == {name: Edit(f"model.{name}") for name in bare}
    assert found.repairs == [f"{len(bare)} tensors renamed for Ollama's converter, such as {min(bare)}"]


@pytest.mark.parametrize("version", ["0.33.0", "0.34.0"])
def test_the_experts_of_mixtral_change_places(version: str) -> None:
    edits = checked(config(MIXTRAL), shapes(MIXTRAL), version=version).edits["model.safetensors"]
    expert = "model.layers.0.block_sparse_moe.experts.1."
    assert edits[f"{expert}w2.weight"] == Edit(f"{expert}w3.weight")
    assert edits[f"{expert}w3.weight"] == Edit(f"{expert}w2.weight")
    assert f"{expert}w1.weight" not in edits


@pytest.mark.parametrize("dtype", ["F64", "I8", "I32", "I64", "U8", "U32", "BOOL", "F8_E5M2", "F8_E8M0", "F4"])
def test_a_type_that_ollama_cannot_read_is_refused_with_the_tensor(dtype: str) -> None:
    tensors = shapes(LLAMA) | {DOWN: (dtype, (HIDDEN, FEED_FORWARD))}
    with pytest.raises(
        NotConvertible, match=f"model.safetensors: {DOWN} is of the type {dtype}, .*F16 and BF16, and FP8"
    ):
        checked(config(LLAMA), tensors)


def test_an_ollama_without_fp8_says_so() -> None:
    tensors = shapes(LLAMA) | {DOWN: ("F8_E4M3", (HIDDEN, FEED_FORWARD))}
    with pytest.raises(
        NotConvertible, match="F8_E4M3, which Ollama 0.21.2 cannot read: it converts F32, F16 and BF16;"
    ):
        checked(config(LLAMA), tensors, version="0.21.2")


def test_packed_bytes_are_gpt_oss_alone() -> None:
    tensors: Shapes = {"model.layers.0.mlp.experts.down_proj_blocks": ("U8", (4, 16))}
    assert checked({"architectures": [GPT_OSS]}, tensors, tag="latest").quantization is None
    with pytest.raises(NotConvertible, match="U8"):
        checked({"architectures": ["CohereForCausalLM"]}, tensors)


def test_gpt_oss_in_other_weights_is_refused() -> None:
    tensors: Shapes = {"model.layers.0.mlp.experts.down_proj": ("BF16", (4, 16))}
    with pytest.raises(NotConvertible, match="GptOssForCausalLM converts only from MXFP4 weights"):
        checked({"architectures": [GPT_OSS]}, tensors, tag="latest")


def test_the_positions_of_bert_may_be_whole_numbers() -> None:
    tensors: Shapes = {
        "embeddings.position_ids": ("I64", (1, 512)),
        "bert.encoder.x.weight": ("F32", (32, 32)),
    }
    found = checked({"architectures": [BERT]}, tensors)
    assert found.edits["model.safetensors"] == {"bert.encoder.x.weight": Edit("encoder.x.weight")}


def test_a_tensor_in_two_files_without_an_index_is_refused() -> None:
    whole = shapes(LLAMA)
    with pytest.raises(
        Refusal, match="model-1-of-2.safetensors and model-2-of-2.safetensors both have the tensor model.n"
    ):
        checked(config(LLAMA), whole, {"model.norm.weight": whole["model.norm.weight"]})


def test_a_tensor_in_two_files_is_taken_from_that_of_the_index() -> None:
    whole = shapes(LLAMA)
    double: Shapes = {"model.norm.weight": ("F32", (HIDDEN,))}
    found = checked(config(LLAMA), whole, double, index=dict.fromkeys(whole, 0))
    assert found.edits == {
        "model-1-of-2.safetensors": {},
        "model-2-of-2.safetensors": {"model.norm.weight": Edit(None)},
    }


def test_a_tensor_that_the_index_has_and_the_file_has_not_is_refused() -> None:
    whole = shapes(LLAMA)
    where = (
        "acme/model/model.safetensors.index.json says that model-2-of-2.safetensors has the tensor model.norm.weight"
    )
    with pytest.raises(Refusal, match=f"{where}, but it has not"):
        checked(config(LLAMA), whole, {}, index=dict.fromkeys(whole, 0) | {"model.norm.weight": 1})


@pytest.mark.parametrize("version", ["0.24.0", "0.33.0"])
@pytest.mark.parametrize("tag", ["q8_0", "q4_k_m", "f16", "bf16"])
@pytest.mark.parametrize("rows", [HIDDEN, 40])
def test_rows_that_llama_quantize_cannot_divide_are_refused_where_it_runs(version: str, tag: str, rows: int) -> None:
    fields = config(LLAMA, intermediate_size=rows)
    tensors = {
        name: (dtype, tuple(rows if size == FEED_FORWARD else size for size in shape))
        for name, (dtype, shape) in shapes(LLAMA).items()
    }
    if rows % 32 and version == "0.33.0" and tag in ("q8_0", "q4_k_m"):
        with pytest.raises(
            Refusal, match=f"{DOWN} has rows of 40 numbers, .*cannot quantize to {tag.upper()} .*as F16"
        ):
            checked(fields, tensors, version=version, tag=tag)
    else:
        checked(fields, tensors, version=version, tag=tag)


@pytest.mark.parametrize(
    ("architecture", "name", "shape"),
    [
        ("Lfm2ForCausalLM", "model.layers.0.conv.conv.weight", (32, 1, 3)),
        ("Gemma3nForConditionalGeneration", "model.language_model.layers.0.altup.router.weight", (4, 4)),
        ("CohereForCausalLM", "x.weight", (32, 40)),
    ],
)
def test_rows_of_other_families_are_not_judged(architecture: str, name: str, shape: tuple[int, ...]) -> None:
    """llama-quantize leaves many of their small tensors alone, and Ollama keeps those of images from it."""
    found = checked({"architectures": [architecture]}, {name: ("BF16", shape)}, tag="q4_k_m")
    assert found.quantization == "Q4_K_M"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_tensor_of_another_shape_than_the_configuration_says_is_refused(architecture: str) -> None:
    whole = shapes(architecture)
    for name, (dtype, shape) in whole.items():
        shown = name.replace(".w2.", ".wX.").replace(".w3.", ".w2.").replace(".wX.", ".w3.")
        wrong = (*shape[:-1], shape[-1] + 32)
        with pytest.raises(Refusal, match=f"{shown} has the shape .*{wrong[-1]}\\], but by config.json it has"):
            checked(config(architecture), whole | {name: (dtype, wrong)})


@pytest.mark.parametrize("value", ["32x", 2.5, [32], {"a": 1}, True, 2**40, -1])
@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads", "sliding_window"])
def test_a_number_that_may_be_absent_has_to_be_one_where_it_is_there(key: str, value: Any) -> None:
    with pytest.raises(Refusal, match=f"acme/model/config.json has no usable {key} .*it is no whole number"):
        judged(config(LLAMA, **{key: value}))


@pytest.mark.parametrize(
    ("version", "tag", "dtype", "quantization", "said"),
    [
        ("0.24.0", "bf16", "BF16", None, "no quantization: the weights are BF16, and Ollama 0.24.0 would spoil one"),
        ("0.7.0", "bf16", "BF16", None, "no quantization"),
        ("0.6.8", "bf16", "BF16", "BF16", ""),
        ("0.33.0", "bf16", "BF16", "BF16", ""),
        ("0.24.0", "bf16", "F16", "BF16", "makes the output matrix Q6_K when it is asked for BF16"),
        ("0.24.0", "f32", "BF16", "F32", "makes the output matrix Q6_K when it is asked for F32"),
        ("0.33.0", "f32", "F32", "F32", ""),
        ("0.24.0", "f16", "BF16", "F16", ""),
    ],
)
def test_a_quantization_that_would_spoil_the_output_is_not_asked_for(
    version: str, tag: str, dtype: str, quantization: str | None, said: str
) -> None:
    found = checked(config(LLAMA), shapes(LLAMA, dtype), version=version, tag=tag)
    assert found.quantization == quantization
    assert said in "".join(found.repairs + found.warnings)
    assert bool(found.repairs or found.warnings) is bool(said)


@pytest.mark.parametrize("architecture", NEEDS_PREPROCESSOR)
def test_a_model_that_sees_needs_its_preprocessor(architecture: str) -> None:
    text = [f"model.language_model.{name}.weight" for name in ("embed_tokens", "norm")]
    tensors: Shapes = dict.fromkeys(text, ("BF16", (32, 32)))
    checked({"architectures": [architecture]}, tensors, companions=("preprocessor_config.json",))
    with pytest.raises(
        Refusal, match=f"no preprocessor_config.json, without which Ollama does not convert {architecture}"
    ):
        checked({"architectures": [architecture]}, tensors)


@pytest.mark.parametrize("architecture", ["NomicBertModel", "NomicBertMoEModel"])
def test_nomic_bert_is_taken_in_the_converters_names_alone(architecture: str) -> None:
    """In its authors' own it ends v0.24 at the first text."""
    fields = config(architecture)
    known: Shapes = {"encoder.layer.0.attention.self.qkv.weight": ("F16", (96, 32))}
    checked(fields, known)
    with pytest.raises(NotConvertible, match=r"no tensor encoder\.layer\.0\.attention\.self\.qkv\.weight"):
        checked(fields, {"encoder.layers.0.attn.Wqkv.weight": ("F16", (96, 32))})


@pytest.mark.parametrize(("version", "taken"), [("0.6.4", False), ("0.6.5", True), ("0.33.0", True)])
def test_old_releases_read_weights_of_two_names_alone(version: str, taken: bool) -> None:
    from proxy.config import Quantization
    from proxy.planning.capabilities import capabilities_of
    from proxy.planning.preflight import check_weights, judge
    from proxy.planning.weights import Selection
    from proxy.sources.base import RepositoryFile
    from tests.planning.shapes import header

    path, ollama = "consolidated.safetensors", capabilities_of(version)
    found = judge("acme/model", config(LLAMA), "f16", Quantization.F16, ollama)
    selection = Selection((RepositoryFile(path, 1),), (), None)
    headers = {path: header(shapes(LLAMA))}
    if taken:
        check_weights("acme/model", selection, headers, found, ollama)
    else:
        with pytest.raises(NotConvertible, match="0.6.4 does not read weights by the name of consolidated.safetensors"):
            check_weights("acme/model", selection, headers, found, ollama)


NAMES = st.sampled_from(
    [*shapes(LLAMA), *shapes(MIXTRAL), *shapes(PHI3), "lm_head.weight", "x", "embed_tokens.weight", f"{DOWN}_scale"]
)
TENSORS = st.dictionaries(
    NAMES,
    st.tuples(
        st.sampled_from(["BF16", "F32", "F8_E4M3", "U8", "I64"]),
        st.lists(st.integers(0, 40) | st.sampled_from([HIDDEN]), max_size=3).map(tuple),
    ),
    max_size=5,
)


@given(
    fields=CONFIGS | st.fixed_dictionaries({"architectures": JSON}),
    architecture=st.sampled_from([*FAMILIES, *CONVERTS]),
    version=st.sampled_from(["0.5.5", "0.6.8", "0.24.0", "0.33.0", "0.0.0"]),
    tag=st.sampled_from(["latest", "f16", "q4_k_m", "bf16", "q5_0"]),
    more=TENSORS,
)
def test_any_configuration_and_any_tensors_are_judged_or_refused(
    fields: dict[str, Any], architecture: str, version: str, tag: str, more: Shapes
) -> None:
    whole = shapes(architecture) if architecture in FAMILIES else {}
    try:
        found = checked(config(architecture, **fields), whole | more, version=version, tag=tag)
    except Refusal as refusal:
        str(refusal).encode()
    else:
        "".join(found.repairs + found.warnings).encode()
