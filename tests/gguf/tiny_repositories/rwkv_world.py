"""A tiny vocabulary in RWKV's own form."""

from tests.gguf.tiny_repositories.tokenizer import WORDS, Tokenizer, dump

FIRST = "<|rwkv_tokenizer_end_of_text|>"
TEMPLATE = (
    "{{ '" + FIRST + "' }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + "
    "message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + "
    "'\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def world_tokens() -> Tokenizer:
    """Single bytes, then longer tokens. The 261st is two line ends, as in the real vocabulary."""
    texts = [chr(byte) if byte < ord("\x80") else bytes([byte]) for byte in range(256)]
    texts += ["\t\t", "\t\n", "\n\t", "  ", "\n\n", "'\"", "é", b"\xe2\x80", "User", ":", " Assistant"]
    texts += sorted({f" {word}" for word in WORDS} | set(WORDS))
    texts = list(dict.fromkeys(texts))
    lines = [
        f"{number} {text!r} {len(text if isinstance(text, bytes) else text.encode())}\n"
        for number, text in enumerate(texts, 1)
    ]
    token = {"content": FIRST, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "add_bos_token": False,
        "added_tokens_decoder": {"0": {**token, "special": True}},
        "bos_token": FIRST,
        "eos_token": "\n\n",
        "pad_token": FIRST,
        "unk_token": FIRST,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "RwkvTokenizer",
    }
    files = {"rwkv_vocab_v20230424.txt": "".join(lines).encode(), "tokenizer_config.json": dump(config)}
    return Tokenizer(files, len(texts) + 3, {"bos": 0, "eos": 0})
