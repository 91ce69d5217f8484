"""`inspect`: what a pull would do, without doing it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from proxy.app import Backend
from proxy.config import Config
from proxy.errors import OllamaError, ProxyError, Refusal
from proxy.pull.pipeline import NativePull
from proxy.pull.plan import CHAT_TEMPLATE, TOKENIZER_CONFIG, Plan
from proxy.pull.progress import Progress
from proxy.pull.reference import ModelReference, parse


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found out, as far as it went. `held` is None where Ollama could not be asked."""

    name: str
    repository: str | None = None
    commit: str | None = None
    native: bool = False
    plan: Plan | None = None
    held: frozenset[str] | None = None
    warnings: tuple[str, ...] = ()
    refusal: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of the contract."""
        plan = self.plan
        settings = plan.settings if plan else None
        return {
            "name": self.name,
            "repository": self.repository,
            "commit": self.commit,
            "format": "gguf" if self.native else "safetensors" if plan else None,
            "files": [
                {
                    "path": upload.path,
                    "size": upload.size,
                    "digest": upload.digest,
                    "held": self._is_held(upload.digest),
                }
                for upload in (plan.uploads if plan else ())
            ],
            "quantization": plan.quantization if plan else None,
            "converter": "ollama" if plan else None,
            "template": {
                "source": plan.template_source if plan else None,
                # Only the user's own template is known to be right; Ollama judges the others by itself.
                "exact": True if plan and plan.template_source == "config" else None,
            },
            "system": settings.system if settings else None,
            "parameters": dict(settings.parameters) if settings else {},
            "repairs": list(self._repairs()),
            "warnings": list(self.warnings),
            "refusal": self.refusal,
            "bytes_to_move": self.bytes_to_move,
        }

    @property
    def bytes_to_move(self) -> int:
        """Every blob counts once, and not at all where Ollama holds it."""
        sizes = {upload.digest: upload.size for upload in (self.plan.uploads if self.plan else ())}
        return sum(size for digest, size in sizes.items() if not self._is_held(digest))

    def print(self, console: Console) -> None:
        if self.refusal is not None:
            console.print(Text(f"refused: {self.refusal}"))
            return
        console.print(Text(f"{self.name}: {self.repository} at {self.commit}"))
        if self.plan is None:
            console.print(Text("a GGUF: Ollama pulls it by itself"))
            return
        self._print_plan(console, self.plan)

    def _print_plan(self, console: Console, plan: Plan) -> None:
        table = Table("file", "size", "digest", "in Ollama")
        for upload in plan.uploads:
            held = {True: "yes", False: "no", None: "unknown"}[self._is_held(upload.digest)]
            table.add_row(Text(upload.path), decimal(upload.size), upload.digest[7:19], held)
        console.print(table)
        console.print(Text(f"to move: {decimal(self.bytes_to_move)}; quantization: {plan.quantization}, by Ollama"))
        console.print(Text(f"chat template: {plan.template_source}"))
        if plan.settings.system is not None:
            console.print(Text(f"system: {plan.settings.system}"))
        for key, value in plan.settings.parameters.items():
            console.print(Text(f"parameter {key}: {value}"))
        for text in (*self._repairs(), *(f"warning: {warning}" for warning in self.warnings)):
            console.print(Text(text))

    def _is_held(self, digest: str) -> bool | None:
        return None if self.held is None else digest in self.held

    def _repairs(self) -> Iterator[str]:
        if self.plan and any(file.path == CHAT_TEMPLATE for file in self.plan.repository.files):
            yield f"{CHAT_TEMPLATE} is put into {TOKENIZER_CONFIG}, where Ollama reads it"


async def inspect(config: Config, name: str) -> Inspection:
    """Never raises a ProxyError: what goes wrong is in `refusal`."""
    backend = Backend(config)
    try:
        reference = parse(name)
        if reference is None or not backend.pipeline.claims(reference):
            raise Refusal(f"{name!r} is not a name of the form {config.hub.hosts[0]}/ORG/REPO[:TAG]")
        return await _inspect(backend, reference)
    except ProxyError as error:
        return Inspection(name, refusal=str(error))
    finally:
        await backend.close()


async def _inspect(backend: Backend, reference: ModelReference) -> Inspection:
    try:
        repository = await backend.pipeline.open(reference)
    except NativePull as native:
        return Inspection(reference.name, native.repository.id, native.repository.commit, native=True)
    try:
        plan = await backend.pipeline.plan(reference, repository, Progress())
    except ProxyError as error:
        return Inspection(reference.name, repository.id, repository.commit, refusal=str(error))
    held, warnings = None, []
    try:
        held = frozenset(await backend.transfer.held(plan))
    except OllamaError as error:
        warnings.append(str(error))
    return Inspection(reference.name, repository.id, repository.commit, False, plan, held, tuple(warnings))
