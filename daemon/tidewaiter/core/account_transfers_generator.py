"""Made-up account transfers: what day d of a seed's world looks like, as text, and how to find d again from the text.

Owns: the ordinary life of the accounts, the ids and the exact text of a line, and going on after the end of a file.
Leaves to `core.account_transfer_patterns` what is unusual, and to `shell.generate_file` how lines get into a file.

Invariants:
- Day d is a function of (seed, accounts, profile, d) alone: its ordinary life of the numbers of d, its unusual legs of
  the patterns that began in the days before. So going on at day d costs one look back, whatever came before, and no
  hash seed, locale, time zone, Python version or machine can change a byte.
- Amounts are integer cents and times integer microseconds; no float takes part. Times never go back within the file.
- Lines are ASCII with one leg each, separators ", " and ": ", and end in one newline.

The numbers come from `money_flow_generator.draw_bytes` (SHAKE-128), read as little-endian integers of 32 bits; a draw x
becomes one of n values as ``x * n >> 32``. The world has months of 30 days and knows no weekends.

The accounts, by their number modulo 50: 7 is a cash business (below account 10,000; they are the customers of
config/lists/cash_businesses.txt), 3 a dormant one, 41 one that is opened while the stream runs, 11, 21 and 31 belong to
pensioners, all others to people with a salary. Account 5 k + 4 belongs to the customer of account 5 k + 3.

The id is ``T<day>-<index in the day>-<check>``; the check is 8 hex digits of the numbers, so that a line of another
seed, number of accounts or profile is not taken for an own one.
"""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections import defaultdict
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.account_transfer_patterns import (
    DAY_US,
    DORMANT_DAYS,
    KINDS,
    LONGEST_DAYS,
    PATTERN_BYTES,
    Leg,
    Profile,
    pattern_legs,
    waking_day,
    waking_legs,
)
from tidewaiter.core.money_flow_generator import draw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ACCOUNTS: Final = 1_000_000
TRANSFERS: Final = Profile(name="transfers", life=350, pattern_every=400)
# Every pattern twice within 220 days of ten accounts: small enough to read, and by no means ordinary.
TRANSFERS_DEMO: Final = Profile(name="transfers-demo", life=150, pattern_every=20)
TRANSFER_PROFILES: Final = {profile.name: profile for profile in (TRANSFERS, TRANSFERS_DEMO)}

SALARIED, PENSIONER, BUSINESS, DORMANT, NEWCOMER = range(5)
LAST_BUSINESS: Final = 10_000
_MONTH: Final = 30
_RESTING: Final = 3
_PERSONAS: Final = {7: BUSINESS, _RESTING: DORMANT, 41: NEWCOMER, 11: PENSIONER, 21: PENSIONER, 31: PENSIONER}
_LIFE: Final = struct.Struct("<IIIIIIII")  # account, kind, band, money, party, time of day, delay, place
_TRAITS: Final = struct.Struct("<IIII")  # salary, employer, payees, rent
_TRAIT_BLOCK: Final = 256
_HOME: Final = "NL"
_ABROAD: Final = ("BE", "DE", "FR", "ES", "IT", "AT", "PT", "NO", "GB", "US")
_ID_FORM: Final = re.compile("T([0-9]{5,})-([0-9]{6})-[0-9a-f]{8}", re.ASCII)
_CENTS: Final = tuple(f".{cents:02d}" for cents in range(100))
_MINUTES: Final = tuple(f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(24 * 60))
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND_US: Final = 1_000_000
_DAWN_US: Final = 6 * 3600 * _SECOND_US
_WAKING_US: Final = 16 * 3600 * _SECOND_US


def _below(per_mille: int) -> int:
    """Return the bound below which a 32-bit draw counts as one of `per_mille` in a thousand."""
    return 2**32 * per_mille // 1000


_5, _50, _100, _600, _700, _750, _850, _950 = map(_below, (5, 50, 100, 600, 700, 750, 850, 950))


class _TailEvent(msgspec.Struct):
    transfer_id: str
    booked_at: dt.datetime


_TAIL_DECODER: Final = msgspec.json.Decoder(_TailEvent)


