"""The models that came from a source, and whether their repositories have newer commits."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from proxy.errors import ProxyError
from proxy.ollama.client import Ollama
from proxy.planning.identity import outdated_reason
from proxy.pull.freshness import seconds_of
from proxy.pull.planner import Planner
from proxy.pull.reference import ModelReference, divide_tag, parse
from proxy.store.journal import Journal, Record

log = logging.getLogger(__name__)

MAX_AT_ONCE = 4
LONGEST_SECONDS = 10.0
"""For all models together, because a page waits for the answer."""

Model = tuple[ModelReference, Record | None, dict[str, Any]]
"""A model's name, its record if that is valid, and what Ollama lists for it."""


class Models:
    def __init__(self, ollama: Ollama, planner: Planner, journal: Journal) -> None:
        self._ollama = ollama
        self._planner = planner
        self._journal = journal
        self._asking = asyncio.Semaphore(MAX_AT_ONCE)
        self._changed: dict[tuple[str, str], bool] = {}

    async def all(self, *, ask: bool) -> list[dict[str, Any]]:
        """All models of Ollama with a name of a source. `ask`: ask the sources for their newest commits.

        Otherwise `changed` is the answer to the last question. Raises OllamaError.
        """
        models = [model for listed in await self._ollama.models() if (model := self._model(listed))]
        if ask:
            await self._ask(models)
        return [self._view(*model) for model in models]

    def _model(self, listed: dict[str, Any]) -> Model | None:
        reference = parse(listed["name"])
        if reference is None or not self._planner.claims(reference):
            return None
        record = self._journal.record(reference.key)
        return reference, record if record and record.digest == listed.get("digest") else None, listed

    def _view(self, reference: ModelReference, record: Record | None, listed: dict[str, Any]) -> dict[str, Any]:
        modified_at = seconds_of(str(listed.get("modified_at")))
        commit = record.commit if record else ""
        return {
            "name": reference.name,
            "repository": record.repository if record and record.repository else self._planner.repository(reference),
            "commit": commit or None,
            "digest": listed.get("digest"),
            "size": listed.get("size"),
            "when": datetime.fromtimestamp(modified_at, UTC).isoformat() if modified_at else None,
            "changed": self._changed.get((_repository(reference), commit)),
            "outdated": outdated_reason(record.made_by) if record else None,
        }

    async def _ask(self, models: list[Model]) -> None:
        """Ask for each repository and revision once. One that does not answer in time does not delay the others."""
        commits: dict[str, set[str]] = {}
        references = {}
        for reference, record, _ in models:
            if record and record.commit:
                commits.setdefault(_repository(reference), set()).add(record.commit)
                references[_repository(reference)] = reference
        if not references:
            return
        tasks = {asyncio.create_task(self._ask_one(references[key], known)) for key, known in commits.items()}
        try:
            await asyncio.wait(tasks, timeout=LONGEST_SECONDS)
        finally:
            for task in tasks:
                task.cancel()

    async def _ask_one(self, reference: ModelReference, commits: set[str]) -> None:
        key = _repository(reference)
        for commit in commits:
            self._changed.pop((key, commit), None)
        try:
            async with self._asking:
                newest = await self._planner.commit(reference)
        except ProxyError as error:
            log.info("it is unknown whether %s has changed: %s", reference.name, error)
            return
        self._changed |= {(key, commit): commit != newest for commit in commits}


def _repository(reference: ModelReference) -> str:
    """Equal for names whose newest commit is the same."""
    return replace(reference, tag=divide_tag(reference.tag).tag("")).key
