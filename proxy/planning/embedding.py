"""Embedding models: how they pool, in the form that Ollama's converter reads (convert_bert.go). Pure.

All refusals are of what says `success` and then embeds wrongly or not at all, seen on v0.24.0 and v0.33.0-rc2.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from proxy.errors import Refusal
from proxy.gguf.conversion import Pooling
from proxy.gguf.families.rules import DENSE
from proxy.gguf.targets import Source
from proxy.planning.tokenizer_files import TOKENIZER, TokenizerFiles, check_tokenizer
from proxy.planning.weights import CONFIG, TOKENIZER_CONFIG, NotConvertible, json_object, json_value, token_text

MODULES = "modules.json"
GEMMA = "Gemma3TextModel"
BERTS = ("BertModel", "NomicBertModel", "NomicBertMoEModel")
ARCHITECTURES = (*BERTS, GEMMA)
CLASSIC = "sentence_transformers.models."
# Ollama's llama-server takes these for granted where a GGUF does not say otherwise.
BERT_CLS, BERT_SEP = 101, 102


def module_files(modules: bytes | None) -> tuple[str, ...]:
    """What else belongs to a model, by its modules.json: how to pool, and dense layers behind."""
    paths: list[str] = []
    for kind, path in _modules(modules):
        if kind in ("Pooling", "Dense"):
            paths.append(f"{path}/config.json")
        if kind == "Dense":
            paths.append(f"{path}/{_DENSE_WEIGHTS}")
    return tuple(paths)


def check_companions(
    repository: str, architecture: str, contents: Mapping[str, bytes], rows: int | None = None
) -> TokenizerFiles:
    """The small files beside the weights, for any architecture. Raises Refusal."""
    if architecture not in ARCHITECTURES:
        return check_tokenizer(repository, contents, rows)
    found = check_embedding(repository, architecture, contents)
    if architecture == GEMMA:
        found.add(check_tokenizer(repository, contents))
    return found


def pooling_of(repository: str, contents: Mapping[str, bytes], *, embeds: bool) -> Pooling | None:
    """How a model's vectors become one by its modules.json; None for a model of text without one.

    `embeds`: its architecture does nothing else. Raises NotConvertible for what no GGUF can say, Refusal for a file
    that is missing.
    """
    modules = _modules(contents.get(MODULES))
    pooling = next((path for kind, path in modules if kind == "Pooling"), None)
    if pooling is None:
        if embeds:
            raise NotConvertible(f"{repository} has no {MODULES} that says how its embeddings are pooled")
        return None
    kinds = [kind for kind, _ in modules]
    if unknown := next((kind for kind in kinds if kind not in _ORDER), None):
        raise NotConvertible(f"{repository}/{MODULES} has a module {unknown}, which no GGUF of this architecture has")
    if kinds != sorted(kinds, key=_ORDER.index):
        raise NotConvertible(
            f"{repository}/{MODULES} has the modules {', '.join(kinds)}; Ollama has {', '.join(_ORDER)}"
        )
    path = f"{pooling}/config.json"
    return _POOLINGS[_mode(f"{repository}/{path}", path, contents, _POOLINGS)]


def name_tensors(
    repository: str, contents: Mapping[str, bytes], weights: Mapping[str, Mapping[str, Source]]
) -> dict[str, Mapping[str, Source]]:
    """The tensors of all weight files by path, those of the Dense modules under names of their own.

    Raises NotConvertible for a Dense module that is more than a matrix, or has none among the weights.
    """
    named = dict(weights)
    folders = [folder for kind, folder in _modules(contents.get(MODULES)) if kind == "Dense"]
    if len(folders) not in (0, len(DENSE)):
        raise NotConvertible(f"{repository}/{MODULES} has {len(folders)} modules Dense; llama.cpp has {len(DENSE)}")
    for name, folder in zip(DENSE, folders, strict=False):
        path, where = f"{folder}/{_DENSE_WEIGHTS}", f"{folder}/{CONFIG}"
        if path not in weights:
            raise NotConvertible(f"{repository} has no {path}, as {MODULES} says")
        said = json_object(f"{repository}/{where}", contents.get(where, b"{}"))
        activation, source = said.get("activation_function"), said.get("module_input_name", _VECTOR)
        if activation != _NO_ACTIVATION or source != _VECTOR:
            raise NotConvertible(f"{repository}/{where} has the activation {activation} of {source}, unknown to Ollama")
        named[path] = {f"{name}.{tensor}": place for tensor, place in weights[path].items()}
    return named


_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_DENSE_WEIGHTS = "model.safetensors"
_NO_ACTIVATION = "torch.nn.modules.linear.Identity"
_VECTOR = "sentence_embedding"
_POOLINGS = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}


def check_embedding(repository: str, architecture: str, contents: Mapping[str, bytes]) -> TokenizerFiles:
    """`contents` has modules.json, what it names, and the tokenizer's files. Raises Refusal."""
    found = TokenizerFiles()
    modules = _modules(contents.get(MODULES))
    pooling = next((path for kind, path in modules if kind == "Pooling"), None)
    if not modules or (pooling is None and architecture != GEMMA):
        raise NotConvertible(f"{repository} has no {MODULES} that says how its embeddings are pooled")
    if architecture != GEMMA and any(kind == "Dense" for kind, _ in modules):
        raise NotConvertible(f"{repository}/{MODULES} has a Dense layer at its end, which Ollama would leave out")
    _classic_modules(contents[MODULES], found)
    if pooling is not None:
        _check_pooling(f"{repository}/{pooling}/config.json", f"{pooling}/config.json", contents, found)
    if architecture == "BertModel":
        _begin_and_end(repository, contents, found)
    return found


