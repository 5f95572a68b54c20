"""Which decisions on a log's keys are allowed, and who signs afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tidewaiter.core.audit import KeyRecorded
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.key_decisions import KeyInForce, apply, decide, keys_to_sign_with

ORIGIN = "example.com/log"
FIRST, SECOND, THIRD = (f"{ORIGIN}+0000000{number}+AAAA" for number in (1, 2, 3))
BEFORE, UNTIL, AFTER = (f"2026-01-0{day}T00:00:00.000000Z" for day in (1, 2, 3))
SIZE = 100


def wanted(decision: str, vkey: str, **members: Any) -> KeyRecorded:
    """What a person asks for."""
    return KeyRecorded(decision, vkey, "a test", **members)


def decided(keys: list[KeyInForce], record: KeyRecorded, index: int = SIZE) -> list[KeyInForce]:
    """Return the keys after a decision that must be allowed."""
    return apply(keys, decide(keys, record, origin=ORIGIN, size=SIZE), index)


def introduced() -> list[KeyInForce]:
    """A log with its first key."""
    return decided([], wanted("introduced", FIRST), 1)


def rotated() -> list[KeyInForce]:
    """A log whose second key has taken over."""
    return decided(introduced(), wanted("rotated", SECOND, both_until=UNTIL), 50)


def test_first_key_signs_without_end() -> None:
    """It is introduced once and signs until something else is decided."""
    assert introduced() == [KeyInForce(FIRST, 1)]
    assert keys_to_sign_with(introduced(), "9999-01-01T00:00:00.000000Z") == {FIRST}


def test_log_without_a_key_is_signed_by_nobody() -> None:
    """No key, no signature."""
    assert keys_to_sign_with([], BEFORE) == set()


def test_second_key_is_not_introduced_beside_the_first() -> None:
    """A key file that was exchanged is no rotation: the log says who takes over, and under which key."""
    with pytest.raises(ConfigError, match="has a key already") as refused:
        decide(introduced(), wanted("introduced", SECOND), origin=ORIGIN, size=SIZE)
    assert "keys rotate" in refused.value.hint


def test_both_keys_sign_for_a_while_and_then_the_new_one_alone() -> None:
    """Whoever holds one of the vkeys is served in between; the end itself belongs to the new key."""
    record = decide(introduced(), wanted("rotated", SECOND, both_until=UNTIL), origin=ORIGIN, size=SIZE)
    assert record.replaces == FIRST
    keys = rotated()
    assert keys == [KeyInForce(FIRST, 1, UNTIL), KeyInForce(SECOND, 50)]
    assert keys_to_sign_with(keys, BEFORE) == {FIRST, SECOND}
    assert keys_to_sign_with(keys, UNTIL) == {SECOND}


def test_hand_over_is_signed_by_both_whatever_the_time() -> None:
    """The period may be over before a daemon comes to sign: the first checkpoint that tells of it has the old key's."""
    keys = rotated()  # in entry 50: a checkpoint of 51 entries tells of it
    assert keys_to_sign_with(keys, AFTER, published=50) == {FIRST, SECOND}
    assert keys_to_sign_with(keys, AFTER, published=51) == {SECOND}
    keys = decided(keys, wanted("rotated", THIRD, both_until=UNTIL))
    assert keys_to_sign_with(keys, AFTER, published=50) == {FIRST, SECOND, THIRD}
    assert keys_to_sign_with(keys, AFTER, published=51) == {SECOND, THIRD}
    assert keys_to_sign_with(keys, AFTER, published=SIZE + 1) == {THIRD}


def test_revoked_key_does_not_sign_the_hand_over() -> None:
    """What it signs counts no more, so it vouches for no successor either."""
    keys = decided(rotated(), wanted("revoked", FIRST, last_trusted_index=40))
    assert keys_to_sign_with(keys, AFTER, published=50) == {SECOND}


def test_next_rotation_leaves_the_end_of_the_one_before() -> None:
    """The first key's end is as it was recorded, whatever happens to the second."""
    keys = decided(rotated(), wanted("rotated", THIRD, both_until=AFTER))
    assert keys_to_sign_with(keys, BEFORE) == {FIRST, SECOND, THIRD}
    assert keys_to_sign_with(keys, UNTIL) == {SECOND, THIRD}
    assert keys_to_sign_with(keys, AFTER) == {THIRD}


