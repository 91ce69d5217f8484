"""What outlives the process, in a SQLite file: the leases of pulls, the blobs they uploaded, the models they made.

A lease is a row of `pulls` with its rows of `needs`. It protects blobs, and perhaps a temporary model, from removal:
`acquire` it, `add` blobs to it, `complete` it when the model is made, `release` it when the pull has ended, or
`expire_at` a later time when the pull was interrupted.

If the file is lost, the next pulls check models again; no model is lost. Only one process has the file open, because
it would not see the leases of another one.
"""

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import platformdirs

from proxy.config.sections import Config
from proxy.errors import ConfigError, ProxyError
from proxy.ollama.registry import Blob

RESPITE_SECONDS = 3600.0
"""How long a blob stays after a client asked for it or uploaded it: the client may be about to create a model."""
log = logging.getLogger(__name__)

VERSION = 3
"""The version of `TABLES`. A file of a version in `MIGRATIONS` is upgraded; any other file is emptied."""
TABLES = """
CREATE TABLE pulls (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, temporary TEXT, begun_at REAL NOT NULL, keep_until REAL
);
CREATE TABLE needs (
    pull INTEGER NOT NULL REFERENCES pulls ON DELETE CASCADE, digest TEXT NOT NULL, PRIMARY KEY (pull, digest)
) WITHOUT ROWID;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, wanted_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE recipes (recipe TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (
    model TEXT PRIMARY KEY, digest TEXT NOT NULL, asked TEXT NOT NULL, weights TEXT NOT NULL, dressing TEXT NOT NULL,
    bars TEXT NOT NULL, repository TEXT NOT NULL DEFAULT '', revision TEXT NOT NULL DEFAULT '',
    made_by TEXT NOT NULL DEFAULT '?'
) WITHOUT ROWID;
"""
_MADE_BY = "ALTER TABLE models ADD COLUMN made_by TEXT NOT NULL DEFAULT '?';"
MIGRATIONS = {
    1: f"""
ALTER TABLE models ADD COLUMN repository TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN revision TEXT NOT NULL DEFAULT '';
{_MADE_BY}
""",
    2: _MADE_BY,
}
"""The statements that upgrade a file, by its version."""


@dataclass(frozen=True, slots=True)
class Record:
    """A model as its last pull made it. `digest` is Ollama's digest of the model.

    `request`, `weights` and `settings` are hashes: of the commit and the configuration, of the sources of the GGUF, and
    of the template, the parameters and the other small layers. `bars` has the digest and the size of each weight file.
    `repository` and `commit` are shown to people; they are empty if an older version made the model. `made_by` is the
    plan's.
    """

    digest: str
    request: str
    weights: str
    settings: str
    bars: tuple[tuple[str, int], ...]
    repository: str = ""
    commit: str = ""
    made_by: str = ""


def state_file(config: Config) -> Path:
    """Each Ollama has its own file."""
    folder = Path(config.server.state).expanduser() if config.server.state else _default_folder()
    ollama = urlsplit(config.ollama.url)
    host = "127.0.0.1" if ollama.hostname == "localhost" else str(ollama.hostname).replace(":", "-")
    return folder / f"{host}-{ollama.port or ollama.scheme}.sqlite"


def _default_folder() -> Path:
    return platformdirs.user_state_path("ollama-hf-proxy", appauthor=False)


class JournalError(ProxyError):
    """The file cannot be read or written."""


class Locked(ConfigError):
    """Another process has the file open. `url` is where that proxy listens; it is empty while that proxy starts."""

    def __init__(self, file: Path, url: str) -> None:
        at = f", and listens at {url}" if url else ""
        super().__init__(
            f"another ollama-hf-proxy serves this Ollama{at}: it has {file} open; stop it, or set ollama.url to "
            "another Ollama"
        )
        self.url = url


