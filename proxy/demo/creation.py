"""How the stand-in Ollama makes a model: it reads names and sizes, and converts nothing."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson

from proxy.demo.blobs import VALID_DIGEST, BlobStore
from proxy.demo.gguf_facts import WeightFacts, gguf_facts, safetensors_parameters
from proxy.demo.lines import Lines, Refusal
from proxy.demo.names import ModelName
from proxy.demo.shelf import Layer, Shelf, StandInModel
from proxy.planning.installation import human_number

# What v0.24 converts (convert/convert.go).
CONVERTIBLE = re.compile(
    r"(Cohere|DeepseekOCR|DeepseekV3|Gemma[234]?|Glm4MoeLite|GptOss|Laguna|Lfm2(Moe)?|Llama|Ministral3|Mixtral"
    r"|NemotronH|Olmo3|Phi3|Qwen2|Qwen3Next)ForCausalLM"
    r"|(Gemma3n?|Gemma4|GlmOcr|Lfm2Vl|Llama4|Mistral3|Mllama|Qwen2_5_VL|Qwen3VL(Moe)?|Qwen3_5(Moe)?)"
    r"ForConditionalGeneration"
    r"|BertModel|NomicBert(MoE)?Model|NemotronH_Nano_(VL_V2|Omni_Reasoning_V3)"
)
SHRINKAGE = {"F32": 2.0, "F16": 1.0, "BF16": 1.0, "Q8_0": 0.53, "Q4_K_S": 0.3, "Q4_K_M": 0.32}  # against F16
UNSUPPORTED = "unsupported quantization type {} - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
LLAMA_SERVER = (0, 30, 0)
"""From here on llama.cpp's programs run and quantize, and join what is split."""
NO_CONVERTER = (0, 34, 1)
"""From here on nothing is converted or quantized; adapters went with v0.34.2."""
MLX_TYPES = "int4, int8, nvfp4, mxfp4, mxfp8"
NO_MLX = "unsupported MLX architecture"
QUANTIZES_NO_MORE = (
    "create-time quantization is only supported for safetensors imports; quantize GGUF models with llama.cpp tools "
    "before importing"
)
QUANTIZED_ALREADY = "quantization is only supported for F16, BF16 and F32 models"
QUANTIZING_LINES = 8
# A marker in a chat template, and the template and the stops that Ollama then takes for it. The real one
# measures an edit distance; here a template much longer than those it knows is simply none of them.
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
    """What a test makes of the creates to come."""

    conversion_silence: float = 0  # seconds after `converting model`
    hold_create: asyncio.Event | None = None  # a create waits for it after its first line
    fail_create: str | None = None  # the text of an error after the first line
    crash_create: bool = False  # the connection breaks, as when Go panics
    end_create_early: bool = False  # the stream ends cleanly without success


class Crash(Exception):
    """Where the real server would panic."""


class EndedEarly(Exception):
    """The stream is to end without saying how it went."""


