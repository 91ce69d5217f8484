"""The stand-in Ollama's `/api/create`: makes a model from GGUFs by their names, sizes and headers."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from proxy.standins.blobs import BlobStore
from proxy.standins.gguf_facts import NO_FACTS, gguf_facts
from proxy.standins.model_store import ModelStore, StandInModel, StoredLayer
from proxy.standins.names import ModelName
from proxy.standins.responses import ErrorAnswer, Lines

LLAMA_SERVER = (0, 30, 0)
"""From this version on, llama.cpp's programs merge split GGUFs."""
GGUF_ALONE = (0, 34, 1)
"""From this version on, adapters and invalid configs are refused."""
# A marker in a chat template, and the name, template and stop words that Ollama detects for it. The real one
# compares by edit distance; here, a template much longer than those that Ollama knows is never detected.
LLAMA3 = (
    "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>\n"
    "{{- end }}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
DETECTED = {
    "<|start_header_id|>": ("llama3-instruct", LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "<|im_start|>": ("chatml", CHATML, ("<|im_start|>", "<|im_end|>")),
}
LONGEST_DETECTED = 600


class CreateScript:
    """What a test lets happen in the next creates."""

    hold_making: asyncio.Event | None = None  # creates (after their first line) and pulls of manifests wait for it
    fail_create: str | None = None  # the text of an error after the first line
    crash_create: bool = False  # the connection breaks, as when Go panics
    end_create_early: bool = False  # the stream ends cleanly without success


class Crash(Exception):
    """The real server would panic here."""


class EndedEarly(Exception):
    """The stream ends here, without success or error."""


@dataclass(frozen=True)
class CreateContext:
    """The parts of the server that a create uses."""

    models: ModelStore
    blobs: BlobStore
    script: CreateScript
    pull: Callable[[str, Lines], Awaitable[None]]
    version: tuple[int, ...]


class Creation:
    """One create: collects layers from files or from another model, applies the settings, stores the model."""

    def __init__(self, body: dict[str, Any], name: ModelName, lines: Lines, context: CreateContext) -> None:
        self._body = body
        self._name = name
        self._lines = lines
        self._models = context.models
        self._blobs = context.blobs
        self._script = context.script
        self._pull = context.pull
        self._version = context.version
        self._layers: list[tuple[StoredLayer, str]] = []  # each with its status line
        self.finished = False

    async def run(self) -> None:
        if self._version >= GGUF_ALONE and self._body.get("adapters"):
            raise ErrorAnswer("LoRA adapters are no longer supported", 400)
        if self._body.get("from"):
            await self._add_layers_of(self._body["from"])
        elif self._body.get("files") is not None:
            await self._add_files(self._body["files"])
        else:
            raise ErrorAnswer("neither 'from' or 'files' was specified", 400)
        if self._body.get("adapters") is not None:
            await self._add_adapter(self._body["adapters"])
        self._apply_settings()
        for _, status in self._layers:
            await self._lines.status(status)
        await self._lines.status("writing manifest")
        self._store()
        self.finished = True
        await self._lines.status("success")

    async def _add_layers_of(self, source: str) -> None:
        name = ModelName.parse(source)
        if name is None:
            raise ErrorAnswer("invalid model name", 400)
        if name not in self._models.names():  # only here, Ollama compares names case-sensitively
            await self._pull(source, self._lines)
        for layer in self._models[source].layers:
            if layer.digest not in self._blobs.sizes:
                path = f"/stand-in/models/blobs/{layer.digest.replace(':', '-')}"
                raise ErrorAnswer(f"stat {path}: no such file or directory")
            if layer.kind != "config":
                self._layers.append((layer, f"using existing layer {layer.digest}"))
        await self._play_script()

    async def _add_files(self, files: dict[str, str]) -> None:
        unnamed = [path for path in files if not path.endswith(".gguf")]
        # The real one looks at the files in a random order until it knows the type, so it finds a missing blob
        # only sometimes. The stand-in always finds it.
        if any(files[path] not in self._blobs.sizes for path in unnamed):
            raise ErrorAnswer("unknown type", 400)
        if any(path.endswith(".gguf") or self._is_gguf(digest) for path, digest in files.items()):
            await self._add_ggufs(files)
        else:
            raise ErrorAnswer("unknown type", 400)

    async def _add_adapter(self, files: dict[str, str]) -> None:
        if not any(path.endswith(".gguf") or self._is_gguf(digest) for path, digest in files.items()):
            raise ErrorAnswer("unknown type", 400)
        if len(files) > 1:
            raise ErrorAnswer("only one adapter is currently supported", 400)
        await self._add_ggufs(files)

    def _is_gguf(self, digest: str) -> bool:
        is_merged = digest in self._blobs.facts  # by another create; its bytes do not exist
        return is_merged or self._blobs.beginning(digest)[:4] == b"GGUF"

    async def _add_ggufs(self, files: dict[str, str]) -> None:
        parts: dict[int, tuple[str, str]] = {}
        for path, digest in sorted(files.items()):
            await self._lines.status("parsing GGUF")
            await self._play_script()
            if digest not in self._blobs.sizes:
                raise ErrorAnswer(f"open {path}: no such file or directory")
            if not self._is_gguf(digest):
                raise ErrorAnswer("supplied file was not in GGUF format", 400)
            size = self._blobs.sizes[digest]
            facts = self._blobs.facts.get(digest) or gguf_facts(self._blobs.beginning(digest), size)
            self._blobs.facts[digest] = facts
            if facts.parts > 1 and self._version >= LLAMA_SERVER:
                parts[facts.part] = (path, digest)
                continue
            self._layers.append((StoredLayer(facts.kind, digest, size), f"using existing layer {digest}"))
            self._detect_template(facts.chat_template)
        if parts:
            self._merge(parts)

    def _merge(self, parts: dict[int, tuple[str, str]]) -> None:
        for number, (path, digest) in parts.items():
            facts = self._blobs.facts[digest]
            if not re.search(rf"-{number + 1:05}-of-{facts.parts:05}\.gguf$", path):
                raise ErrorAnswer(f'split GGUF "{path}" must use llama.cpp split filename pattern')
        path, first = min(parts.items())[1]
        facts = self._blobs.facts[first]
        if len(parts) != facts.parts:
            raise ErrorAnswer(f'split GGUF "{path}" has {len(parts)} shards, expected {facts.parts}')
        digests = [digest for _, (_, digest) in sorted(parts.items())]
        digest = f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"
        size = sum(self._blobs.sizes[part] for part in digests)
        self._blobs.facts[digest] = replace(
            facts, parts=0, parameters=sum(self._blobs.facts[part].parameters for part in digests)
        )
        self._layers.append(
            (StoredLayer("model", digest, size), _layer_status(digest, new=self._blobs.pretend(digest, size)))
        )
        self._detect_template(facts.chat_template)

    def _detect_template(self, chat_template: str) -> None:
        for marker, (name, template, stop) in DETECTED.items():
            if marker in chat_template and len(chat_template) <= LONGEST_DETECTED:
                self._add("template", template, status=f"using autodetected template {name}")
                self._add("params", orjson.dumps({"stop": stop}).decode())
                return

    async def _play_script(self) -> None:
        script = self._script
        if script.hold_making is not None:
            await script.hold_making.wait()
        if script.crash_create:
            raise Crash
        if script.fail_create is not None:
            raise ErrorAnswer(script.fail_create)
        if script.end_create_early:
            raise EndedEarly

    def _apply_settings(self) -> None:
        """Template, system text, licenses and parameters, in Ollama's order and by its rules."""
        body = self._body
        if template := body.get("template"):
            if template.count("{{") != template.count("}}"):
                raise ErrorAnswer("template error: template: :1: unclosed action", 400)
            self._remove("template")
            self._add("template", template)
        if system := body.get("system"):
            self._remove("system")
            self._add("system", system)
        licenses = body.get("license") or []
        for text in [licenses] if isinstance(licenses, str) else licenses:
            self._add("license", text)
        settings: dict[str, Any] = {}
        for layer, _ in self._layers:
            if layer.kind == "params":
                settings |= orjson.loads(layer.text)
        settings |= body.get("parameters") or {}
        if settings:
            self._remove("params")
            self._add("params", orjson.dumps(settings, option=orjson.OPT_SORT_KEYS).decode())

    def _remove(self, kind: str) -> None:
        """Removes the layers, and at once their blobs, unless a model uses them."""
        for layer, _ in self._layers:
            if layer.kind == kind and layer.digest not in self._models.used_digests():
                self._blobs.forget(layer.digest)
        self._layers = [(layer, status) for layer, status in self._layers if layer.kind != kind]

    def _add(self, kind: str, text: str, *, status: str = "") -> None:
        data = text.encode()
        digest, new = self._blobs.keep(data)
        self._layers.append((StoredLayer(kind, digest, len(data), text), status or _layer_status(digest, new=new)))

    def _store(self) -> None:
        layers = [layer for layer, _ in self._layers]
        weights = [layer.digest for layer in layers if layer.kind == "model"]
        facts = next((self._blobs.facts[digest] for digest in weights if digest in self._blobs.facts), NO_FACTS)
        config = {"model_family": facts.architecture, "file_type": facts.file_type}
        digest, _ = self._blobs.keep(orjson.dumps({**config, "diff_ids": [layer.digest for layer in layers]}))
        layers.append(StoredLayer("config", digest, self._blobs.sizes[digest]))
        replaced = self._models.get(self._name.shortest)
        self._models[self._name.shortest] = StandInModel(
            body=self._body,
            layers=tuple(layers),
            family=facts.architecture,
            parameter_size=_parameter_size(facts.parameters),
            quantization_level=facts.file_type,
            parameter_count=facts.parameters,
            jinja=facts.chat_template,
            digest=hashlib.sha256(orjson.dumps([layer.digest for layer in layers])).hexdigest(),
            size=sum(layer.size for layer in layers),
        )
        if replaced is not None:
            drop_layers(replaced, self._models, self._blobs)


def drop_layers(model: StandInModel, models: ModelStore, blobs: BlobStore) -> None:
    """Removes the blobs of a removed model that no other model uses."""
    for digest in {layer.digest for layer in model.layers} - models.used_digests():
        blobs.forget(digest)


def _layer_status(digest: str, *, new: bool) -> str:
    return f"{'creating new' if new else 'using existing'} layer {digest}"


def _parameter_size(count: int) -> str:
    """Ollama's HumanNumber (format/format.go)."""
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2), (1000, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else decimals}f}{letter}"
    return str(count)
