"""Made-up records of health care, for tests, measurements and examples: patients and what follows from them.

Owns: the records, which meet the shipped contracts and refer to each other. Leaves writing them to a file to the
caller.

Everything is synthetic: identifiers are counted, NPIs begin with 2, as few real ones do, codes of CPT and
LOINC form are made up, values are drawn. The same seed and number give the same bytes, on every machine and version of
Python: chance is SHA-256 of the seed, what is drawn for, and a number.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Rows = list[dict[str, str]]
"""Records as texts by column; an absent value is the empty text."""
_FIRST_DAY: Final = dt.date(2026, 1, 1)
_DIAGNOSES: Final = ("E11.9", "I10", "J45.909", "M54.50", "F32.A", "N18.30", "Z00.00", "C50.911", "S72.001A", "U07.1")
_PCS: Final = ("0DTJ4ZZ", "0SR9019", "B020ZZZ", "5A1955Z", "XW033E5")
_SERVICES: Final = (("10001", 11750), ("10002", 48900), ("10003", 2845), ("J1815", 995), ("G0463", 12310), ("0001F", 0))
_TESTS: Final = (
    ("90001-1", "mg/dL", "70", "99", 400, 2600),
    ("90002-9", "g/dL", "12", "17.5", 70, 200),
    ("90003-7", "mg/dL", "0.6", "1.3", 3, 40),
    ("90004-5", "U/L", "", "45", 50, 1200),
    ("90005-2", "mL/min", "60", "", 100, 1300),
)
"""A test's code, unit, lower and upper limit, and the least and the greatest value in tenths."""
_LUHN_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


class _Chance:
    """Numbers that depend on the seed, what they are for, and how many were drawn before."""

    def __init__(self, seed: int, what: str) -> None:
        self._start = f"{seed}/{what}/"
        self._drawn = 0

    def below(self, limit: int) -> int:
        """Return a whole number from 0 up to but not including `limit`."""
        digest = hashlib.sha256(f"{self._start}{self._drawn}".encode()).digest()
        self._drawn += 1
        return int.from_bytes(digest[:8], "big") % limit

    def one_of(self, choices: Sequence[str]) -> str:
        """Return one of `choices`."""
        return choices[self.below(len(choices))]


def npi(number: int) -> str:
    """Return the made-up NPI with this number, 0 to 9999, its Luhn digit included."""
    digits = f"29999{number:04d}"
    total = 24  # the Luhn sum of 80840, which stands before every NPI
    for place, digit in enumerate(reversed(digits)):
        total += _LUHN_DOUBLED[int(digit)] if place % 2 == 0 else int(digit)
    return f"{digits}{-total % 10}"


def patients(seed: int, number: int) -> Rows:
    """Return `number` patients."""
    chance = _Chance(seed, "patient")
    rows = []
    for place in range(number):
        born = _FIRST_DAY - dt.timedelta(days=chance.below(33_000) + 1)
        died = born + dt.timedelta(days=chance.below((_FIRST_DAY - born).days)) if chance.below(20) == 0 else None
        rows.append(
            {
                "patient_id": f"P{place:07d}",
                "birth_date": born.isoformat(),
                "death_date": died.isoformat() if died else "",
                "sex": chance.one_of(("female", "male", "other", "unknown")),
                "postal_code": f"{chance.below(100_000):05d}" if chance.below(10) else "",
                "country": chance.one_of(("US", "CA", "MX")),
            }
        )
    return rows


def encounters(seed: int, number: int) -> Rows:
    """Return an encounter of each of `number` patients."""
    chance = _Chance(seed, "encounter")
    rows = []
    for place in range(number):
        kind = chance.one_of(("ambulatory", "emergency", "inpatient", "observation", "home", "virtual"))
        status = chance.one_of(("finished", "finished", "finished", "in_progress", "cancelled", "planned"))
        started = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=chance.below(300_000))
        ended = started + dt.timedelta(minutes=1 + chance.below(20_000)) if status == "finished" else None
        rows.append(
            {
                "encounter_id": f"E{place:07d}",
                "patient_id": f"P{place:07d}",
                "kind": kind,
                "status": status,
                "started_at": _time(started),
                "ended_at": _time(ended) if ended else "",
                "facility": f"F{chance.below(40):02d}",
                "attending_npi": npi(chance.below(10_000)) if kind == "inpatient" or chance.below(2) else "",
            }
        )
    return rows


def diagnoses(seed: int, number: int) -> Rows:
    """Return two diagnoses of each of `number` encounters."""
    chance = _Chance(seed, "diagnosis")
    return [
        {
            "encounter_id": f"E{place:07d}",
            "patient_id": f"P{place:07d}",
            "sequence": str(sequence),
            "kind": "principal" if sequence == 1 else "secondary",
            "code": chance.one_of(_DIAGNOSES),
            "recorded_on": _day(chance.below(200)),
            "present_on_admission": chance.one_of(("Y", "N", "U", "")),
        }
        for place in range(number)
        for sequence in (1, 2)
    ]


