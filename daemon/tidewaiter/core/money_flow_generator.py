"""Made-up money-flow events: what event number k of a seed is, as text, and how to find k again from the text.

Owns: the event mix, the numbers behind it, the event ids, and the exact text of a line. Leaves to
`core.stream_faults` spoiling lines on purpose, to `shell.generate_file` and `shell.producer` when an event happens and
how its line gets into a file.

Invariants:
- Everything about event k but its time is a function of (seed, users, profile, k) alone. Nothing is carried from event
  to event, so going on at event k costs the same as starting at 0, and no hash seed, locale, time zone, Python version
  or machine can change a byte.
- Amounts are integer pence and times integer microseconds since 1970 (UTC); no float takes part.
- Lines are ASCII with one event each, separators ", " and ": ", and end in one newline.

The numbers: block b holds the draws of events 256 b to 256 b + 255 and is SHAKE-128 (FIPS 202) of the text
``tidewaiter:<what for>:<seed>:<b>``: 8 bytes an event for the ids, then 24 bytes an event for the rest, read as
little-endian integers of 32 bits. It is a counter-based generator: every Python has it, a reader in another language
can rebuild it, and one call for 256 events is cheaper than any arithmetic in Python. A draw x of 32 bits becomes one of
n values as ``x * n >> 32``.

The id: a UUID of version 8 (RFC 9562: bits of the maker's choice). With the 8 drawn bytes as hex digits h0…h15 and
their reverse XOR the event number (below 2**60) as t0…t15, it is ``h0-h7 - h8-h11 - 8 h12 h13 h15 - v t1-t3 - t4-t15``,
where v is the variant, 8 + h14 mod 4; t0, which is h14, is left out. So `number_of` reads the number back from any
line, whatever the length of the file, and comparing the whole id says whether the event is this generator's own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_EVENTS: Final = 256
MAX_NUMBER: Final = 2**60 - 1
MAX_USERS: Final = 10**9
CHANNELS: Final = ("web", "mobile", "api")
LINE_PREFIX: Final = b'{"event_id": "'
_DRAWS: Final = struct.Struct("<IIIIII")  # hot?, user, type, band, amount, channel
_SLOT: Final = struct.Struct("<I")
_ID_BYTES: Final = 8
_ID_CHARS: Final = 36
_LITTLE_IDS: Final = struct.Struct(f"<{BLOCK_EVENTS}Q")
_BIG_IDS: Final = struct.Struct(f">{BLOCK_EVENTS}Q")
_VARIANTS: Final = b"89ab"
_TO_VARIANT: Final = bytes.maketrans(b"0123456789abcdef", _VARIANTS * 4)
# Column of the id text -> hex digit: of the drawn bytes (0 to 15) or of the hidden number (16 + 1 to 16 + 15).
_ID_COLUMNS: Final = tuple(
    zip(
        (*range(8), *range(9, 13), 15, 16, 17, *range(20, 23), *range(24, 36)),
        (*range(12), 12, 13, 15, *range(17, 32)),
        strict=True,
    )
)
_ID_FORM: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND_US: Final = 1_000_000
# Pence as the JSON encoders of Python and JavaScript print the pounds: 63.61, 63.6, 63.0.
_PENCE: Final = tuple(f".{p // 10}" if p % 10 == 0 else f".{p:02d}" for p in range(100))


def _share(per_mille: int) -> int:
    """Return the bound below which a 32-bit draw counts as one of `per_mille` in a thousand."""
    return 2**32 * per_mille // 1000


@dataclass(frozen=True, slots=True)
class Profile:
    """A mix of events. Shares are events in a thousand, amounts are pence, both ends of a band included.

    `hot` of all events come from `hot_users` users, who are replaced together every `hot_events` events.
    """

    name: str
    hot: int
    hot_users: int
    hot_events: int
    bands: tuple[tuple[int, int, int], ...]  # (events in a thousand, lowest pence, highest pence), summing to 1000


# A group is replaced by number of events, not by time: so the share of flags hardly depends on the rate. Within one
# turn each of the 5 hot users makes 16 deposits on average; the first 5 find the velocity rule (more than 5 in 10 s)
# quiet. Measured with the shipped rules and 10,000 users: 0.29 flags an event at 30 to 300 events/s, 0.30 at 1,000.
MONEY_FLOW: Final = Profile(
    name="money-flow", hot=350, hot_users=5, hot_events=300, bands=((850, 100, 20_000), (150, 20_001, 100_000))
)
# 0.5 % above the threshold of 500.00, and nobody often enough for the other rules.
QUIET: Final = Profile(
    name="quiet", hot=0, hot_users=1, hot_events=300,
    bands=((850, 100, 20_000), (145, 20_001, 50_000), (5, 50_001, 100_000)),
)  # fmt: skip
PROFILES: Final = {profile.name: profile for profile in (MONEY_FLOW, QUIET)}

_DEPOSITS: Final = _share(750)
_REQUESTS: Final = _share(900)


def iso_time(micros: int) -> str:
    """Return `micros` (since 1970, UTC) the way event times are written: 2026-03-09T12:36:24.201822+00:00."""
    return f"{_second_text(micros // _SECOND_US)}.{micros % _SECOND_US:06d}+00:00"


def number_of(event_id: str) -> int | None:
    """Return the event number that an id carries, or None where it is not even of this generator's form.

    The number counts only if `MoneyFlowGenerator.event_id` of it gives the same id.
    """
    if _ID_FORM.fullmatch(event_id) is None:
        return None
    known = event_id[:8] + event_id[9:13] + event_id[15:17] + "0" + event_id[17]  # h14 stands where the number is 0
    hidden = int("0" + event_id[20:23] + event_id[24:], 16)
    return hidden ^ int.from_bytes(bytes.fromhex(known), "little")


def may_be_own(part: bytes) -> bool:
    """Say whether `part`, the unterminated end of a file, can be what is left of a line of this generator.

    A page that never reached the disk reads as zeros.
    """
    start = part[:29].rstrip(b"\0")
    return start.startswith(LINE_PREFIX[: len(start)]) and start[28:] in {b"", b"8"}


class _TailEvent(msgspec.Struct):
    event_id: str
    event_time: dt.datetime
    ingest_time: dt.datetime | None = None


_TAIL_DECODER: Final = msgspec.json.Decoder(_TailEvent)


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What the end of a file says about the events written so far; None where it says nothing.

    `number` is the highest number of an own event, `micros` the latest plausible event time since 1970.
    """

    number: int | None
    micros: int | None


