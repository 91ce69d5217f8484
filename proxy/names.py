"""Names of models, by Ollama's rules (types/model/name.go, the same in v0.24 and v0.40)."""

import re
from typing import NamedTuple

# After v0.40, a name may end with the digest of a manifest, behind an @.
FORM = re.compile(r"(?:https?://)?([^/@]+)/([^/@]+)/([^/@]+?)(?::([^/@:]+))?")


class PartRule(NamedTuple):
    """What Ollama takes as one part of a name: letters, digits, `_` and, behind the first character, `punctuation`."""

    label: str
    longest: int
    punctuation: str

    def broken_by(self, part: str) -> str | None:
        """The rule that this part breaks, for the user; None if Ollama takes the part."""
        if len(part) > self.longest:
            return f"{self.label} has {len(part)} characters, and Ollama takes at most {self.longest}"
        if not re.match(r"[A-Za-z0-9_]", part):
            return f"{self.label} does not begin with a letter, a digit or _, as Ollama demands"
        if other := re.search(rf"[^A-Za-z0-9_{re.escape(self.punctuation)}]", part):
            more = "".join(f" {character}" for character in self.punctuation)
            return f"{self.label} contains {other[0]!r}, and Ollama takes only letters, digits and _{more}"
        return None


HOST = PartRule("the host", 350, "-.:")
ORGANIZATION = PartRule("the organization", 80, "-")
REPOSITORY = PartRule("the repository's name", 80, "-.")
TAG = PartRule("the tag", 80, "-.")


class NameParts(NamedTuple):
    """HOST/ORG/REPO[:TAG] as Ollama divides it. `tag` is `latest` if the name has none."""

    host: str
    organization: str
    repository: str
    tag: str

    @property
    def model(self) -> str:
        """The name without its tag."""
        return f"{self.host}/{self.organization}/{self.repository}"

    @property
    def broken_rule(self) -> str | None:
        """The first of Ollama's rules that the name breaks, for the user; None if Ollama takes the name."""
        rules = zip((HOST, ORGANIZATION, REPOSITORY, TAG), self, strict=True)
        return next(filter(None, (rule.broken_by(part) for rule, part in rules)), None)


def divide(name: str) -> NameParts | None:
    """The parts of a name, whether or not Ollama takes them; None if it is not of the form HOST/ORG/REPO[:TAG]."""
    match = FORM.fullmatch(name.strip())
    return NameParts(match[1], match[2], match[3], match[4] or "latest") if match else None


def is_tag(text: str) -> bool:
    """Whether the text can be typed as a tag that means a model on this machine."""
    return TAG.broken_by(text) is None and not is_cloud(text)


def is_cloud(tag: str) -> bool:
    """From v0.17.6 on, these tags mean Ollama's own cloud, on every host."""
    return tag.lower() in ("cloud", "local") or tag.lower().endswith("-cloud")