def procedures(seed: int, number: int) -> Rows:
    """Return a procedure of each of `number` encounters, in one of three code systems."""
    chance = _Chance(seed, "procedure")
    rows = []
    for place in range(number):
        system = chance.one_of(("ICD-10-PCS", "HCPCS", "CPT"))
        rows.append(
            {
                "encounter_id": f"E{place:07d}",
                "patient_id": f"P{place:07d}",
                "sequence": "1",
                "code_system": system,
                "icd10pcs_code": chance.one_of(_PCS) if system == "ICD-10-PCS" else "",
                "hcpcs_code": chance.one_of(("J1815", "G0463", "A0428")) if system == "HCPCS" else "",
                "cpt_code": chance.one_of(("10001", "10003", "0001F", "0001T")) if system == "CPT" else "",
                "modifier": "25" if system == "CPT" and chance.below(3) == 0 else "",
                "performed_on": _day(chance.below(200)),
                "units": str(1 + chance.below(9)),
            }
        )
    return rows


def laboratory_results(seed: int, number: int) -> Rows:
    """Return a laboratory result of each of `number` patients; its flag agrees with its range."""
    chance = _Chance(seed, "laboratory")
    rows = []
    for place in range(number):
        code, unit, low, high, least, most = _TESTS[chance.below(len(_TESTS))]
        tenths = least + chance.below(most - least)
        collected = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=chance.below(300_000))
        under = bool(low) and tenths < 10 * float(low)
        over = bool(high) and tenths > 10 * float(high)
        rows.append(
            {
                "result_id": f"R{place:07d}",
                "patient_id": f"P{place:07d}",
                "encounter_id": f"E{place:07d}" if chance.below(4) else "",
                "test_code": code,
                "collected_at": _time(collected),
                "resulted_at": _time(collected + dt.timedelta(minutes=30 + chance.below(2_000))),
                "status": chance.one_of(("final", "final", "preliminary", "corrected")),
                "value": f"{tenths // 10}.{tenths % 10}",
                "unit": unit,
                "reference_low": low,
                "reference_high": high,
                "abnormal_flag": "L" if under else "H" if over else "N",
            }
        )
    return rows


def claim_lines(seed: int, number: int) -> Rows:
    """Return one to four lines of each of `number` claims; a charge is units times price."""
    chance = _Chance(seed, "claim_line")
    rows = []
    for place in range(number):
        for line in range(1 + chance.below(4)):
            code, price = _SERVICES[chance.below(len(_SERVICES) - (line == 0))]
            units = 1 + chance.below(5)
            rows.append(
                {
                    "claim_id": f"C{place:07d}",
                    "line_number": str(line + 1),
                    "service_date": _day(place % 150),
                    "procedure_code": code,
                    "diagnosis_code": chance.one_of(_DIAGNOSES),
                    "rendering_npi": npi(chance.below(10_000)) if chance.below(3) else "",
                    "units": str(units),
                    "unit_price": _amount(price),
                    "charge": _amount(units * price),
                }
            )
    return rows


def claims(seed: int, number: int) -> Rows:
    """Return `number` claims whose totals are those of `claim_lines` of the same seed and number."""
    chance = _Chance(seed, "claim")
    totals: dict[str, int] = {}
    for line in claim_lines(seed, number):
        totals[line["claim_id"]] = totals.get(line["claim_id"], 0) + int(line["charge"].replace(".", ""))
    rows = []
    for place, (claim, total) in enumerate(totals.items()):
        status = chance.one_of(("paid", "paid", "submitted", "denied"))
        allowed = total - chance.below(total // 2 + 1)
        share = chance.below(allowed + 1)
        paid = status == "paid"
        rows.append(
            {
                "claim_id": claim,
                "patient_id": f"P{place:07d}",
                "kind": chance.one_of(("professional", "institutional")),
                "status": status,
                "billing_npi": npi(chance.below(10_000)),
                "service_from": _day(place % 150),
                "service_to": _day(place % 150 + chance.below(5)),
                "submitted_on": _day(place % 150 + 5 + chance.below(20)),
                "paid_on": _day(place % 150 + 30 + chance.below(60)) if paid else "",
                "denial_reason": chance.one_of(("not covered", "no referral")) if status == "denied" else "",
                "total_charge": _amount(total),
                "allowed": _amount(allowed) if paid else "",
                "adjustment": _amount(total - allowed) if paid else "",
                "paid": _amount(allowed - share) if paid else "",
                "patient_share": _amount(share) if paid else "",
            }
        )
    return rows


SAMPLES: Final[dict[str, Callable[[int, int], Rows]]] = {
    "patient": patients,
    "encounter": encounters,
    "diagnosis": diagnoses,
    "procedure": procedures,
    "laboratory_result": laboratory_results,
    "claim": claims,
    "claim_line": claim_lines,
}
"""What makes the records of each shipped contract, from a seed and a number."""


def as_csv(rows: Rows) -> bytes:
    """Return `rows`, at least one, as CSV with a header; no value of theirs needs quotes."""
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def _amount(minor_units: int) -> str:
    return f"{minor_units // 100}.{minor_units % 100:02d}"


def _day(number: int) -> str:
    return (_FIRST_DAY + dt.timedelta(days=number)).isoformat()


def _time(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