class Journal:
    """Raises ConfigError if the file cannot be used, Locked if another process has it open. Times are Unix seconds."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path the journal is in memory, for commands that change nothing."""
        self._path = path
        self._touched_at: dict[str, float] = {}
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if path is None or error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    raise
                broken = path.replace(path.with_suffix(".broken"))
                log.warning("%s is damaged (%s); it was renamed to %s, and a new file replaces it", path, error, broken)
                self._open()
        except (OSError, sqlite3.Error) as error:
            is_busy = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if path is not None and is_busy:
                url = _url_file(path)
                raise Locked(path, url.read_text(encoding="utf-8") if url.exists() else "") from error
            raise ConfigError(f"{path} cannot be used ({error}); set server.state to a writable folder") from error

    def close(self) -> None:
        self._db.close()

    def publish_url(self, url: str) -> None:
        """Write down where this proxy listens, for a second proxy that finds the file locked."""
        if self._path is not None:
            _url_file(self._path).write_text(url, encoding="utf-8")

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path or ":memory:", isolation_level=None, timeout=0)
        try:
            self._prepare()
        except sqlite3.Error:
            self._db.close()
            raise

    def _prepare(self) -> None:
        # The operating system ends the lock with the process. NORMAL writes no fsync at a commit: a commit survives a
        # killed process without one.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("BEGIN EXCLUSIVE")
        [(version,)] = self._db.execute("PRAGMA user_version").fetchall()
        if version in MIGRATIONS:
            self._upgrade(MIGRATIONS[version])
        elif version != VERSION:
            names = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in names:
                self._db.execute(f"DROP TABLE {name}")
            self._upgrade(TABLES)
        self._db.execute("COMMIT")

    def _upgrade(self, statements: str) -> None:
        for statement in filter(str.strip, statements.split(";")):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._do("BEGIN EXCLUSIVE")
        try:
            yield
        except BaseException:
            self._do("ROLLBACK")
            raise
        self._do("COMMIT")

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(
                f"{self._path} cannot be used ({error}); free disk space there, or set server.state to another folder"
            ) from error

    def acquire(self, model: str, temporary: str | None, digests: Iterable[str]) -> int:
        """Begin the lease of a pull of `model` on blobs and on a temporary model; the lease's number.

        It replaces the leases of earlier, interrupted pulls of the same model.
        """
        with self._transaction():
            insert = "INSERT INTO pulls (model, temporary, begun_at) VALUES (?, ?, ?) RETURNING id"
            [(number,)] = self._do(insert, model, temporary, time.time())
            self.add(int(number), digests)
            self.release_interrupted(model)
        return int(number)

    def add(self, lease: int, digests: Iterable[str]) -> None:
        for digest in digests:
            self._do("INSERT OR IGNORE INTO needs VALUES (?, ?)", lease, digest)

    def drop_blobs(self, lease: int) -> None:
        """Protect only the lease's temporary model, which has the blobs."""
        self._do("DELETE FROM needs WHERE pull = ?", lease)

    def expire_at(self, lease: int, until: float) -> None:
        """The pull was interrupted: protect its blobs until then, for the next pull of the model."""
        self._do("UPDATE pulls SET keep_until = ? WHERE id = ?", until, lease)

    def expire_abandoned_at(self, until: float) -> None:
        """For the start of the proxy: every lease without an end belongs to a process that is gone."""
        self._do("UPDATE pulls SET keep_until = ? WHERE keep_until IS NULL", until)

    def complete(self, lease: int) -> None:
        """The model is made: protect nothing any more. The row stays until `release`, while the pull cleans up.

        The temporary model also loses the protection of interrupted pulls of other models: the weights are in this
        model now.
        """
        for model, temporary in self._do("SELECT model, temporary FROM pulls WHERE id = ?", lease):
            self.complete_interrupted(model)
            unprotect = "UPDATE pulls SET temporary = NULL WHERE temporary = ? AND keep_until IS NOT NULL"
            self._do(unprotect, temporary)
        self._complete(lease)

    def release(self, lease: int) -> None:
        """The pull has ended: delete its lease, and those of interrupted pulls of the same model."""
        for (model,) in self._do("DELETE FROM pulls WHERE id = ? RETURNING model", lease):
            self.release_interrupted(model)

    def interrupted_since(self, model: str) -> float | None:
        """Start time of the latest interrupted pull of this model that has not been resumed."""
        latest = "SELECT max(begun_at) FROM pulls WHERE model = ? AND keep_until IS NOT NULL"
        [(begun_at,)] = self._do(latest, model)
        return None if begun_at is None else float(begun_at)

    def complete_interrupted(self, model: str) -> None:
        """`complete` the leases of interrupted pulls of a model: it is made, whichever pull made it."""
        for (lease,) in self._do("SELECT id FROM pulls WHERE model = ? AND keep_until IS NOT NULL", model):
            self._complete(lease)

    def _complete(self, lease: int) -> None:
        self.drop_blobs(lease)
        self._do("UPDATE pulls SET temporary = NULL WHERE id = ?", lease)

    def release_interrupted(self, model: str) -> None:
        self._do("DELETE FROM pulls WHERE model = ? AND keep_until IS NOT NULL", model)

    def release_expired(self, now: float) -> None:
        self._do("DELETE FROM pulls WHERE keep_until <= ?", now)

    def temporary_models(self) -> set[str]:
        """The temporary models that leases protect."""
        protected = "SELECT temporary FROM pulls WHERE temporary IS NOT NULL AND (keep_until IS NULL OR keep_until > ?)"
        return {name for (name,) in self._do(protected, time.time())}

    def track(self, digest: str, size: int) -> None:
        """Ollama lacks this blob, and the proxy is about to upload it: the proxy may remove it later."""
        touched_at = self._touched_at.get(digest, 0.0)
        self._do("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", digest, size, touched_at)

    def untrack(self, digests: Iterable[str]) -> None:
        """These blobs are removed, or belong to a model."""
        for digest in digests:
            self._do("DELETE FROM blobs WHERE digest = ?", digest)

    def touch(self, digest: str) -> None:
        """A client asked for this blob or uploaded it, and may be about to create a model of it."""
        now = time.time()
        self._touched_at.pop(digest, None)
        self._touched_at[digest] = now
        while (oldest := next(iter(self._touched_at))) != digest and self._touched_at[oldest] < now - RESPITE_SECONDS:
            del self._touched_at[oldest]
        self._do("UPDATE blobs SET wanted_at = ? WHERE digest = ?", now, digest)

    def unneeded(self) -> list[Blob]:
        """Tracked blobs that no lease protects and no client touched lately; the smallest first."""
        now = time.time()
        rows = self._do(
            "SELECT digest, size FROM blobs WHERE wanted_at < ? AND digest NOT IN (SELECT digest FROM needs JOIN pulls "
            "ON pull = id WHERE keep_until IS NULL OR keep_until > ?) ORDER BY size, digest",
            now - RESPITE_SECONDS,
            now,
        )
        return [Blob(*row) for row in rows]

    def digest_of(self, recipe: str) -> str | None:
        """The digest of the blob that this recipe made before. `recipe` is its identity (identity.upload_identity)."""
        return next((digest for (digest,) in self._do("SELECT digest FROM recipes WHERE recipe = ?", recipe)), None)

    def remember_digest(self, recipe: str, digest: str) -> None:
        self._do("INSERT OR REPLACE INTO recipes VALUES (?, ?)", recipe, digest)

    def record(self, model: str) -> Record | None:
        columns = "digest, asked, weights, dressing, bars, repository, revision, made_by"
        select = f"SELECT {columns} FROM models WHERE model = ?"  # noqa: S608 - the names stand above
        for digest, request, weights, settings, bars, repository, commit, made_by in self._do(select, model):
            sizes = tuple((name, size) for name, size in orjson.loads(bars))
            return Record(digest, request, weights, settings, sizes, repository, commit, made_by)
        return None

    def remember(self, model: str, record: Record) -> None:
        bars = orjson.dumps([list(bar) for bar in record.bars]).decode()
        hashes = (record.digest, record.request, record.weights, record.settings)
        origin = (record.repository, record.commit, record.made_by)
        self._do("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", model, *hashes, bars, *origin)


def _url_file(path: Path) -> Path:
    return path.with_suffix(".url")