@pytest.mark.parametrize(
    ("keys", "record", "said"),
    [
        ([], wanted("rotated", SECOND, both_until=UNTIL), "no key yet"),
        (introduced(), wanted("rotated", FIRST, both_until=UNTIL), "is a key of the log already"),
        (rotated(), wanted("rotated", FIRST, both_until=UNTIL), "is a key of the log already"),
        (introduced(), wanted("rotated", SECOND), "no time"),
        (introduced(), wanted("rotated", SECOND, both_until="2026-01-02"), "no time"),
        (introduced(), wanted("rotated", SECOND, both_until="2026-01-02T00:00:00.000000+01:00"), "no time"),
        (introduced(), wanted("rotated", "example.com/other+00000009+AAAA", both_until=UNTIL), "its name is"),
        ([], wanted("introduced", "example.com/other+00000009+AAAA"), "its name is"),
        (introduced(), wanted("lent", SECOND), "is no decision"),
    ],
)
def test_decision_that_does_not_fit_is_refused(keys: list[KeyInForce], record: KeyRecorded, said: str) -> None:
    """No key to take over from, a key that had its turn, no end of the time together, another log's key."""
    with pytest.raises(ConfigError, match=said):
        decide(keys, record, origin=ORIGIN, size=SIZE)


def test_revoked_key_signs_no_more_and_the_others_go_on() -> None:
    """The old key, stolen while both sign, stops at once."""
    keys = decided(rotated(), wanted("revoked", FIRST, last_trusted_index=40))
    assert keys[0].revoked_after == 40
    assert keys_to_sign_with(keys, BEFORE) == {SECOND}


def test_new_key_takes_over_from_a_revoked_one_without_signing_together() -> None:
    """A stolen key does not vouch for its successor."""
    keys = decided(introduced(), wanted("revoked", FIRST, last_trusted_index=40), 60)
    assert keys_to_sign_with(keys, BEFORE) == set()
    record = decide(keys, wanted("rotated", SECOND, both_until=UNTIL), origin=ORIGIN, size=SIZE)
    assert (record.replaces, record.both_until) == (FIRST, None)
    assert keys_to_sign_with(apply(keys, record, 61), BEFORE) == {SECOND}


@pytest.mark.parametrize(
    ("index", "allowed"),
    [(None, False), (-2, False), (-1, True), (0, False), (1, True), (SIZE - 1, True), (SIZE, False)],
)
def test_trust_ends_at_an_entry_of_this_log(index: int | None, allowed: bool) -> None:
    """Nothing, or from the key's first entry to the last there is: an index ahead would trust what is yet to come."""
    record = wanted("revoked", FIRST, last_trusted_index=index)
    if allowed:
        assert decided(introduced(), record)[0].revoked_after == index
        return
    with pytest.raises(ConfigError, match=r"is no index|signed nothing before"):
        decide(introduced(), record, origin=ORIGIN, size=SIZE)


def test_trust_is_taken_away_further_and_never_given_back() -> None:
    """A theft found to be older lowers the index; a second revocation cannot raise it."""
    keys = decided(introduced(), wanted("revoked", FIRST, last_trusted_index=40))
    assert decided(keys, wanted("revoked", FIRST, last_trusted_index=39))[0].revoked_after == 39
    for index in (40, 41):
        with pytest.raises(ConfigError, match="is revoked after index 40 already"):
            decide(keys, wanted("revoked", FIRST, last_trusted_index=index), origin=ORIGIN, size=SIZE)


def test_unknown_key_cannot_be_revoked() -> None:
    """Only a key that the log has named has any trust to lose."""
    with pytest.raises(ConfigError, match="is no key of this log"):
        decide(introduced(), wanted("revoked", SECOND, last_trusted_index=1), origin=ORIGIN, size=SIZE)


def test_what_a_decision_does_not_need_is_not_recorded() -> None:
    """Members that belong to another decision are dropped, so that nobody can read something into them."""
    record = wanted("revoked", FIRST, last_trusted_index=1, both_until=UNTIL, replaces=SECOND)
    decision = decide(introduced(), record, origin=ORIGIN, size=SIZE)
    assert (decision.replaces, decision.both_until) == (None, None)
