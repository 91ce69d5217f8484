"""`tiny_llama` is a valid repository: safetensors and tokenizers read it."""

import math
from pathlib import Path

import orjson
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from proxy.standins.tiny_llama import CHAT_TEMPLATE, tiny_llama


def write(files: dict[str, bytes], folder: Path) -> None:
    for path, data in files.items():
        (folder / path).write_bytes(data)


def shapes(files: dict[str, bytes], folder: Path) -> dict[str, list[int]]:
    write(files, folder)
    shape_of: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as weights:
            assert weights.metadata() == {"format": "pt"}
            for name in weights.keys():  # noqa: SIM118 - it is not a mapping
                piece = weights.get_slice(name)
                assert piece.get_dtype() == "BF16"
                shape_of[name] = piece.get_shape()
    return shape_of


def test_safetensors_reads_its_weights(tmp_path: Path) -> None:
    files = tiny_llama()
    shape_of = shapes(files, tmp_path)
    config = orjson.loads(files["config.json"])
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    assert shape_of["model.embed_tokens.weight"] == shape_of["lm_head.weight"] == [vocabulary, hidden]
    assert shape_of["model.layers.1.mlp.down_proj.weight"] == [hidden, config["intermediate_size"]]
    assert shape_of["model.layers.0.self_attn.k_proj.weight"] == [hidden // 2, hidden]
    assert len(shape_of) == 3 + 9 * config["num_hidden_layers"]
    assert 3e6 < sum(len(data) for data in files.values()) < 5e6


def test_tokenizers_reads_its_tokenizer() -> None:
    files = tiny_llama()
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.get_vocab_size() == orjson.loads(files["config.json"])["vocab_size"]
    text = "<|begin_of_text|>Hello there, 12345 wörld!\n\n日本<|eot_id|>"
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    assert encoded.ids[0] == orjson.loads(files["config.json"])["bos_token_id"]
    assert encoded.ids[-1] == orjson.loads(files["generation_config.json"])["eos_token_id"]
    assert len(tokenizer.encode("hello").ids) < len("hello")


def test_tokenizer_config_has_the_chat_template() -> None:
    config = orjson.loads(tiny_llama()["tokenizer_config.json"])
    assert config["chat_template"] == CHAT_TEMPLATE
    assert config["add_bos_token"] is True
    assert config["bos_token"] == "<|begin_of_text|>"


def test_every_weight_is_a_small_finite_number() -> None:
    data = tiny_llama()["model.safetensors"]
    start = 8 + int.from_bytes(data[:8], "little")
    exponents = {upper & 0x7F for upper in data[start + 1 :: 2]}
    assert exponents == {0x3B, 0x3C, 0x3F}
    assert math.isfinite(2.0 ** (2 * max(exponents) - 127))


def test_the_seed_determines_the_bytes() -> None:
    assert tiny_llama(seed=7) == tiny_llama(seed=7)
    one, other = tiny_llama(seed=7), tiny_llama(seed=8)
    assert [path for path in one if one[path] != other[path]] == ["model.safetensors"]


@pytest.mark.parametrize("shards", [2, 3, 21])
def test_shards_have_the_same_tensors_and_a_correct_index(shards: int, tmp_path: Path) -> None:
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    whole.mkdir()
    sharded.mkdir()
    files = tiny_llama(shards=shards)
    assert shapes(files, sharded) == shapes(tiny_llama(), whole)
    index = orjson.loads(files["model.safetensors.index.json"])
    names = {path for path in files if path.endswith(".safetensors")}
    assert set(index["weight_map"].values()) == names
    assert len(names) == shards
    with safe_open(whole / "model.safetensors", framework="numpy") as weights:
        total = sum(2 * math.prod(weights.get_slice(name).get_shape()) for name in index["weight_map"])
    assert index["metadata"]["total_size"] == total


def test_more_shards_than_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="21 tensors do not fill 22 shards"):
        tiny_llama(shards=22)
