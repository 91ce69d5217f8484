"""The blobs, digests and models that the journal records."""

from dataclasses import replace

from proxy.ollama.registry import Blob
from proxy.store.journal import RESPITE_SECONDS, Journal
from tests.kit.journals import MODEL, RECORD, A, B, C, WallClock, unneeded


def test_the_smallest_blob_comes_first(journal: Journal) -> None:
    journal.track(A, 30)
    journal.track(B, 10)
    journal.track(C, 20)
    assert journal.unneeded() == [Blob(B, 10), Blob(C, 20), Blob(A, 30)]


def test_untracked_blobs_are_not_listed(journal: Journal) -> None:
    for digest in (A, B, C):
        journal.track(digest, 1)
    journal.untrack([A, C])
    assert unneeded(journal) == [B]


def test_a_blob_tracked_twice_is_listed_once(journal: Journal) -> None:
    journal.track(A, 1)
    journal.track(A, 1)
    assert journal.unneeded() == [Blob(A, 1)]


def test_a_touched_blob_stays_for_an_hour(journal: Journal, clock: WallClock) -> None:
    journal.track(A, 1)
    journal.touch(A)
    clock.now += RESPITE_SECONDS - 1
    assert unneeded(journal) == []
    clock.now += 2
    assert unneeded(journal) == [A]


def test_a_blob_touched_before_its_upload_stays_too(journal: Journal, clock: WallClock) -> None:
    journal.touch(A)
    clock.now += RESPITE_SECONDS / 2
    journal.track(A, 1)
    assert unneeded(journal) == []
    clock.now += RESPITE_SECONDS / 2 + 1
    assert unneeded(journal) == [A]


def test_another_touch_restarts_the_hour(journal: Journal, clock: WallClock) -> None:
    journal.track(A, 1)
    journal.touch(A)
    clock.now += RESPITE_SECONDS - 1
    journal.touch(A)
    clock.now += RESPITE_SECONDS - 1
    assert unneeded(journal) == []


def test_old_touches_take_no_memory(journal: Journal, clock: WallClock) -> None:
    for number in range(100):
        journal.touch(f"sha256:{number:064}")
    clock.now += RESPITE_SECONDS + 1
    journal.touch(A)
    assert list(journal._touched_at) == [A]


# ---- digests and models


def test_the_newest_digest_of_a_recipe_counts(journal: Journal) -> None:
    assert journal.digest_of("recipe") is None
    journal.remember_digest("recipe", A)
    journal.remember_digest("other", B)
    assert journal.digest_of("recipe") == A
    journal.remember_digest("recipe", C)
    assert (journal.digest_of("recipe"), journal.digest_of("other")) == (C, B)


def test_the_newest_record_of_a_model_counts(journal: Journal) -> None:
    assert journal.record(MODEL) is None
    journal.remember(MODEL, RECORD)
    assert journal.record(MODEL) == RECORD
    changed = replace(RECORD, digest="e" * 64, bars=())
    journal.remember(MODEL, changed)
    assert journal.record(MODEL) == changed
    assert journal.record("other") is None
