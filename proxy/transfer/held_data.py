"""The tensor data of a blob that Ollama has: with a new header they make another blob, and nothing is fetched."""

from dataclasses import dataclass, replace

from proxy.ollama.client import Ollama
from proxy.planning.recipe import Range, Recipe, cover_file
from proxy.sources.folder import FolderRepository, one_file
from proxy.transfer.bandwidth import Bandwidth
from proxy.transfer.window import Fetching


@dataclass(frozen=True, slots=True)
class HeldData:
    """`recipe` makes the new blob from the old one, which is the only file of `repository`."""

    repository: FolderRepository
    recipe: Recipe

    @classmethod
    def find(cls, ollama: Ollama, digest: str, recipe: Recipe) -> "HeldData | None":
        """`recipe` begins with the new header; the blob `digest` ends with the data that the other parts make.

        None if the proxy cannot read the blob's file, for example because Ollama is in a container. Blocking.
        """
        path = ollama.blob_file(digest)
        repository = one_file(path) if path is not None else None
        if repository is None:
            return None
        [file] = repository.files
        header, *data = recipe.parts
        start = file.size - sum(part.size for part in data)
        # The blob is read whole, so that its digest is checked before the last bytes of the new one are sent.
        if f"sha256:{file.sha256}" != digest or start < 0:
            return None
        return cls(repository, replace(recipe, parts=(header, *cover_file(file, 0, [Range(file, start, file.size)]))))

    def fetching(self, pull: Fetching) -> Fetching:
        """Reads the file as a part of `pull`; the limit of the bandwidth is for sources."""
        limits = replace(pull.limits, bandwidth=Bandwidth(0))
        return Fetching(self.repository, limits, pull.progress, pull.pull)
