"""Embedding models: modules.json describes how sentence-transformers makes one vector from a text. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from proxy.errors import Refusal
from proxy.gguf.conversion import Pooling
from proxy.gguf.families.common_tensors import DENSE
from proxy.gguf.tensor_sources import SourceTensor
from proxy.planning.json_files import UPLOAD_AGAIN, json_object, json_value
from proxy.planning.weights import CONFIG, NotConvertible

MODULES = "modules.json"
_POOLINGS = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}
_MODULE_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_DENSE_WEIGHTS = "model.safetensors"
_NO_ACTIVATION = "torch.nn.modules.linear.Identity"
_VECTOR = "sentence_embedding"


def module_files(modules: bytes | None) -> tuple[str, ...]:
    """The paths of further files that modules.json names: the pooling configuration, and dense layers."""
    paths: list[str] = []
    for module_type, path in _modules(modules):
        if module_type in ("Pooling", "Dense"):
            paths.append(f"{path}/config.json")
        if module_type == "Dense":
            paths.append(f"{path}/{_DENSE_WEIGHTS}")
    return tuple(paths)


def pooling_of(repository: str, contents: Mapping[str, bytes], *, embeds: bool) -> Pooling | None:
    """How the model pools its vectors into one; None for a model that generates text.

    `embeds`: the architecture is for embeddings only. Raises NotConvertible for a pooling that a GGUF cannot describe,
    Refusal for a missing file.
    """
    modules = _modules(contents.get(MODULES))
    pooling = next((path for module_type, path in modules if module_type == "Pooling"), None)
    if pooling is None:
        if embeds:
            raise NotConvertible(f"{repository} has no {MODULES} that describes how its embeddings are pooled")
        return None
    types = [module_type for module_type, _ in modules]
    if unknown := next((module_type for module_type in types if module_type not in _MODULE_ORDER), None):
        raise NotConvertible(f"{repository}/{MODULES} has a module {unknown}, which a GGUF cannot describe")
    if types != sorted(types, key=_MODULE_ORDER.index):
        raise NotConvertible(
            f"{repository}/{MODULES} has the modules {', '.join(types)}; Ollama has {', '.join(_MODULE_ORDER)}"
        )
    path = f"{pooling}/config.json"
    return _POOLINGS[_mode(f"{repository}/{path}", path, contents, _POOLINGS)]


def name_tensors(
    repository: str, contents: Mapping[str, bytes], weights: Mapping[str, Mapping[str, SourceTensor]]
) -> dict[str, Mapping[str, SourceTensor]]:
    """The tensors of all weight files by path; the tensors of the Dense modules get the names that llama.cpp expects.

    Raises NotConvertible for a Dense module that is more than a matrix, or whose weights are missing.
    """
    named = dict(weights)
    folders = [folder for module_type, folder in _modules(contents.get(MODULES)) if module_type == "Dense"]
    if len(folders) not in (0, len(DENSE)):
        raise NotConvertible(f"{repository}/{MODULES} has {len(folders)} modules Dense; llama.cpp has {len(DENSE)}")
    for name, folder in zip(DENSE, folders, strict=False):
        path, where = f"{folder}/{_DENSE_WEIGHTS}", f"{folder}/{CONFIG}"
        if path not in weights:
            raise NotConvertible(f"{repository} has no {path}, which {MODULES} names")
        module = json_object(f"{repository}/{where}", contents.get(where, b"{}"))
        activation, source = module.get("activation_function"), module.get("module_input_name", _VECTOR)
        if activation != _NO_ACTIVATION or source != _VECTOR:
            raise NotConvertible(
                f"{repository}/{where} has the activation {activation} of {source}, which Ollama does not know"
            )
        named[path] = {f"{name}.{tensor}": source_tensor for tensor, source_tensor in weights[path].items()}
    return named


def _modules(content: bytes | None) -> Sequence[tuple[str, str]]:
    """For each module the last part of its type, and its folder. Empty for a modules.json that cannot be read."""
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
    """The pooling mode: older files have a flag for each mode, newer ones its name."""
    if path not in contents:
        raise Refusal(f"{where} is missing, which describes how the embeddings are pooled; {UPLOAD_AGAIN}")
    pooling = json_object(where, contents[path])
    flags = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    modes = {mode.removesuffix("_tokens").removesuffix("_token") for mode in flags}
    named = pooling.get("pooling_mode")
    modes |= {str(mode) for mode in (named if isinstance(named, list) else [named] if named is not None else [])}
    if len(modes) != 1 or not modes <= set(known):
        raise NotConvertible(
            f"{where} pools by {' and '.join(sorted(modes)) or 'nothing'}; Ollama knows {' and '.join(known)}"
        )
    return modes.pop()
