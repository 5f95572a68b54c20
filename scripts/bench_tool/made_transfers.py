"""Account transfers at chosen times for chosen accounts, for measures that need neither a file nor a likeness to life.

Owns: rounds in which every account has one transfer, in an order that is mixed and the same in every round, so that
neighbours in time are not neighbours in memory. Leaves what real accounts look like to `tidewaiter generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from bench_tool.streams import START_US
from tidewaiter.core.money_flow_generator import iso_time

if TYPE_CHECKING:
    from collections.abc import Iterator

_STRIDE: Final = 611_953  # a prime: the accounts of a round are visited in steps of so many
_PARTIES: Final = 65_521  # a prime, too
_CHUNK: Final = 400  # about what the engine evaluates at a time


class Rounds(msgspec.Struct, frozen=True):
    """`events` transfers of `accounts` accounts in turn, `step_us` microseconds apart, from `start_us` on.

    Every second round is debits. `parties` is how many counterparties there are; `first` numbers the ids.
    Behind every `burst` rounds nothing happens for `pause_us`.
    """

    accounts: int
    events: int
    step_us: float
    start_us: int = START_US
    parties: int = 1000
    first: int = 0
    first_account: int = 0
    burst: int = 0
    pause_us: float = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the lines, some hundred at a time."""
        last = self.first + self.events
        for begin in range(self.first, last, _CHUNK):
            yield "".join([self._line(number) for number in range(begin, min(begin + _CHUNK, last))]).encode()

    def _line(self, number: int) -> str:
        account = self.first_account + number * _STRIDE % self.accounts
        pauses = number // self.accounts // self.burst if self.burst else 0
        time = iso_time(self.start_us + int(number * self.step_us + pauses * self.pause_us))
        direction = "out" if number // self.accounts % 2 else "in"
        party = number * _PARTIES // 7 % self.parties
        return (
            f'{{"transfer_id": "M{number:09d}", "account": "A{account:07d}", "customer": "C{account:07d}", '
            f'"booked_at": "{time}", "received_at": "{time}", "direction": "{direction}", '
            f'"amount": {1 + number * 7919 % 2999}.25, "currency": "EUR", "counterparty": "P{party:05d}", '
            f'"country": "NL", "channel": "online"}}\n'
        )

    def what(self) -> str:
        """Return what an answer says about this input."""
        bursts = (
            f", in bursts of {self.burst} rounds with {self.pause_us / 1e6:.6g} s between them" if self.burst else ""
        )
        return (
            f"{self.events} transfers of {self.accounts} accounts in mixed turns, {self.step_us:.6g} us apart{bursts}, "
            f"{self.parties} counterparties; made in the process itself"
        )