class AccountTransfersGenerator:
    """The transfers of one seed. Holds nothing but caches."""

    __slots__ = ("_pending", "_pending_from", "_salted", "_traits", "accounts", "profile", "seed")

    def __init__(self, seed: int, accounts: int, profile: Profile = TRANSFERS) -> None:
        """Raise ValueError for a number of accounts outside 1 to MAX_ACCOUNTS."""
        if not 1 <= accounts <= MAX_ACCOUNTS:
            raise ValueError(f"accounts must be 1 to {MAX_ACCOUNTS}, not {accounts}")
        self.seed = seed
        self.accounts = accounts
        self.profile = profile
        self._salted = f"transfers-ids:{profile.name}:{accounts}"
        self._traits: dict[int, list[tuple[int, ...]]] = {}
        self._pending: defaultdict[int, list[Leg]] = defaultdict(list)
        self._pending_from = -1

    def persona(self, account: int) -> int:
        """Return what kind of life the account leads."""
        kind = _PERSONAS.get(account % 50, SALARIED)
        return SALARIED if kind == BUSINESS and account >= LAST_BUSINESS else kind

    def legs(self, day: int) -> list[Leg]:
        """Return the legs of a day in order of time, counted in microseconds from the day's beginning."""
        legs = [*self._monthly(day), *self._daily(day), *self._unusual(day)]
        legs.sort(key=itemgetter(0))
        return legs

    def lines(self, day: int, start_us: int) -> list[str]:
        """Return the lines of a day; `start_us` is when day 0 began, in microseconds since 1970.

        Raises ValueError where the day lies after the year 9999.
        """
        legs = self.legs(day)
        midnight = start_us + day * DAY_US
        try:
            return [
                _line(transfer_id, leg, midnight)
                for transfer_id, leg in zip(self._ids(day, len(legs)), legs, strict=True)
            ]
        except OverflowError as error:
            raise ValueError(f"day {day} lies after the year 9999") from error

    def _ids(self, day: int, count: int) -> list[str]:
        checks = draw_bytes(self._salted, self.seed, day, 4 * count).hex()
        return [f"T{day:05d}-{index:06d}-{checks[8 * index : 8 * index + 8]}" for index in range(count)]

    def last_own(self, tail: bytes) -> tuple[int, int, int] | None:
        """Return day, index and the start of day 0 (microseconds since 1970) by the last own line in `tail`."""
        for line in reversed(tail.split(b"\n")):
            try:
                event = _TAIL_DECODER.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            form = _ID_FORM.fullmatch(event.transfer_id)
            if form is None or event.booked_at.tzinfo is None:
                continue
            day, index = int(form[1]), int(form[2])
            if self._ids(day, index + 1)[index] != event.transfer_id:
                continue
            legs = self.legs(day)
            if index < len(legs):
                micros = (event.booked_at - _EPOCH) // dt.timedelta(microseconds=1)
                return day, index, micros - legs[index][0] - day * DAY_US
        return None

    # -- ordinary life -------------------------------------------------------------------------------------------------

    def _monthly(self, day: int) -> Iterator[Leg]:
        """Salaries and pensions on the account's own day of the month, rents and wages three days later."""
        for account in range(day % _MONTH, self.accounts, _MONTH):
            persona = self.persona(account)
            salary, employer, _, _ = self._trait(account)
            if persona in {SALARIED, PENSIONER} or (persona == NEWCOMER and day >= self.opening_day(account)):
                cents = (180_000 if persona != PENSIONER else 95_000) + (salary * 240_000 >> 32)
                yield self._at_night(account, salary, "in", cents, f"E{employer * 5000 >> 32:06d}")
            elif persona == BUSINESS:
                for worker in range(3 + (employer * 4 >> 32)):
                    wage = 140_000 + ((salary + worker * 715_827_883 & 0xFFFFFFFF) * 90_000 >> 32)
                    yield self._at_night(account, salary + worker * 977, "out", wage, f"W{account:06d}{worker}")
        for account in range((day - 3) % _MONTH, self.accounts, _MONTH):
            persona = self.persona(account)
            if persona in {SALARIED, PENSIONER} or (persona == NEWCOMER and day >= self.opening_day(account)):
                _, _, landlord, rent = self._trait(account)
                cents = 45_000 + (rent * 95_000 >> 32)
                yield self._at_night(account, rent, "out", cents, f"L{landlord * 40_000 >> 32:06d}")
        if day < DORMANT_DAYS:  # the last movement of those who then rest
            for account in range(_RESTING + 50 * day, self.accounts, 50 * DORMANT_DAYS):
                yield (
                    _DAWN_US,
                    account,
                    "out",
                    2_000 + account % 977,
                    f"M{account % 8000:05d}",
                    _HOME,
                    "card",
                    900_000,
                )

    @staticmethod
    def _at_night(account: int, draw: int, direction: str, cents: int, party: str) -> Leg:
        micros = 3600 * _SECOND_US + ((draw & 0xFFFFFFFF) * 4 * 3600 * _SECOND_US >> 32)
        return (micros, account, direction, cents, party, _HOME, "online", 400_000)

    def _daily(self, day: int) -> Iterator[Leg]:
        """Everything that people do when they feel like it."""
        count = self._life_until(day + 1) - self._life_until(day)
        data = draw_bytes("transfers-life", self.seed, day, count * _LIFE.size)
        accounts = self.accounts
        for who, kind, band, money, party, clock, delay, place in _LIFE.iter_unpack(data):
            account = who * accounts >> 32
            persona = self.persona(account)
            if persona == DORMANT or (persona == NEWCOMER and day < self.opening_day(account)):
                continue
            direction, channel, country, other = "out", "online", _HOME, ""
            if persona == BUSINESS:
                if kind < _600:
                    direction, channel = "in", "cash"
                    cents = 20_000 + (money * 230_000 >> 32) if band < _950 else 500_000 + (money * 250_000 >> 32)
                elif kind < _750:
                    direction, other = "in", f"Q{account % 7:05d}"  # whoever settles the cards of its customers
                    cents = 10_000 + (money * 140_000 >> 32)
                else:
                    cents = 15_000 + (money * 265_000 >> 32)
                    other = f"S{(account * 13 + (party * 12 >> 32)) % 9000:05d}"
            elif kind < _700:
                channel, other = "card", f"M{party * 8000 >> 32:05d}"
                cents = 300 + (money * (11_700 if band < _950 else 44_700) >> 32)
                if place < _100:
                    country = _ABROAD[(place * 2654435761 & 0xFFFFFFFF) * len(_ABROAD) >> 32]
            elif kind < _850:
                channel = "cash"
                cents = 2_000 + 1_000 * (money * 19 >> 32)
            elif kind < _950:
                payees = self._trait(account)[2]
                other = f"N{(payees + 40_503 * (party * 5 >> 32)) % 10_000_000:07d}"
                if band < _5:  # a car, a kitchen
                    channel, cents = "wire", 400_000 + (money * 2_000_000 >> 32)
                elif band < _50:
                    channel, cents = "remittance", 5_000 + (money * 55_000 >> 32)
                    country = _ABROAD[place * len(_ABROAD) >> 32]
                else:
                    cents = 1_500 + (money * 58_500 >> 32)
            else:
                payees = self._trait(account)[2]
                direction, other = "in", f"N{(payees + 40_503 * (party * 8 >> 32)) % 10_000_000:07d}"
                cents = 500 + (money * 24_500 >> 32)
            yield (
                _DAWN_US + (clock * _WAKING_US >> 32),
                account,
                direction,
                cents,
                other,
                country,
                channel,
                200_000 + (delay * 2_800_000 >> 32),
            )

    def opening_day(self, account: int) -> int:
        """Return the day on which a newcomer's account is opened."""
        return 20 + account // 50 * 37 % 300

    def _life_until(self, day: int) -> int:
        return self.accounts * self.profile.life * day // 1000

    def _trait(self, account: int) -> tuple[int, ...]:
        block = self._traits.get(account // _TRAIT_BLOCK)
        if block is None:
            data = draw_bytes("transfers-accounts", self.seed, account // _TRAIT_BLOCK, _TRAIT_BLOCK * _TRAITS.size)
            block = self._traits[account // _TRAIT_BLOCK] = list(_TRAITS.iter_unpack(data))
        return block[account % _TRAIT_BLOCK]

    # -- what is unusual -----------------------------------------------------------------------------------------------

    def _unusual(self, day: int) -> list[Leg]:
        """Return the legs of this day that belong to a pattern, whenever it began."""
        if self._pending_from != day:  # not the day after the last one: look back as far as a pattern can reach
            self._pending.clear()
            for earlier in range(max(day - LONGEST_DAYS, 0), day):
                self._begin_patterns(earlier)
        self._begin_patterns(day)
        self._pending_from = day + 1
        for earlier in [earlier for earlier in self._pending if earlier < day]:
            del self._pending[earlier]
        return self._pending.pop(day, [])

    def _begin_patterns(self, day: int) -> None:
        every = self.profile.pattern_every
        legs: list[Leg] = []
        for number in range(self._life_until(day) // every, self._life_until(day + 1) // every):
            drawn = draw_bytes("transfers-pattern", self.seed, number, PATTERN_BYTES)
            fresh = self.accounts + number  # an account that nobody has seen
            legs += pattern_legs(self._kind(number), drawn, self._ordinary_account, fresh)
        for account in range(_RESTING, self.accounts, 50):
            if waking_day(account) == day:
                legs += waking_legs(account, draw_bytes("transfers-waking", self.seed, account, PATTERN_BYTES))
        for leg in legs:
            self._pending[day + leg[0] // DAY_US].append((leg[0] % DAY_US, *leg[1:]))

    def _kind(self, number: int) -> str:
        """Return the kind of a pattern: all of them in each round, in an order drawn for the round."""
        turn, place = divmod(number, len(KINDS))
        drawn = draw_bytes("transfers-round", self.seed, turn, 4 * len(KINDS))
        return sorted(KINDS, key=lambda kind: drawn[4 * KINDS.index(kind) :][:4])[place]

    def _ordinary_account(self, draw: int) -> int:
        account = draw * self.accounts >> 32
        for _ in range(50):
            if self.persona(account) == SALARIED:
                break
            account = (account + 1) % self.accounts
        return account


class TransferCursor:
    """A place in the lines of a generator: the beginning, or after the last own line of a file."""

    __slots__ = ("_day", "_done", "_generator", "_next", "_start_us", "_waiting", "first_day")

    def __init__(self, generator: AccountTransfersGenerator, start_us: int, tail: bytes = b"") -> None:
        """Go on after `tail`, the last lines of a file of any origin; times never go back.

        Day 0 begins at `start_us` (microseconds since 1970), or later where the file says so.
        """
        self._generator = generator
        last = generator.last_own(tail)
        if last is not None:
            day, index, began = last
            self._start_us = max(start_us, began)
        else:
            day, index = 0, -1
            self._start_us = max(start_us, latest_time(tail))
        self.first_day = day
        self._day, self._next = day - 1, 0
        self._waiting: list[str] = []
        self._done = index + 1

    def take(self, count: int) -> list[str]:
        """Return the next `count` lines. Raises ValueError where they lie after the year 9999."""
        result: list[str] = []
        while len(result) < count:
            if self._next >= len(self._waiting):
                self._day += 1
                self._waiting = self._generator.lines(self._day, self._start_us)
                self._next, self._done = self._done, 0
                continue
            taken = self._waiting[self._next : self._next + count - len(result)]
            self._next += len(taken)
            result += taken
        return result


def latest_time(tail: bytes) -> int:
    """Return the latest `booked_at` in `tail`, in microseconds since 1970, and 0 where there is none."""
    latest = 0
    for line in tail.split(b"\n"):
        try:
            booked = _TAIL_DECODER.decode(line).booked_at
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if booked.tzinfo is not None:
            latest = max(latest, (booked - _EPOCH) // dt.timedelta(microseconds=1))
    return latest


def customer(account: int) -> str:
    """Return who holds the account: some have two."""
    return f"C{account - (account % 5 == 4):06d}"  # noqa: PLR2004 - account 5 k + 4 belongs to the customer before


def _line(transfer_id: str, leg: Leg, midnight: int) -> str:
    micros, account, direction, cents, party, country, channel, delay = leg
    booked = midnight + micros
    other = f'"counterparty": "{party}", ' if party else ""
    return (
        f'{{"transfer_id": "{transfer_id}", "account": "A{account:06d}", "customer": "{customer(account)}", '
        f'"booked_at": "{_time_text(booked)}", "received_at": "{_time_text(booked + delay)}", '
        f'"direction": "{direction}", "amount": {cents // 100}{_CENTS[cents % 100]}, "currency": "EUR", '
        f'{other}"country": "{country}", "channel": "{channel}"}}\n'
    )


def _time_text(micros: int) -> str:
    day, rest = divmod(micros, DAY_US)
    minute, rest = divmod(rest, 60 * _SECOND_US)
    return f"{_date_text(day)}T{_MINUTES[minute]}:{rest // _SECOND_US:02d}.{rest % _SECOND_US:06d}+00:00"


@lru_cache(maxsize=64)
def _date_text(day: int) -> str:
    return (_EPOCH + dt.timedelta(days=day)).date().isoformat()
