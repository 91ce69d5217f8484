"""Whether Ollama already has what a pull would make. The journal's record decides; without one, what Ollama shows."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from proxy.config.sections import Config
from proxy.config.values import ProjectorType
from proxy.ollama.client import Ollama
from proxy.planning.identity import digest_of_value, outdated_reason, settings_identity, weights_identity
from proxy.planning.ollama_layers import HeldModel, held_model, layers_of, shown_parameters
from proxy.planning.plan import Plan
from proxy.pull.reference import ModelReference
from proxy.sources.base import Repository
from proxy.store.journal import Journal, Record

SIZE_TOLERANCE = 0.02
UNQUANTIZED = {"F32": ("F32", "unknown"), "F16": ("F16",), "BF16": ("BF16",)}
"""How Ollama shows these file types. It shows F32, whose number is 0, as unknown (v0.24, v0.33)."""


class Freshness:
    def __init__(self, config: Config, journal: Journal, ollama: Ollama) -> None:
        self._config = config
        self._journal = journal
        self._ollama = ollama

    async def unchanged_record(self, reference: ModelReference, repository: Repository) -> Record | None:
        """The record of a model that was made from this commit with these settings, if Ollama still has that model."""
        record = self._journal.record(reference.key)
        if record is None or record.request != self._request(reference, repository) or outdated_reason(record.made_by):
            return None
        return record if await self._still_has(reference, record) else None

    async def is_up_to_date(self, reference: ModelReference, plan: Plan) -> bool:
        """Whether Ollama has the model that the plan would make. If it has, the journal records the plan for it."""
        record = self._journal.record(reference.key)
        is_equal = record and (record.weights, record.settings) == (weights_identity(plan), settings_identity(plan))
        is_up_to_date = bool(record and is_equal and await self._still_has(reference, record))
        interrupted_since = self._journal.interrupted_since(reference.key)
        if not is_up_to_date and (record is None or interrupted_since is not None):
            # The journal was lost, or the proxy was killed after the model was made and before it was recorded.
            is_up_to_date = await self._looks_like(plan, interrupted_since or 0.0)
        if is_up_to_date:
            await self.remember(reference, plan)
        return is_up_to_date

    async def reusable_weights(self, reference: ModelReference, plan: Plan) -> HeldModel | None:
        """The model of this name, if the plan has the same weights and changes only its other layers."""
        record = self._journal.record(reference.key)
        if record is None or plan.base is not None or record.weights != weights_identity(plan):
            return None
        if not await self._still_has(reference, record):
            return None
        return held_model(await self._ollama.show(reference.name) or {})

    async def remember(self, reference: ModelReference, plan: Plan) -> None:
        """Record that the model that Ollama has under this name is the plan's."""
        model = await self._listed(reference.name)
        if model is None:
            return
        repository = plan.repository
        record = Record(
            str(model.get("digest")),
            self._request(reference, repository),
            weights_identity(plan),
            settings_identity(plan),
            plan.bars,
            repository.id,
            repository.commit,
            plan.made_by,
        )
        self._journal.remember(reference.key, record)

    def _request(self, reference: ModelReference, repository: Repository) -> str:
        """Versions of Ollama and of the proxy do not count: an update is no reason to make all models again."""
        settings = msgspec.to_builtins(self._config.settings_for(reference.name))
        pull = self._config.pull
        request = [repository.id, repository.commit, reference.tag.casefold(), settings]
        # With the defaults, older records stay valid.
        more = [
            *(["draft"] if pull.draft else []),
            *([] if pull.vision else ["text alone"]),
            *([pull.projector] if pull.projector is not ProjectorType.F16 else []),
        ]
        return digest_of_value([*request, pull.default_quantization, pull.gguf, *more])

    async def _still_has(self, reference: ModelReference, record: Record) -> bool:
        model = await self._listed(reference.name)
        return model is not None and model.get("digest") == record.digest

    async def _listed(self, name: str) -> dict[str, Any] | None:
        models = await self._ollama.models()
        return next((model for model in models if model["name"].casefold() == name.casefold()), None)

    async def _looks_like(self, plan: Plan, started: float) -> bool:
        """Whether a model without a valid record looks like the plan's, and is newer than the commit and `started`."""
        model = await self._listed(plan.name)
        if model is None or plan.repository.modified is None or plan.base is not None:
            return False
        shown = await self._ollama.show(plan.name) or {}
        settings = plan.settings
        return (
            seconds_of(str(shown.get("modified_at"))) > max(plan.repository.modified, started)
            and _has_size_and_type(plan, model.get("size"), str(shown.get("details", {}).get("quantization_level")))
            and settings.template in (None, shown.get("template"))
            and (settings.system or "") == shown.get("system", "")
            and (settings.license is None or _joined(settings.license) == shown.get("license"))
            and _parameters(settings.parameters) == _shown_parameters(str(shown.get("parameters", "")))
        )


def _has_size_and_type(plan: Plan, size: Any, level: str) -> bool:
    """For a GGUF that the proxy makes, it knows every byte; for Ollama's own pull, only the size of the weights."""
    if not isinstance(size, int) or not plan.result_size:
        return False
    if plan.gguf_summary is None:
        return abs(size - plan.result_size) <= SIZE_TOLERANCE * plan.result_size
    small_files = sum(len(content) for _, content in layers_of(plan, plan.gguf_summary))
    file_type = plan.gguf_summary.file_type
    return size == plan.result_size + small_files and level in UNQUANTIZED.get(file_type, (file_type,))


def _joined(licenses: str | list[str]) -> str:
    """As Ollama shows several licenses."""
    return licenses if isinstance(licenses, str) else "\n".join(licenses)


def seconds_of(time: str) -> float:
    """Unix seconds of a time as Go writes it, with nanoseconds; 0 if it is not a time."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", time)).timestamp()
    except ValueError:
        return 0.0


def _parameters(parameters: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Each value with its key; a list gives one pair for each item. All numbers of Ollama are floats."""
    values = ((key, value if isinstance(value, list) else [value]) for key, value in parameters.items())
    return {(key, repr(float(one) if type(one) is int else one)) for key, several in values for one in several}


def _shown_parameters(text: str) -> set[tuple[str, str]]:
    return {(key, repr(float(one) if type(one) is int else one)) for key, one in shown_parameters(text)}