def _modules(content: bytes | None) -> Sequence[tuple[str, str]]:
    """The last word of each module's type, and its folder."""
    try:
        modules = json_value(MODULES, content or b"[]")
    except Refusal:
        return ()
    if not isinstance(modules, list):
        return ()
    return [
        (str(module.get("type")).rpartition(".")[2], str(module.get("path") or "").strip("/"))
        for module in modules
        if isinstance(module, dict)
    ]


def _classic_modules(content: bytes, found: TokenizerFiles) -> None:
    """sentence-transformers 5.4 gave its modules other names, which the converter does not know."""
    modules = [module for module in json_value(MODULES, content) if isinstance(module, dict)]
    if all(str(module.get("type")).startswith(CLASSIC) for module in modules):
        return
    for module in modules:
        module["type"] = CLASSIC + str(module.get("type")).rpartition(".")[2]
    found.changed[MODULES] = json.dumps(modules).encode()
    found.repairs.append(f"{MODULES}: types written as before sentence-transformers 5.4, as Ollama reads them")


def _mode(where: str, path: str, contents: Mapping[str, bytes], known: Iterable[str]) -> str:
    """The one way of pooling, which older files say by flags and newer ones by name."""
    if path not in contents:
        raise Refusal(f"{where} is missing, which says how the embeddings are pooled; the upload is incomplete")
    pooling = json_object(where, contents[path])
    flags = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    modes = {mode.removesuffix("_tokens").removesuffix("_token") for mode in flags}
    newer = pooling.get("pooling_mode")
    modes |= {str(mode) for mode in (newer if isinstance(newer, list) else [newer] if newer is not None else [])}
    if len(modes) != 1 or not modes <= set(known):
        raise NotConvertible(
            f"{where} pools by {' and '.join(sorted(modes)) or 'nothing'}; Ollama knows {' and '.join(known)}"
        )
    return modes.pop()


def _check_pooling(where: str, path: str, contents: Mapping[str, bytes], found: TokenizerFiles) -> None:
    mode = _mode(where, path, contents, ("mean", "cls"))
    pooling = json_object(where, contents[path])
    if pooling.get("pooling_mode") is not None:
        pooling |= {"pooling_mode_mean_tokens": mode == "mean", "pooling_mode_cls_token": mode == "cls"}
        found.changed[path] = json.dumps(pooling).encode()
        found.repairs.append(f"{path}: pooling written as before sentence-transformers 5.4, as Ollama reads it")


def _begin_and_end(repository: str, contents: Mapping[str, bytes], found: TokenizerFiles) -> None:
    """[CLS] and [SEP] around a text are right by themselves only where they have the numbers that BERT gave them."""
    config = json_object(f"{repository}/{TOKENIZER_CONFIG}", contents.get(TOKENIZER_CONFIG, b"{}"))
    tokenizer = json_object(f"{repository}/{TOKENIZER}", contents.get(TOKENIZER, b"{}"))
    added = tokenizer.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    numbers = {str(token.get("content")): token.get("id") for token in tokens}
    begin, end = (
        token_text(config.get(key), default) for key, default in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"))
    )
    if begin not in numbers or end not in numbers:
        raise NotConvertible(f"{repository}/{TOKENIZER} does not say which tokens begin and end a text")
    usual = (numbers[begin], numbers[end]) == (BERT_CLS, BERT_SEP)
    if usual and TOKENIZER_CONFIG in contents and not config.get("bos_token"):
        return
    config |= {"cls_token": begin, "sep_token": end, "bos_token": begin, "eos_token": end}
    config |= {"add_bos_token": True, "add_eos_token": True}
    found.changed[TOKENIZER_CONFIG] = json.dumps(config).encode()
    found.repairs.append(f"{TOKENIZER_CONFIG}: {begin} and {end} named as the tokens that begin and end a text")
