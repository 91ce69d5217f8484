"""Embedding models, compared with llama.cpp's converter (b11434)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.gguf.header import read_header
from proxy.gguf.model_config import CannotConvert
from proxy.planning.embedding import pooling_of
from proxy.planning.weights import NotConvertible
from tests.gguf.differences import OTHER_VALUES, llama_cpp_figures
from tests.gguf.tiny_repositories import REPOSITORIES
from tests.gguf.writing import figures, plan, write
from tests.kit.tiny_families import Files, embedding_form
from tests.kit.tiny_models import newer_sentence_transformer, tiny_bert, tiny_xlm_roberta


def bert_with_a_hole() -> Files:
    """One id has no token."""
    files = tiny_bert()
    vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    del vocabulary["##a"]
    return tokenizer_of(files, model__vocab=vocabulary)


EMBEDDERS: Mapping[str, Callable[[], Files]] = {
    "bert": tiny_bert,
    "bert_hole": bert_with_a_hole,
    "xlm_roberta": tiny_xlm_roberta,
}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_metadata_and_tensors_match_llama_cpp(name: str) -> None:
    files = EMBEDDERS[name]()
    content = write(plan(files), files)
    header = read_header(content, size=len(content))
    ours = figures(header, content)
    theirs = llama_cpp_figures(name)
    for key, (value, _) in OTHER_VALUES[name].items():
        assert header.metadata[key].value == value
        assert ours["metadata"].pop(key) != theirs["metadata"].pop(key, None)
    assert ours == theirs


def decoder() -> Files:
    return embedding_form(replace(REPOSITORIES["qwen2"], shards=1).files())


def test_embedding_decoder_differs_by_pooling_and_output() -> None:
    chat_model = replace(REPOSITORIES["qwen2"], shards=1).files()
    chats, embeds = (read_header(plan(files).header) for files in (chat_model, decoder()))
    assert embeds.get("qwen2.pooling_type", int) == 3
    assert embeds.metadata.keys() - chats.metadata.keys() == {"qwen2.pooling_type"}
    names = {tensor.name for tensor in chats.tensors}
    assert names - {tensor.name for tensor in embeds.tensors} == {"output.weight"}


@pytest.mark.parametrize(("pooling", "number"), [("mean", 1), ("cls", 2), ("lasttoken", 3)])
@pytest.mark.parametrize("form", [dict, newer_sentence_transformer])
def test_pooling_is_read_from_modules_json(pooling: Any, number: int, form: Callable[[Files], Files]) -> None:
    header = read_header(plan(form(tiny_bert(pooling=pooling))).header)
    assert header.get("bert.pooling_type", int) == number


def test_older_tensor_names_are_read() -> None:
    files = tiny_bert()
    older = files["model.safetensors"]
    for new, old in ((b"LayerNorm.weight", b"LayerNorm.gamma "), (b"LayerNorm.bias", b"LayerNorm.beta ")):
        older = older.replace(b"." + new + b'"', b"." + old.strip() + b'"' + b" " * (len(new) - len(old.strip())))
    assert older != files["model.safetensors"]
    assert plan(files | {"model.safetensors": older}).header == plan(files).header


def tokenizer_of(files: Files, **changes: object) -> Files:
    tokenizer = json.loads(files["tokenizer.json"])
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = tokenizer
        for key in outer:
            place = place[key]
        place[last] = value
    return files | {"tokenizer.json": json.dumps(tokenizer).encode()}


@pytest.mark.parametrize("lowercase", [True, False])
def test_lowercase_and_accents_follow_the_tokenizer(lowercase: bool) -> None:
    conversion = plan(tokenizer_of(tiny_bert(), normalizer__lowercase=lowercase, normalizer__strip_accents=lowercase))
    header = read_header(conversion.header)
    assert header.get("tokenizer.ggml.normalizer.lowercase", bool) is lowercase
    assert header.get("tokenizer.ggml.normalizer.strip_accents", bool) is lowercase
    assert conversion.pre_tokenizer == ("uncased WordPiece" if lowercase else "cased WordPiece")


def test_charsmap_of_a_unigram_is_written_unchanged() -> None:
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "AQAAAAD/"}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    for normalizer in (charsmap, {"type": "Sequence", "normalizers": [charsmap, spaces]}):
        header = read_header(plan(tokenizer_of(tiny_xlm_roberta(), normalizer=normalizer)).header)
        assert header.get("tokenizer.ggml.precompiled_charsmap", list) == [1, 0, 0, 0, 0, 255]


@pytest.mark.parametrize(
    ("make", "changes", "named"),
    [
        (tiny_bert, {"normalizer": None}, "normalizer"),
        (tiny_bert, {"normalizer__clean_text": False}, "clean_text"),
        (tiny_bert, {"normalizer__handle_chinese_chars": False}, "handle_chinese_chars"),
        (tiny_bert, {"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer"),
        (tiny_bert, {"model__continuing_subword_prefix": "@@"}, "@@"),
        (tiny_bert, {"model__type": "WordLevel"}, "tokenizer.json"),
        (tiny_xlm_roberta, {"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        (
            tiny_xlm_roberta,
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "*"}},
            "precompiled_charsmap",
        ),
        (tiny_xlm_roberta, {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AQAAAAA="}}, "cut off"),
        (tiny_xlm_roberta, {"pre_tokenizer": {"type": "WhitespaceSplit"}}, "pre-tokenizer"),
        (tiny_xlm_roberta, {"model__unk_id": None}, "Unigram"),
        (tiny_xlm_roberta, {"model__vocab": [["<s>"]]}, "piece"),
        (tiny_xlm_roberta, {"model__vocab": [["<s>", "0"]]}, "piece"),
    ],
)
def test_tokenizer_setting_that_llama_cpp_lacks_is_refused(
    make: Callable[[], Files], changes: Mapping[str, object], named: str
) -> None:
    with pytest.raises(CannotConvert, match=named):
        plan(tokenizer_of(make(), **changes))


def test_missing_positions_are_refused() -> None:
    files = tiny_xlm_roberta()
    config = json.loads(files["config.json"]) | {"pad_token_id": 200}
    with pytest.raises(CannotConvert, match="position_embeddings"):
        plan(files | {"config.json": json.dumps(config).encode()})


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "has no modules.json"),
        (tiny_bert(pooling="max"), "pools by max"),
        (
            tiny_bert() | {"modules.json": tiny_bert()["modules.json"].replace(b"Normalize", b"LayerNorm")},
            "a module LayerNorm",
        ),
    ],
)
def test_pooling_that_no_gguf_can_hold_is_refused(files: Files, reason: str) -> None:
    with pytest.raises(NotConvertible, match=reason):
        pooling_of("acme/tiny", files, embeds=True)


def other_json(files: Files, path: str, **changes: object) -> Files:
    return files | {path: json.dumps(json.loads(files[path]) | changes).encode()}


GEMMA = REPOSITORIES["gemma_embedding"].files()
ONE_DENSE = [module for module in json.loads(GEMMA["modules.json"]) if module["path"] != "3_Dense"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (GEMMA | {"modules.json": json.dumps(ONE_DENSE).encode()}, "has 1 modules Dense"),
        ({path: content for path, content in GEMMA.items() if path != "3_Dense/model.safetensors"}, "has no 3_Dense"),
        (other_json(GEMMA, "2_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh"), "Tanh"),
        (other_json(GEMMA, "2_Dense/config.json", module_input_name="token_embeddings"), "token_embeddings"),
        (
            GEMMA | {"modules.json": GEMMA["modules.json"].replace(b"models.Normalize", b"models.Dense")},
            "has 3 modules",
        ),
        (GEMMA | {"modules.json": json.dumps(json.loads(GEMMA["modules.json"])[::-1]).encode()}, "the modules Norm"),
    ],
)
def test_dense_modules_that_llama_cpp_lacks_are_refused(files: Files, reason: str) -> None:
    with pytest.raises(NotConvertible, match=reason):
        plan(files)


def test_dense_modules_must_fit_each_other_and_the_family() -> None:
    with pytest.raises(CannotConvert, match=r"dense_3.weight is to have the shape \[512, 256\]"):
        plan(GEMMA | {"3_Dense/model.safetensors": GEMMA["2_Dense/model.safetensors"]})
    with pytest.raises(CannotConvert, match=r"dense_2.linear.weight' is unknown for this architecture"):
        plan(GEMMA | {path: decoder()[path] for path in ("config.json", "model.safetensors")})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_bidirectional_attention", False),
        ("query_pre_attn_scalar", 128),
        ("layer_types", ["full_attention"] * 6),
        ("rope_scaling", {"rope_type": "linear", "factor": 8.0}),
    ],
)
def test_embedding_gemma_setting_is_refused(key: str, value: object) -> None:
    with pytest.raises(CannotConvert, match="layer_types|linear" if key[0] in "lr" else key):
        plan(other_json(GEMMA, "config.json", **{key: value}))


def test_bare_mistral_equals_mistral_for_causal_lm() -> None:
    tiny = REPOSITORIES["mistral_model"]
    bare, whole = (
        read_header(plan(one.files()).header) for one in (tiny, replace(tiny, architecture="MistralForCausalLM"))
    )
    assert (bare.metadata, bare.tensors) == (whole.metadata, whole.tensors)
    # transformers 5 follows only the template; the authors' vectors are from 4 (embeddings-benchmark/mteb 5237).
    assert [bare.get(f"tokenizer.ggml.add_{kind}_token", bool) for kind in ("bos", "eos")] == [True, True]


@pytest.mark.parametrize("name", ["nomic_bert_v5", "nomic_bert"])
def test_both_forms_of_nomic_bert_make_one_model(name: str) -> None:
    header = read_header(plan(REPOSITORIES[name].files()).header)
    sizes = {key: header.metadata[f"nomic-bert.{key}"].value for key in ("context_length", "feed_forward_length")}
    assert sizes == {"context_length": 2048, "feed_forward_length": 512}
    assert header.tensors == read_header(plan(REPOSITORIES["nomic_bert"].files()).header).tensors


@pytest.mark.parametrize(
    ("positions", "trained", "context"), [(8192, 2048, 2048), (2048, 2048, 512), (1024, 2048, 1024)]
)
def test_context_of_nomic_bert_is_the_trained_one(positions: int, trained: int, context: int) -> None:
    files = REPOSITORIES["nomic_bert"].files()
    changed = other_json(files, "config.json", n_positions=positions, max_trained_positions=trained)
    assert read_header(plan(changed).header).get("nomic-bert.context_length", int) == context


def test_ignored_bias_of_nomics_experts_is_a_warning() -> None:
    [warning] = plan(REPOSITORIES["nomic_bert_moe"].files()).warnings
    assert "the bias after the experts" in warning


SECOND_CODE = REPOSITORIES["jina_bert_code"].change["auto_map"]


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("nomic_bert", {"activation_function": "gelu"}, "activation_function"),
        ("nomic_bert", {"prenorm": True}, "prenorm"),
        ("nomic_bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction"),
        ("nomic_bert", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved"),
        ("nomic_bert", {"rotary_emb_base": None}, "rope_theta"),
        ("nomic_bert", {"causal": True}, "causal"),
        ("nomic_bert", {"moe_every_n_layers": 2}, "activation_function"),
        ("nomic_bert_moe", {"moe_every_n_layers": 4}, "moe_every_n_layers"),
        ("nomic_bert_moe", {"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights"),
        ("nomic_bert_moe", {"num_experts": 3}, "does not make 3 matrices"),
        ("nomic_bert_moe", {"moe_every_n_layers": 0, "activation_function": "swiglu"}, "unknown for this architecture"),
        ("nomic_bert_v5", {"hidden_act": "gelu"}, "hidden_act"),
        ("modern_bert", {"hidden_activation": "relu"}, "hidden_activation"),
        ("modern_bert", {"num_hidden_layers": 5}, r"nothing that becomes blk\.4"),
        ("modern_bert_v5", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ("modern_bert_v5", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("modern_bert_v5", {"layer_types": 4}, "layer_types"),
        ("eurobert", {"hidden_act": "gelu"}, "hidden_act"),
        ("jina_bert", {"position_embedding_type": "absolute"}, "position_embedding_type"),
        ("jina_bert", {"feed_forward_type": "reglu"}, "feed_forward_type"),
        ("jina_bert", {"emb_pooler": "cls"}, "emb_pooler"),
        ("jina_bert", {"alibi_scaling": 2}, "alibi_scaling = 2"),
        ("jina_bert", {"auto_map": SECOND_CODE}, "gated_layers.weight' is unknown for this architecture"),
        (
            "jina_bert_code",
            {"auto_map": {"AutoModel": "modeling.M"}},
            "up_gated_layer.weight. is unknown",
        ),
        ("jina_bert_code", {"intermediate_size": 256}, "not 256 [+] 256 rows"),
        ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
)
def test_encoder_setting_that_llama_cpp_lacks_is_refused(name: str, changes: Mapping[str, object], named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        plan(other_json(REPOSITORIES[name].files(), "config.json", **changes))


@pytest.mark.parametrize(
    ("kinds", "every"), [(["full_attention"] * 4, 1), (["full_attention", *["sliding_attention"] * 3], 4)]
)
def test_window_pattern_of_modern_bert_follows_layer_types(kinds: list[str], every: int) -> None:
    files = other_json(REPOSITORIES["modern_bert_v5"].files(), "config.json", layer_types=kinds)
    assert read_header(plan(files).header).get("modern-bert.attention.sliding_window_pattern", int) == every


@pytest.mark.parametrize("key", ["cls", "sep"])
def test_roberta_processor_without_a_token_is_refused(key: str) -> None:
    with pytest.raises(CannotConvert, match="unknown post-processor"):
        plan(tokenizer_of(REPOSITORIES["roberta"].files(), **{f"post_processor__{key}": None}))


def test_jina_v3_is_refused_for_its_adapters() -> None:
    with pytest.raises(CannotConvert, match="lora_adaptations"):
        plan(other_json(tiny_xlm_roberta(), "config.json", lora_adaptations=["retrieval.query", "separation"]))


def test_chat_model_has_no_pooling() -> None:
    assert pooling_of("acme/tiny", {}, embeds=False) is None


def test_decoder_without_causal_attention_is_refused() -> None:
    files = decoder()
    config = json.loads(files["config.json"]) | {"is_causal": False}
    with pytest.raises(CannotConvert, match="is_causal"):
        plan(files | {"config.json": json.dumps(config).encode()})