class Creation:
    """One create: layers from files or from another model, quantized, dressed and put on the shelf."""

    def __init__(
        self,
        body: dict[str, Any],
        name: ModelName,
        lines: Lines,
        *,
        shelf: Shelf,
        blobs: BlobStore,
        script: CreateScript,
        pull: Callable[[str, Lines], Awaitable[None]],
        version: tuple[int, ...] = (0, 24, 0),
    ) -> None:
        self._body = body
        self._name = name
        self._lines = lines
        self._shelf = shelf
        self._blobs = blobs
        self._script = script
        self._pull = pull
        self._version = version
        self._layers: list[tuple[Layer, str]] = []  # each with the line that announces it
        self.finished = False

    async def run(self) -> None:
        if self._version >= NO_CONVERTER:
            self._refuse_what_is_gone()
        if self._body.get("from"):
            await self._take_from(self._body["from"])
        elif self._body.get("files") is not None:
            await self._take_files(self._body["files"])
        else:
            raise Refusal("neither 'from' or 'files' was specified", 400)
        if self._body.get("adapters") is not None:
            await self._take_adapter(self._body["adapters"])
        self._layers = [await self._quantized(layer, status) for layer, status in self._layers]
        self._dress()
        for _, status in self._layers:
            await self._lines.status(status)
        await self._lines.status("writing manifest")
        self._store()
        self.finished = True
        await self._lines.status("success")

    def _refuse_what_is_gone(self) -> None:
        if self._body.get("adapters"):
            raise Refusal("LoRA adapters are no longer supported", 400)
        asked = self._body.get("quantize") or self._body.get("quantization")
        if any(path.endswith(".safetensors") for path in self._body.get("files") or {}):
            text = f'unsupported quantize type "{asked}": supported types are {MLX_TYPES}' if asked else NO_MLX
            raise Refusal(text, 400)

    async def _take_from(self, source: str) -> None:
        name = ModelName.parse(source)
        if name is None:
            raise Refusal("invalid model name", 400)
        if name not in self._shelf.names():  # unlike all else, it looks for the very same letters
            await self._pull(source, self._lines)
        for layer in self._shelf[source].layers:
            if layer.digest not in self._blobs.sizes:
                path = f"/stand-in/models/blobs/{layer.digest.replace(':', '-')}"
                raise Refusal(f"stat {path}: no such file or directory")
            if layer.kind != "config":
                self._layers.append((layer, f"using existing layer {layer.digest}"))
        await self._play()

    async def _take_files(self, files: dict[str, str]) -> None:
        weights = (".safetensors", ".gguf")
        loose = [path for path in files if not path.endswith(weights)]
        # The real one looks at the files in a random order until one tells the type, so it finds a missing
        # blob only sometimes; this one always does.
        if any(files[path] not in self._blobs.sizes for path in loose):
            raise Refusal("unknown type", 400)
        if any(path.endswith(".safetensors") for path in files):
            await self._convert(files)
        elif any(path.endswith(".gguf") or self._is_gguf(digest) for path, digest in files.items()):
            await self._take_gguf(files)
        else:
            raise Refusal("unknown type", 400)

    async def _take_adapter(self, files: dict[str, str]) -> None:
        """A GGUF alone: what becomes of safetensors is not made here."""
        if not any(path.endswith(".gguf") or self._is_gguf(digest) for path, digest in files.items()):
            raise Refusal("unknown type", 400)
        if len(files) > 1:
            raise Refusal("only one adapter is currently supported", 400)
        await self._take_gguf(files)

    def _is_gguf(self, digest: str) -> bool:
        made = digest in self._blobs.facts  # by another create, of bytes that nobody wrote
        return made or self._blobs.beginning(digest)[:4] == b"GGUF"

    async def _take_gguf(self, files: dict[str, str]) -> None:
        parts: dict[int, tuple[str, str]] = {}
        for path, digest in sorted(files.items()):
            await self._lines.status("parsing GGUF")
            await self._play()
            if digest not in self._blobs.sizes:
                raise Refusal(f"open {path}: no such file or directory")
            if not self._is_gguf(digest):
                raise Refusal("supplied file was not in GGUF format", 400)
            size = self._blobs.sizes[digest]
            facts = self._blobs.facts.get(digest) or gguf_facts(self._blobs.beginning(digest), size)
            self._blobs.facts[digest] = facts
            if facts.parts > 1 and self._version >= LLAMA_SERVER:
                parts[facts.part] = (path, digest)
                continue
            self._layers.append((Layer(facts.kind, digest, size), f"using existing layer {digest}"))
            self._detect_template(facts.chat_template)
        if parts:
            self._join(parts)

    def _join(self, parts: dict[int, tuple[str, str]]) -> None:
        for number, (path, digest) in parts.items():
            facts = self._blobs.facts[digest]
            if not re.search(rf"-{number + 1:05}-of-{facts.parts:05}\.gguf$", path):
                raise Refusal(f'split GGUF "{path}" must use llama.cpp split filename pattern')
        path, first = min(parts.items())[1]
        facts = self._blobs.facts[first]
        if len(parts) != facts.parts:
            raise Refusal(f'split GGUF "{path}" has {len(parts)} shards, expected {facts.parts}')
        digests = [digest for _, (_, digest) in sorted(parts.items())]
        digest = f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"
        size = sum(self._blobs.sizes[part] for part in digests)
        self._blobs.facts[digest] = replace(
            facts, parts=0, parameters=sum(self._blobs.facts[part].parameters for part in digests)
        )
        self._layers.append((Layer("model", digest, size), _announced(digest, new=self._blobs.claim(digest, size))))
        self._detect_template(facts.chat_template)

    async def _convert(self, files: dict[str, str]) -> None:
        if not all(VALID_DIGEST.fullmatch(digest) for digest in files.values()):
            raise Refusal("invalid digest format")
        await self._lines.status("converting model")
        if self._script.conversion_silence > 0:
            await asyncio.sleep(self._script.conversion_silence)
        await self._play()
        config = self._json_file(files, "config.json")
        if config is None:
            raise Refusal("open config.json: no such file or directory")
        architecture = (config.get("architectures") or [""])[0]
        if not CONVERTIBLE.fullmatch(architecture):
            raise Refusal(f'unsupported architecture "{architecture}"')
        if not {"tokenizer.json", "tokenizer.model"} & files.keys():
            raise Refusal("unknown tokenizer format")
        count = self._count_parameters(files)
        # The same files give the same bytes: here, the same name for bytes that nobody writes.
        digest = f"sha256:{hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest()}"
        size = 2 * count + 32768
        status = _announced(digest, new=self._blobs.claim(digest, size))
        family = re.sub("(For(CausalLM|ConditionalGeneration)|Model)$", "", architecture).lower()
        tokenizer = self._json_file(files, "tokenizer_config.json") or {}
        chat_template = _default_template(tokenizer.get("chat_template", ""))
        self._blobs.facts[digest] = WeightFacts(family, "F16", count, chat_template)
        self._layers.append((Layer("model", digest, size), status))
        self._detect_template(chat_template)

    def _json_file(self, files: dict[str, str], path: str) -> dict[str, Any] | None:
        if path not in files:
            return None
        try:
            value: dict[str, Any] = orjson.loads(self._blobs.beginning(files[path]))
        except orjson.JSONDecodeError as problem:
            raise Refusal(f"{path}: {problem}") from None
        return value

    def _count_parameters(self, files: dict[str, str]) -> int:
        count = 0
        for path, digest in files.items():
            if "/" in path or not path.endswith(".safetensors"):
                continue
            if digest not in self._blobs.sizes:
                raise Refusal(f"open {path}: no such file or directory")
            try:
                count += safetensors_parameters(self._blobs.beginning(digest), self._blobs.sizes[digest])
            except ValueError:
                raise Crash from None
        return count

    def _detect_template(self, chat_template: str) -> None:
        for marker, (name, template, stop) in DETECTED.items():
            if marker in chat_template and len(chat_template) <= LONGEST_DETECTED:
                self._add("template", template, status=f"using autodetected template {name}")
                self._add("params", orjson.dumps({"stop": stop}).decode())
                return

    async def _play(self) -> None:
        script = self._script
        if script.hold_create is not None:
            await script.hold_create.wait()
        if script.crash_create:
            raise Crash
        if script.fail_create is not None:
            raise Refusal(script.fail_create)
        if script.end_create_early:
            raise EndedEarly

    async def _quantized(self, layer: Layer, status: str) -> tuple[Layer, str]:
        asked = str(self._body.get("quantize") or self._body.get("quantization") or "").upper()
        wanted = "Q4_K_M" if asked == "Q4_K" else asked
        facts = self._blobs.facts.get(layer.digest)
        if layer.kind != "model" or not asked or facts is None:
            return layer, status
        if self._version >= NO_CONVERTER:
            raise Refusal(QUANTIZES_NO_MORE)
        if wanted not in SHRINKAGE:
            raise Refusal(UNSUPPORTED.format(asked))
        if facts.file_type not in {"F32", "F16", "BF16"}:
            raise Refusal(QUANTIZED_ALREADY)
        if wanted == facts.file_type:
            return layer, status
        for step in range(1, QUANTIZING_LINES + 1):
            text = f"quantizing {facts.file_type} model to {asked}"
            done = {"total": layer.size, "completed": layer.size * step // QUANTIZING_LINES}
            await self._lines.say({"status": text, "digest": "0" * 19, **done})
        await self._lines.status("verifying conversion")
        digest = f"sha256:{hashlib.sha256(f'{layer.digest} {wanted}'.encode()).hexdigest()}"
        size = int(layer.size * SHRINKAGE[wanted] / SHRINKAGE[facts.file_type])
        self._blobs.facts[digest] = replace(facts, file_type=wanted)
        return Layer("model", digest, size), _announced(digest, new=self._blobs.claim(digest, size))

    def _dress(self) -> None:
        """Template, system text, licenses and parameters, in the order and with the rules of the real one."""
        body = self._body
        if template := body.get("template"):
            if template.count("{{") != template.count("}}"):
                raise Refusal("template error: template: :1: unclosed action", 400)
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
        """The blobs go at once, unless a model has them."""
        for layer, _ in self._layers:
            if layer.kind == kind and layer.digest not in self._shelf.used_digests():
                self._blobs.forget(layer.digest)
        self._layers = [(layer, status) for layer, status in self._layers if layer.kind != kind]

    def _add(self, kind: str, text: str, *, status: str = "") -> None:
        data = text.encode()
        digest, new = self._blobs.keep(data)
        self._layers.append((Layer(kind, digest, len(data), text), status or _announced(digest, new=new)))

    def _store(self) -> None:
        layers = [layer for layer, _ in self._layers]
        models = [layer for layer in layers if layer.kind == "model"]
        known = [self._blobs.facts[layer.digest] for layer in models if layer.digest in self._blobs.facts]
        facts = known[0] if known else WeightFacts("", "", 0)
        config = {"model_family": facts.architecture, "file_type": facts.file_type}
        digest, _ = self._blobs.keep(orjson.dumps({**config, "diff_ids": [layer.digest for layer in layers]}))
        layers.append(Layer("config", digest, self._blobs.sizes[digest]))
        replaced = self._shelf.get(self._name.shortest)
        self._shelf[self._name.shortest] = StandInModel(
            body=self._body,
            layers=tuple(layers),
            family=facts.architecture,
            parameter_size=human_number(facts.parameters),
            quantization_level=facts.file_type,
            parameter_count=facts.parameters,
            jinja=facts.chat_template,
            digest=hashlib.sha256(orjson.dumps([layer.digest for layer in layers])).hexdigest(),
            size=sum(layer.size for layer in layers),
        )
        if replaced is not None:
            drop_layers(replaced, self._shelf, self._blobs)


def drop_layers(model: StandInModel, shelf: Shelf, blobs: BlobStore) -> None:
    """The blobs of a model that is gone, as far as no other model uses them."""
    for digest in {layer.digest for layer in model.layers} - shelf.used_digests():
        blobs.forget(digest)


def _default_template(chat_template: Any) -> str:
    """Of those that a tokenizer has, by name or as one text."""
    if isinstance(chat_template, list):
        chat_template = next((one["template"] for one in chat_template if one["name"] == "default"), "")
    return str(chat_template)


def _announced(digest: str, *, new: bool) -> str:
    return f"{'creating new' if new else 'using existing'} layer {digest}"
