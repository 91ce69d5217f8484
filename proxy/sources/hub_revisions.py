"""What a revision means that the Hub does not know as it is written."""

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from proxy.errors import Refusal

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import GitRefs

FIRST_DIGITS = re.compile(r"[0-9a-f]{7,39}", re.IGNORECASE)
MAX_SHOWN = 12
NOT_FOUND = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)
"""olah answers 401 for what does not exist."""


def resolve(api: "HfApi", repository: str, revision: str) -> str:
    """The only branch or tag of this name in another case, or the only commit that begins with these digits.

    Ollama may change the case of a tag, and the Hub takes only whole commits. Blocking. Raises Refusal, with the
    revisions that there are, and huggingface_hub's errors.
    """
    refs = _refs(api, repository)
    named = {} if refs is None else {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)}
    matches = {name for name in named if name.casefold() == revision.casefold()}
    if not matches and FIRST_DIGITS.fullmatch(revision):
        commits = {*named.values(), *(commit.commit_id for commit in api.list_repo_commits(repository))}
        matches = {commit for commit in commits if commit.startswith(revision.lower())}
    if len(matches) == 1:
        return matches.pop()
    raise Refusal(f"{repository} at {api.endpoint} has no revision {revision!r}; {_advice(sorted(named), matches)}")


def _refs(api: "HfApi", repository: str) -> "GitRefs | None":
    """None if this server has no list of branches and tags."""
    from huggingface_hub import errors

    try:
        return api.list_repo_refs(repository)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in NOT_FOUND:
            raise
        return None


def _advice(named: list[str], matches: set[str]) -> str:
    if matches:
        return f"it may be one of these: {', '.join(sorted(matches))}"
    if not named:
        return "check the spelling"
    more = f" and {len(named) - MAX_SHOWN} more" if len(named) > MAX_SHOWN else ""
    return f"use a commit, or one of these branches and tags: {', '.join(named[:MAX_SHOWN])}{more}"
