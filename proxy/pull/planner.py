"""From a name to the plan of its pull. Reads small files, and the headers of weight files."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from proxy.chat.facts import ChatTemplate
from proxy.chat.probe import probe
from proxy.config.sections import NO_SETTINGS, Config
from proxy.config.values import GgufPulls
from proxy.errors import Refusal
from proxy.gguf.families import FAMILIES
from proxy.gguf.tensors import GgufError
from proxy.names import divide
from proxy.ollama.client import Ollama
from proxy.planning.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_GGUF,
    ADAPTER_WEIGHTS,
    AdapterBase,
    adapter_recipe,
    read_adapter_base,
    read_adapter_config,
)
from proxy.planning.capabilities import Capabilities, capabilities_of
from proxy.planning.chat_templates import template_files
from proxy.planning.conversion_plan import (
    architecture_of,
    draft_request,
    kept_quantization,
    plan_conversion,
)
from proxy.planning.conversion_process import converter
from proxy.planning.embedding import MODULES, module_files, pooling_of
from proxy.planning.gguf_files import (
    GgufChoice,
    GgufModel,
    choose_gguf,
    choose_named,
    choose_projector,
    gguf_models,
    latest_gguf,
    passed_over,
    tags_of,
)
from proxy.planning.gguf_plan import plan_gguf, plan_native
from proxy.planning.json_files import json_object
from proxy.planning.material import Material
from proxy.planning.modelfile import (
    ChatMetadata,
    chat_metadata_of_files,
    chat_metadata_of_gguf,
    choose_modelfile,
    files_to_read,
)
from proxy.planning.plan import Base, Format, Plan, PlanRequest, weight_upload
from proxy.planning.projector_plan import wants_projector
from proxy.planning.quantizations import read_quantization
from proxy.planning.weights import CONFIG, INDEX, NotConvertible, Selection, choose_files, has_weights
from proxy.pull.reading import Reading
from proxy.pull.reference import GGUF, ModelReference, TagParts, divide_tag, parse
from proxy.sources.base import Repository, Source
from proxy.tokenizing.comparer import compare
from proxy.transfer.progress import Progress
from proxy.transfer.transfer import Transfer

OpenAt = Callable[[str | None], Awaitable[Repository]]
"""Opens a repository at a revision, or at its default branch."""


class NativePull(Exception):
    """Ollama can pull this name by itself; the plan has what it will fetch, and the reason."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.reason)
        self.plan = plan


