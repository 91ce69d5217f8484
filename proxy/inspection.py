"""`inspect`: the plan of a pull, without the pull."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from proxy.backend import Backend
from proxy.config.sections import NO_SETTINGS, Config
from proxy.errors import OllamaError, ProxyError, Refusal
from proxy.metrics import Metrics
from proxy.ollama.disk import free_disk
from proxy.planning.capabilities import capabilities_of
from proxy.planning.gguf_files import choose_projector
from proxy.planning.plan import Plan, QuantizationOffer, Upload
from proxy.pull.planner import NativePull
from proxy.pull.reference import ModelReference, divide_tag, parse
from proxy.store.journal import Journal
from proxy.transfer.progress import Progress, printable


def _text(text: str) -> Text:
    """Without characters that control a terminal. A system text may have several lines."""
    return Text("\n".join(printable(line) for line in text.splitlines()))


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result, as far as it is known. `held` is None if Ollama could not be asked. Sizes are in bytes."""

    name: str
    repository: str | None = None
    commit: str | None = None
    plan: Plan | None = None
    held: frozenset[str] | None = None
    free_disk: int | None = None
    warnings: tuple[str, ...] = ()
    refusal: str | None = None
    offers: tuple[QuantizationOffer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `inspect --json` and of `/-/inspect`."""
        plan = self.plan
        settings = plan.settings if plan else None
        return {
            "name": self.name,
            "repository": self.repository,
            "commit": self.commit,
            "format": plan.format if plan else None,
            "reason": plan.reason if plan else None,
            "files": [
                {"path": upload.path, "size": upload.size, "digest": upload.digest, "held": self._is_held(upload)}
                for upload in self._uploads()
            ],
            "quantization": plan.quantization if plan else None,
            "converter": "proxy" if plan and plan.is_converted else None,
            "base": plan.base.name if plan and plan.base else None,
            "template": {
                "source": plan.template_source if plan else None,
                "exact": plan.template_exact if plan else None,
            },
            "system": settings.system if settings else None,
            "parameters": dict(settings.parameters) if settings else {},
            "repairs": [],
            "warnings": list(self._warnings()),
            "refusal": self.refusal,
            "bytes_to_move": self.bytes_to_move,
            "result_size": plan.result_size if plan else None,
            "free_disk": self.free_disk,
            "offers": [offer._asdict() for offer in self.offers],
        }

    @property
    def bytes_to_move(self) -> int:
        """Bytes to fetch. Every blob counts once; a blob that Ollama holds does not count."""
        sizes = {
            upload.digest or upload.path: upload.fetch_size for upload in self._uploads() if not self._is_held(upload)
        }
        return sum(sizes.values())

    @property
    def template(self) -> str | None:
        """The Go template that Ollama would get, if any."""
        return self.plan.settings.template if self.plan else None

    @property
    def why_no_template(self) -> str:
        if self.plan is None:
            return f"refused: {self.refusal}"
        source = self.plan.template_source
        if source == "gguf" and self.plan.settings == NO_SETTINGS:
            return self.plan.reason
        if self.plan.base is not None:
            return f"an adapter has the template of its base: inspect {self.plan.base.name} --template"
        if source == "none":
            return "it needs no template: it embeds texts"
        if source == "ollama":
            return "Ollama renders the conversations of this architecture by itself"
        return f"this Ollama renders the Jinja of {source} by itself"

    def print(self, console: Console) -> None:
        if self.refusal is not None:
            console.print(_text(f"refused: {self.refusal}"))
            return
        console.print(_text(f"{self.name}: {self.repository} at {self.commit}"))
        if self.plan is not None:
            self._print_plan(console, self.plan)

    def _print_plan(self, console: Console, plan: Plan) -> None:
        table = Table("file", "size", "digest", "in Ollama")
        for upload in self._uploads():
            held = {True: "yes", False: "no", None: "unknown"}[self._is_held(upload)]
            digest = upload.digest[7:19] if upload.digest else "not known before the pull"
            table.add_row(_text(upload.path), decimal(upload.size), digest, held)
        console.print(table)
        quantized = f"; quantization: {plan.quantization}, by the proxy" if plan.quantization else ""
        console.print(_text(f"{plan.reason}{quantized}"))
        console.print(_text("; ".join(self._sizes(plan))))
        exact = {True: ", exact", False: ", not exact", None: ""}[plan.template_exact]
        console.print(_text(f"chat template: {plan.template_source}{exact}"))
        if plan.settings.system is not None:
            console.print(_text(f"system: {plan.settings.system}"))
        for key, value in plan.settings.parameters.items():
            console.print(_text(f"parameter {key}: {value}"))
        for warning in self._warnings():
            console.print(_text(f"warning: {warning}"))

    def _sizes(self, plan: Plan) -> Iterator[str]:
        yield f"to move: {decimal(self.bytes_to_move)}"
        if plan.result_size is not None:
            yield f"the model will have {decimal(plan.result_size)}"
        if self.free_disk is not None:
            yield f"free disk: {decimal(self.free_disk)}"

    def _uploads(self) -> tuple[Upload, ...]:
        """Including those of a base model that has to be made first."""
        return tuple(upload for step in (self.plan.steps if self.plan else ()) for upload in step.uploads)

    def _is_held(self, upload: Upload) -> bool | None:
        return None if self.held is None else upload.digest in self.held

    def _warnings(self) -> Iterator[str]:
        yield from self.warnings
        if self.plan:
            yield from self.plan.warnings


async def inspect(config: Config, name: str) -> Inspection:
    """Never raises a ProxyError: its text is in `refusal`."""
    with closing(Journal()) as journal:
        backend = Backend(config, journal, Metrics())
        try:
            return await look(config, backend, name)
        finally:
            await backend.close()


async def look(config: Config, backend: Backend, name: str) -> Inspection:
    """`inspect` with a backend that exists already."""
    try:
        reference = backend.planner.reference(name)
    except Refusal as refusal:
        return Inspection(name, refusal=str(refusal))
    return await _inspect(config, backend, reference)


async def _inspect(config: Config, backend: Backend, reference: ModelReference) -> Inspection:
    inspection, progress = Inspection(reference.name), Progress()
    try:
        repository = await backend.planner.open(reference, progress)
        inspection = replace(inspection, repository=repository.id, commit=repository.commit)
        capabilities = capabilities_of(await _version(backend), config.ollama.version)
        plan = await backend.planner.plan(reference, repository, capabilities, progress)
    except NativePull as native:
        plan = native.plan
    except Refusal as refusal:
        return replace(inspection, refusal=str(refusal), offers=await _other_offers(config, backend, reference))
    except ProxyError as error:
        return replace(inspection, refusal=str(error))
    return await _compare(config, backend, reference, plan)


async def _other_offers(config: Config, backend: Backend, reference: ModelReference) -> tuple[QuantizationOffer, ...]:
    """The tags that would work, if the requested tag does not."""
    chosen = divide_tag(reference.tag)
    if chosen.quantization.lower() == "latest":
        return ()
    return (await _inspect(config, backend, replace(reference, tag=chosen.tag("latest")))).offers


async def _version(backend: Backend) -> str | None:
    try:
        return await backend.ollama.version()
    except OllamaError:
        return None


async def _compare(config: Config, backend: Backend, reference: ModelReference, plan: Plan) -> Inspection:
    """Add what Ollama holds already, or a warning if Ollama cannot be asked."""
    offers, untagged = _offers(backend, reference, plan)
    inspection = Inspection(
        plan.name, plan.repository.id, plan.repository.commit, plan, warnings=untagged, offers=offers
    )
    try:
        # A plan without known digests asks Ollama for no blob; this finds out whether Ollama is there.
        await backend.ollama.version()
        held = await backend.transfer.held(*plan.steps)
        free = await free_disk(config.ollama, backend.ollama)
    except OllamaError as error:
        return replace(inspection, warnings=(*untagged, str(error)))
    return replace(inspection, held=frozenset(held), free_disk=free)


def _offers(
    backend: Backend, reference: ModelReference, plan: Plan
) -> tuple[tuple[QuantizationOffer, ...], tuple[str, ...]]:
    """The tags that there are: the GGUF files of the repository, and the quantizations of its other weights.

    The second value says which GGUF files have no tag, and why.
    """
    files = plan.repository.files
    chosen = divide_tag(reference.tag, (file.path for file in files))
    gguf_tags, untagged = backend.planner.gguf_tags(plan.repository)
    offers = [
        QuantizationOffer(
            tag, sum(file.size for file in (*model.files, *filter(None, [choose_projector(model, files)])))
        )
        for tag, model in gguf_tags.items()
    ]
    tags: dict[str, QuantizationOffer] = {}
    for offer in (*offers, *plan.steps[0].offers):
        tag = chosen.tag(offer.quantization)
        if parse(replace(reference, tag=tag).name) is not None:
            tags.setdefault(tag.upper(), offer._replace(quantization=tag))
    return tuple(tags.values()), tuple(untagged)
