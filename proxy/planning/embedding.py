"""Embedding models: how sentence-transformers makes one vector of a text, as modules.json says it. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from proxy.errors import Refusal
from proxy.gguf.conversion import Pooling
from proxy.gguf.families.common_tensors import DENSE
from proxy.gguf.sources import SourceTensor
from proxy.planning.weights import CONFIG, NotConvertible, json_object, json_value

MODULES = "modules.json"
_POOLINGS = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_DENSE_WEIGHTS = "model.safetensors"
_NO_ACTIVATION = "torch.nn.modules.linear.Identity"
_VECTOR = "sentence_embedding"


def module_files(modules: bytes | None) -> tuple[str, ...]:
    """What else belongs to a model, by its modules.json: how to pool, and dense layers behind."""
    paths: list[str] = []
    for kind, path in _modules(modules):
        if kind in ("Pooling", "Dense"):
            paths.append(f"{path}/config.json")
        if kind == "Dense":
            paths.append(f"{path}/{_DENSE_WEIGHTS}")
    return tuple(paths)


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
    repository: str, contents: Mapping[str, bytes], weights: Mapping[str, Mapping[str, SourceTensor]]
) -> dict[str, Mapping[str, SourceTensor]]:
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