class Planner:
    """Decides what a pull does. Refuses what cannot work before any weight byte is requested."""

    def __init__(self, config: Config, sources: Mapping[str, Source], ollama: Ollama, transfer: Transfer) -> None:
        self._config = config
        self._sources = sources
        self._ollama = ollama
        self._transfer = transfer
        self._wait_for_ollama = transfer.wait_for_ollama

    def claims(self, reference: ModelReference) -> bool:
        return reference.host.lower() in self._sources

    def reference(self, name: str) -> ModelReference:
        """Read a name that a person typed. Raises Refusal if it is not a name of a source."""
        reference = parse(name)
        if reference is None or not self.claims(reference):
            form = f"is not a name of the form {self._config.hub.hosts[0]}/ORG/REPO[:TAG]"
            hosts = ", ".join(sorted(self._sources))
            raise Refusal(self.name_refusal(name) or f"{name!r} {form}; it can begin with: {hosts}")
        return reference

    def name_refusal(self, name: str) -> str:
        """Why Ollama does not take a name that begins with a source's host, and what to do; empty for other names."""
        parts = divide(name)
        if parts is None or parts.host.lower() not in self._sources or (broken := parts.broken_rule) is None:
            return ""
        if parts._replace(tag="latest").broken_rule is None:
            remedy = "use a quantization such as Q4_K_M; a revision that no tag can contain goes into [models] revision"
        elif short := self._config.settings_for(name).name:
            remedy = f"pull it as {short}, its name in the proxy's configuration"
        else:
            table = f'[models."{parts.model}"] name = "{parts.host}/me/short"'
            remedy = f"give the repository a short name in the proxy's configuration: {table}"
        return f"Ollama does not take the name {name!r}: {broken}; {remedy}"

    def repository(self, reference: ModelReference) -> str:
        """ORG/REPO at the source; the name may have another."""
        return self._config.repository_of(reference.name)[1]

    async def commit(self, reference: ModelReference) -> str:
        """The repository's newest commit. Does not wait: raises Interrupted if its source throttles or fails."""
        source, name = self._source(reference), self.repository(reference)
        return (await self._open_by_tag(reference, lambda one: source.open(name, one))).commit

    async def open(self, reference: ModelReference, progress: Progress) -> Repository:
        """The repository at a fixed commit. Raises NativePull if Ollama pulls it by itself."""
        repository = await self._open(reference, progress)
        choice = self._gguf(reference, repository)
        if choice is not None and self._is_native(reference, repository, choice):
            reason = "as pull.gguf says" if self._config.pull.gguf is GgufPulls.NATIVE else "one public file"
            raise NativePull(plan_native(reference.name, repository, choice, reason))
        return repository

    async def _open(self, reference: ModelReference, progress: Progress) -> Repository:
        source, name = self._source(reference), self.repository(reference)
        return await self._open_by_tag(reference, lambda one: self._transfer.open(source, name, one, progress))

    async def _open_by_tag(self, reference: ModelReference, open_at: OpenAt) -> Repository:
        """`open_at` opens a revision. That of the tag wins over that of `[models]`."""
        default = self._config.settings_for(reference.name).revision
        chosen = divide_tag(reference.tag)
        if chosen.revision is None:
            return await open_at(default)
        if not chosen.quantization:
            raise Refusal(
                f"{reference.name}: the tag names the revision {chosen.revision!r} and no quantization; pull with "
                f"{chosen.tag(self._config.pull.default_quantization)}, or {chosen.tag('latest')} for the default"
            )
        if chosen.quantization.lower().endswith(GGUF):
            # The tag may be the name of a file that contains the separator.
            repository = await open_at(default)
            if _divide_tag(reference, repository).revision is None:
                return repository
        return await open_at(chosen.revision)

    def _source(self, reference: ModelReference) -> Source:
        return self._sources[self._config.repository_of(reference.name)[0].lower()]

    async def capabilities(self, progress: Progress) -> Capabilities:
        """What this Ollama can run. Waits if Ollama is gone. Raises OllamaError."""
        version = await self._wait_for_ollama.run(self._ollama.version, self._ollama.url, progress)
        return capabilities_of(version, self._config.ollama.version)

    async def plan(
        self, reference: ModelReference, repository: Repository, capabilities: Capabilities, progress: Progress
    ) -> Plan:
        """Raises Refusal, with what would work, for a repository that cannot become a model here."""
        capabilities.check_usable()
        reading = Reading(self._transfer, repository, progress)
        try:
            settings = self._config.settings_for(reference.name)
            pull = self._config.pull
            vision = pull.vision if settings.vision is None else settings.vision
            request = PlanRequest(
                reference.name, repository, settings, capabilities, pull.draft, vision, pull.projector
            )
            plan = await self._plan(reference, reading, request)
        except NotConvertible as refusal:
            host, _ = self._config.repository_of(reference.name)
            raise Refusal(f"{refusal}; {await _other_forms(host, repository)}") from refusal
        warnings = dict.fromkeys(filter(None, (capabilities.warning, *plan.warnings)))
        return replace(plan, warnings=tuple(warnings))

    async def _plan(self, reference: ModelReference, reading: Reading, request: PlanRequest) -> Plan:
        if choice := self._gguf(reference, request.repository):
            plan, warnings = await self._plan_gguf(choice, reading, request), choice.warnings
        else:
            repository = request.repository
            warnings = passed_over(gguf_models(repository.id, repository.files), reference.tag)
            make = self._plan_adapter if _is_adapter(repository) else self._plan_safetensors
            plan = await make(reference, reading, request)
        return replace(plan, warnings=(*warnings, *plan.warnings))

    def _gguf(self, reference: ModelReference, repository: Repository) -> GgufChoice | None:
        """The GGUF for the tag. If the repository has safetensors too, only a GGUF that the tag names."""
        if not any(file.path.lower().endswith(GGUF) for file in repository.files):
            return None
        with _naming_the_revision(reference, repository) as tag:
            if not _has_other_weights(repository):
                default = self._config.pull.default_quantization
                return choose_gguf(repository.id, repository.files, tag, default)
            return choose_named(gguf_models(repository.id, repository.files), tag)

    def gguf_tags(self, repository: Repository) -> tuple[dict[str, GgufModel], list[str]]:
        """A tag for each GGUF, and for each other GGUF why no tag means it."""
        models = gguf_models(repository.id, repository.files)
        latest = None if _has_other_weights(repository) else latest_gguf(models, self._config.pull.default_quantization)
        return tags_of(models, latest)

    def _is_native(self, reference: ModelReference, repository: Repository, choice: GgufChoice) -> bool:
        has_other_name = self._config.repository_of(reference.name) != (reference.host, reference.repository)
        if has_other_name or _divide_tag(reference, repository).revision is not None:
            return False  # by this name, Ollama would ask for another repository, or for a tag that there is not
        mode = self._config.pull.gguf
        if mode is not GgufPulls.AUTO:
            return mode is GgufPulls.NATIVE
        settings = self._config.settings_for(reference.name)
        return repository.public and choice.as_the_hub and settings == NO_SETTINGS

    async def _plan_gguf(self, choice: GgufChoice, reading: Reading, request: PlanRequest) -> Plan:
        repository = request.repository
        headers = await reading.gguf_headers(choice.model.files)
        projector = choose_projector(choice.model, repository.files)
        await reading.read(files_to_read(repository.files))
        try:
            metadata = await asyncio.to_thread(chat_metadata_of_gguf, headers[0])
        except GgufError as error:
            raise Refusal(f"{repository.id}/{choice.model.files[0].path} cannot be used: {error}") from error
        modelfile = choose_modelfile(request, "", metadata, await _probed(metadata), reading.contents)
        return await asyncio.to_thread(plan_gguf, request, choice, headers, projector, modelfile)

    async def _plan_safetensors(self, reference: ModelReference, reading: Reading, request: PlanRequest) -> Plan:
        repository = request.repository
        await reading.read(file for file in repository.files if file.path in (CONFIG, INDEX, MODULES))
        module_paths = module_files(reading.contents.get(MODULES))
        # Nothing else reads the index, which may have 20 MB.
        index = reading.contents.pop(INDEX, None)
        selection = await asyncio.to_thread(choose_files, repository, index, module_paths)
        with _naming_what_was_passed_over(selection):
            plan = await self._plan_conversion(reference, reading, request, selection)
        return replace(plan, warnings=(*selection.warnings, *plan.warnings))

    async def _plan_conversion(
        self, reference: ModelReference, reading: Reading, request: PlanRequest, selection: Selection
    ) -> Plan:
        repository = request.repository
        config = json_object(f"{repository.id}/{CONFIG}", reading.contents[CONFIG])
        architecture = architecture_of(f"{repository.id}/{CONFIG}", config, request.capabilities)
        config["architectures"] = [architecture]
        has_projector = wants_projector(request, architecture)
        default = self._config.pull.default_quantization
        kept = kept_quantization(architecture, config)
        with _naming_the_revision(reference, repository) as tag:
            quantization = read_quantization(repository.id, tag, default, request.capabilities, kept=kept)
        await reading.read((*selection.companions, *template_files(repository.id, repository.files)))
        headers = await reading.headers(selection.weights)
        await reading.read(files_to_read(repository.files))
        contents = reading.contents
        async with converter(
            [*map(len, contents.values()), *(header.size for header in headers.values())]
        ) as converting:
            tokens, adds_bos = await converting.read_tokens(repository.id, config, contents)
            pooling = pooling_of(repository.id, contents, embeds=FAMILIES[architecture].embeds)
            metadata = chat_metadata_of_files(repository.id, contents, tokens)
            metadata = replace(metadata, embeds=pooling is not None, adds_bos=adds_bos)
            chat = await _probed(metadata)
            modelfile = choose_modelfile(request, architecture, metadata, chat, contents)
            # Ollama embeds texts without a chat template.
            sample = chat.sample if chat and pooling is None else ""
            material = Material(repository.id, config, selection, headers, contents, modelfile, pooling, sample)
            parts = await converting.parts_to_read(material)
            read = await reading.parts(selection.weights, parts)
            material = replace(material, read=read, draft=draft_request(request, architecture))
            converted = await converting.convert(material, quantization)
            projected = await converting.project(material, request.projector) if has_projector else None
        plan = await asyncio.to_thread(plan_conversion, request, material, converted, projected)
        verdict = await compare(contents, converted[0].header, sample)
        if verdict.refusal:
            raise NotConvertible(f"{repository.id}: {verdict.refusal}")
        return replace(plan, warnings=(*plan.warnings, *verdict.remarks))

    async def _plan_adapter(self, reference: ModelReference, reading: Reading, request: PlanRequest) -> Plan:
        repository = request.repository
        files = {file.path: file for file in repository.files}
        if ADAPTER_WEIGHTS not in files:
            raise Refusal(f"{repository.id} is a LoRA adapter without {ADAPTER_WEIGHTS}; ask its owner for safetensors")
        await reading.read([files[ADAPTER_CONFIG]])
        config = read_adapter_config(f"{repository.id}/{ADAPTER_CONFIG}", reading.contents[ADAPTER_CONFIG])
        host, _ = self._config.repository_of(reference.name)
        base = parse(f"{host}/{config.base}:{_divide_tag(reference, repository).quantization}")
        if base is None:
            raise Refusal(
                f"{repository.id}/{ADAPTER_CONFIG} names the base model {config.base}, a name that Ollama does not take"
            )
        base_repository, remarks = await self._open_base(base, config.revision, reading.progress)
        base_plan, facts = await self._base(base, base_repository, request.capabilities, reading.progress)
        file = files[ADAPTER_WEIGHTS]
        headers = await reading.headers([file])
        recipe = adapter_recipe(f"{repository.id}/{file.path}", file, headers[file.path], config, facts)
        return Plan(
            request.name,
            repository,
            Format.ADAPTER,
            f"a LoRA adapter on {base.name}, written as a GGUF by the proxy: Ollama's own conversion of it is wrong",
            (weight_upload(repository, ADAPTER_GGUF, recipe, "adapter"),),
            is_converted=True,
            settings=request.settings,
            template_source="base" if request.settings.template is None else "config",
            base=Base(base.name, base_plan),
            warnings=(*config.warnings, *remarks, *(base_plan.warnings if base_plan else ())),
        )

    async def _open_base(
        self, base: ModelReference, revision: str | None, progress: Progress
    ) -> tuple[Repository, tuple[str, ...]]:
        """An adapter's base model at the revision that the adapter names, and warnings."""
        source, pinned = self._source(base), self._config.settings_for(base.name).revision
        with _naming_the_base():
            try:
                return await self._transfer.open(source, base.repository, pinned or revision, progress), ()
            except Refusal:
                # Some trainers write a branch of their own: unsloth's adapters have "unsloth" here.
                if pinned or revision is None:
                    raise
                repository = await self._transfer.open(source, base.repository, None, progress)
        remark = f"the adapter names the revision {revision} of its base model, which {repository.id} does not have"
        return repository, (f"{remark}; its default branch is taken",)

    async def _base(
        self, base: ModelReference, repository: Repository, capabilities: Capabilities, progress: Progress
    ) -> tuple[Plan | None, AdapterBase]:
        """The plan of an adapter's base model, None if Ollama has it, and the facts that the adapter's plan needs."""
        if _is_adapter(repository):
            raise Refusal(f"{repository.id}, the adapter's base model, is an adapter itself; merge the two")
        reading = Reading(self._transfer, repository, progress)
        config = next((file for file in repository.files if file.path == CONFIG), None)
        if config is None:
            raise Refusal(f"{repository.id}, the adapter's base model, has no {CONFIG}: its architecture is unknown")
        await reading.read([config])
        facts = read_adapter_base(f"{repository.id}/{CONFIG}", reading.contents[CONFIG])
        if await self._ollama.has_model(base.name):
            return None, facts
        with _naming_the_base():
            return await self.plan(base, repository, capabilities, progress), facts