def last_event(tail: bytes, generator: MoneyFlowGenerator) -> LastEvent:
    """Read the last event off `tail`, the last lines of a file of any origin.

    Duplicates, late events and invalid lines may stand at the very end, so all of `tail` counts. A time after its own
    `ingest_time` is one of the made-up faults and would drag everything after it along.
    """
    number: int | None = None
    micros: int | None = None
    for line in tail.split(b"\n"):
        try:
            event = _TAIL_DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        own = number_of(event.event_id)
        if own is not None and (number is None or own > number) and generator.event_id(own) == event.event_id:
            number = own
        if event.event_time.tzinfo is None:
            continue
        seen = event.ingest_time
        if seen is None or (seen.tzinfo is not None and event.event_time <= seen):
            micros = max(micros or 0, (event.event_time - _EPOCH) // dt.timedelta(microseconds=1))
    return LastEvent(number, micros)


class MoneyFlowGenerator:
    """The events of one seed. Holds nothing but caches."""

    __slots__ = ("_block_index", "_bounds", "_draws", "_group", "_group_index", "_ids", "profile", "seed", "users")

    def __init__(self, seed: int, users: int, profile: Profile = MONEY_FLOW) -> None:
        """`users` is the number of user ids, user_00000 first. Raises ValueError for a number outside 1 to 10^9."""
        if not 1 <= users <= MAX_USERS:
            raise ValueError(f"users must be 1 to {MAX_USERS}, not {users}")
        self.seed = seed
        self.users = users
        self.profile = profile
        self._draws: list[tuple[int, ...]] = []
        self._ids = ""
        self._block_index = -1
        self._group: list[str] = []
        self._group_index = -1
        bounds: list[tuple[int, int, int]] = []
        upto = 0
        for per_mille, low, high in profile.bands:
            upto += per_mille
            bounds.append((_share(upto), low, high - low + 1))
        self._bounds = tuple(bounds)

    def event_id(self, number: int) -> str:
        """Return the id of event `number`."""
        self._enter_block(number // BLOCK_EVENTS)
        at = number % BLOCK_EVENTS * _ID_CHARS
        return self._ids[at : at + _ID_CHARS]

    def lines(self, first: int, times: Sequence[int]) -> list[str]:
        """Return the lines of events `first`, `first` + 1, …, one for each of `times` (microseconds since 1970)."""
        result: list[str] = []
        done = 0
        while done < len(times):
            number = first + done
            upto = done + BLOCK_EVENTS - number % BLOCK_EVENTS
            self._add_lines(result, number, times[done:upto])
            done = upto
        return result

    def _add_lines(self, result: list[str], first: int, times: Sequence[int]) -> None:
        """Add the lines of events that lie in one block."""
        add = result.append
        hot_share, hot_count, hot_events = _share(self.profile.hot), self.profile.hot_users, self.profile.hot_events
        users, bounds = self.users, self._bounds
        second_text, second = "", -1
        self._enter_block(first // BLOCK_EVENTS)
        ids, at = self._ids, first % BLOCK_EVENTS * _ID_CHARS
        for number, micros, (hot, who, kind, band, money, way) in zip(
            range(first, first + len(times)), times, self._draws[first % BLOCK_EVENTS :], strict=False
        ):
            event_id = ids[at : at + _ID_CHARS]
            at += _ID_CHARS
            if hot < hot_share:
                user = self._hot_users(number // hot_events)[who * hot_count >> 32]
            else:
                user = f"{who * users >> 32:05d}"
            if kind < _DEPOSITS:
                event_type = "deposit_completed"
            elif kind < _REQUESTS:
                event_type = "withdrawal_requested"
            else:
                event_type = "withdrawal_completed"
            pence = 0
            for bound, low, width in bounds:
                if band < bound:
                    pence = low + (money * width >> 32)
                    break
            if micros // _SECOND_US != second:
                second = micros // _SECOND_US
                second_text = _second_text(second)
            time = f"{second_text}.{micros % _SECOND_US:06d}+00:00"
            add(
                f'{{"event_id": "{event_id}", "user_id": "user_{user}", "event_time": "{time}", '
                f'"ingest_time": "{time}", "event_type": "{event_type}", "amount": {pence // 100}{_PENCE[pence % 100]}'
                f', "currency": "GBP", "channel": "{CHANNELS[way * 3 >> 32]}"}}\n'
            )

    def _enter_block(self, block: int) -> None:
        if block == self._block_index:
            return
        data = draw_bytes("money-flow", self.seed, block, BLOCK_EVENTS * (_ID_BYTES + _DRAWS.size))
        split = BLOCK_EVENTS * _ID_BYTES
        self._ids = _id_texts(data[:split], block * BLOCK_EVENTS)
        self._draws = list(_DRAWS.iter_unpack(data[split:]))
        self._block_index = block

    def _hot_users(self, turn: int) -> list[str]:
        if turn != self._group_index:
            data = draw_bytes("hot-users", self.seed, turn, self.profile.hot_users * _SLOT.size)
            self._group = [f"{who * self.users >> 32:05d}" for (who,) in _SLOT.iter_unpack(data)]
            self._group_index = turn
        return self._group


def draw_bytes(what: str, seed: int, block: int, length: int) -> bytes:
    """Return `length` bytes of the numbers for `what` in block `block` of `seed`."""
    # Not for security: a seeded simulation wants the same numbers everywhere.
    return hashlib.shake_128(f"tidewaiter:{what}:{seed}:{block}".encode(), usedforsecurity=False).digest(length)


def _id_texts(drawn: bytes, first: int) -> str:
    """Return the ids of a block, 36 characters each, filled column by column: 36 slices instead of 256 formats."""
    reverse = int.from_bytes(_BIG_IDS.pack(*_LITTLE_IDS.unpack(drawn)), "big")
    numbers = int.from_bytes(_BIG_IDS.pack(*range(first, first + BLOCK_EVENTS)), "big")
    digits = (drawn.hex().encode(), (reverse ^ numbers).to_bytes(len(drawn), "big").hex().encode())
    text = bytearray(b"-" * (BLOCK_EVENTS * _ID_CHARS))
    for column, digit in _ID_COLUMNS:
        text[column::_ID_CHARS] = digits[digit // 16][digit % 16 :: 16]
    text[14::_ID_CHARS] = b"8" * BLOCK_EVENTS
    text[19::_ID_CHARS] = digits[0][14::16].translate(_TO_VARIANT)
    return text.decode("ascii")


def _second_text(second: int) -> str:
    return (_EPOCH + dt.timedelta(seconds=second)).isoformat()[:19]
