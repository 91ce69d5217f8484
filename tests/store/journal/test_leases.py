"""Leases protect blobs and temporary models until they are released or expire."""

from proxy.store.journal import Journal
from tests.kit.journals import MODEL, A, B, C, WallClock, is_interrupted, unneeded


def test_a_lease_protects_its_blobs_until_it_is_released(journal: Journal) -> None:
    for digest in (A, B, C):
        journal.track(digest, 1)
    first, second = journal.acquire(MODEL, None, [A]), journal.acquire("other", None, [A, B])
    assert unneeded(journal) == [C]
    journal.release(first)
    assert unneeded(journal) == [C]
    journal.release(second)
    assert unneeded(journal) == [A, B, C]


def test_a_blob_can_be_added_to_a_lease(journal: Journal) -> None:
    journal.track(A, 1)
    pull = journal.acquire(MODEL, None, [])
    journal.add(pull, [A])
    journal.add(pull, [A])
    assert unneeded(journal) == []
    journal.release(pull)
    assert unneeded(journal) == [A]


def test_a_lease_without_blobs_protects_its_model(journal: Journal) -> None:
    journal.track(A, 1)
    pull, other = journal.acquire(MODEL, "temporary", [A]), journal.acquire("other", None, [B])
    journal.track(B, 1)
    journal.drop_blobs(pull)
    assert unneeded(journal) == [A]
    assert journal.temporary_models() == {"temporary"}
    journal.release(pull)
    journal.release(other)
    assert journal.temporary_models() == set()


def test_one_lease_is_enough_for_a_temporary_model(journal: Journal) -> None:
    pulls = [journal.acquire(name, "temporary", []) for name in ("one", "two")]
    journal.release(pulls[0])
    assert journal.temporary_models() == {"temporary"}
    journal.release(pulls[1])
    assert journal.temporary_models() == set()


def test_a_finished_model_unprotects_its_temporary_model(journal: Journal) -> None:
    """Also against an interrupted pull of another model, but not against a running one."""
    journal.track(A, 1)
    broken, other, running = (journal.acquire(name, "temporary", [A]) for name in ("one", "two", "three"))
    journal.expire_at(broken, 1e12)
    journal.complete(other)
    assert journal.temporary_models() == {"temporary"}
    journal.release(running)
    assert journal.temporary_models() == set()
    assert unneeded(journal) == []


def test_an_interrupted_lease_expires(journal: Journal, clock: WallClock) -> None:
    """Also before anything deletes its row."""
    journal.track(A, 1)
    pull = journal.acquire(MODEL, "temporary", [A])
    journal.expire_at(pull, clock.now + 100)
    clock.now += 99
    journal.release_expired(clock.now)
    assert (unneeded(journal), journal.temporary_models(), is_interrupted(journal, MODEL)) == (
        [],
        {"temporary"},
        True,
    )
    clock.now += 1
    assert (unneeded(journal), journal.temporary_models()) == ([A], set())
    journal.release_expired(clock.now)
    assert (unneeded(journal), journal.temporary_models(), is_interrupted(journal, MODEL)) == (
        [A],
        set(),
        False,
    )


def test_interrupted_leases_of_a_model_can_be_released(journal: Journal, clock: WallClock) -> None:
    for digest in (A, B, C):
        journal.track(digest, 1)
    journal.expire_at(journal.acquire(MODEL, None, [A]), clock.now + 100)
    journal.expire_at(journal.acquire("other", None, [B]), clock.now + 100)
    journal.acquire("running", None, [C])
    assert [is_interrupted(journal, model) for model in (MODEL, "other", "running")] == [
        True,
        True,
        False,
    ]
    for model in (MODEL, "running"):
        journal.release_interrupted(model)
    assert [is_interrupted(journal, model) for model in (MODEL, "other", "running")] == [
        False,
        True,
        False,
    ]
    assert unneeded(journal) == [A]


def test_a_running_lease_does_not_expire(journal: Journal) -> None:
    journal.track(A, 1)
    journal.acquire(MODEL, None, [A])
    journal.release_expired(1e12)
    assert unneeded(journal) == []


def test_a_start_expires_only_leases_that_ran(journal: Journal, clock: WallClock) -> None:
    """A lease that was interrupted earlier keeps its time."""
    for digest in (A, B):
        journal.track(digest, 1)
    journal.expire_at(journal.acquire("broken", None, [A]), clock.now + 50)
    journal.acquire("killed", None, [B])
    journal.expire_abandoned_at(clock.now + 100)
    clock.now += 50
    journal.release_expired(clock.now)
    assert unneeded(journal) == [A]
    clock.now += 50
    journal.release_expired(clock.now)
    assert unneeded(journal) == [A, B]


def test_the_next_lease_of_a_model_replaces_an_interrupted(journal: Journal) -> None:
    """Without a moment in which a blob that both need is unprotected."""
    for digest in (A, B):
        journal.track(digest, 1)
    journal.expire_at(journal.acquire(MODEL, "old", [A, B]), 1e12)
    journal.acquire(MODEL, "new", [A])
    assert unneeded(journal) == [B]
    assert journal.temporary_models() == {"new"}


def test_a_lease_replaces_no_other_models_and_no_running(journal: Journal) -> None:
    """Leases of other models, and running leases of the same model, stay."""
    for digest in (A, B):
        journal.track(digest, 1)
    journal.expire_at(journal.acquire("other", None, [A]), 1e12)
    journal.acquire(MODEL, None, [B])
    journal.acquire(MODEL, None, [])
    assert unneeded(journal) == []


def test_two_leases_have_different_numbers(journal: Journal) -> None:
    first, second = journal.acquire(MODEL, None, [A]), journal.acquire(MODEL, None, [B])
    assert first != second
    journal.track(A, 1)
    journal.track(B, 1)
    journal.release(first)
    assert unneeded(journal) == [A]


def test_a_reused_number_inherits_nothing(journal: Journal) -> None:
    journal.track(A, 1)
    numbers = []
    for digests in ([A], []):
        numbers.append(journal.acquire(MODEL, None, digests))
        if digests:
            journal.release(numbers[0])
    assert numbers[0] == numbers[1]
    assert unneeded(journal) == [A]