async def _probed(metadata: ChatMetadata) -> ChatTemplate | None:
    return await probe(metadata.jinja, metadata.facts) if metadata.jinja else None


@contextmanager
def _naming_what_was_passed_over(selection: Selection) -> Iterator[None]:
    """The weights that are taken instead may be no model of their own."""
    try:
        yield
    except Refusal as refusal:
        raise type(refusal)("; ".join((str(refusal), *selection.warnings))) from refusal


@contextmanager
def _naming_the_base() -> Iterator[None]:
    """A user who pulls an adapter may not know its base model."""
    try:
        yield
    except Refusal as refusal:
        raise Refusal(f"the adapter's base model cannot be pulled: {refusal}") from refusal


def _divide_tag(reference: ModelReference, repository: Repository) -> TagParts:
    return divide_tag(reference.tag, (file.path for file in repository.files))


@contextmanager
def _naming_the_revision(reference: ModelReference, repository: Repository) -> Iterator[str]:
    """The tag without its revision. The tags that a refusal lists have no revision either, so this one explains it."""
    chosen = _divide_tag(reference, repository)
    try:
        yield chosen.quantization
    except Refusal as refusal:
        if chosen.revision is None:
            raise
        raise Refusal(
            f"{refusal}. The tag {reference.tag!r} is the revision {chosen.revision!r} and the quantization "
            f"{chosen.quantization!r}; put {chosen.tag('')} before another quantization too"
        ) from refusal


def _has_other_weights(repository: Repository) -> bool:
    """Whether `latest` means other weights than a GGUF."""
    return has_weights(repository.files) or _is_adapter(repository)


def _is_adapter(repository: Repository) -> bool:
    return any(file.path == ADAPTER_CONFIG for file in repository.files) and not has_weights(repository.files)


async def _other_forms(host: str, repository: Repository) -> str:
    repositories = await repository.gguf_repositories()
    if not repositories:
        return "look for a GGUF of the same model"
    names = ", ".join(f"{host}/{name}" for name in repositories)
    return f"the same model as GGUF, which Ollama runs as it is: {names}"
