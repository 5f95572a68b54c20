"""The shipped contracts of pipelines: what is good passes; each rule refuses what breaks it, row and column named."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import pytest

from table_contracts import CONTRACTS, frame_of, shipped, shipped_validator
from tidewaiter.core.contract import json_schema
from tidewaiter.core.pipelines.samples import SAMPLES, as_csv, claim_lines, claims, laboratory_results, npi

PATIENT: Final = {
    "patient_id": "P1", "birth_date": "1950-06-01", "death_date": "", "sex": "female", "postal_code": "",
    "country": "US",
}  # fmt: skip
ENCOUNTER: Final = {
    "encounter_id": "E1", "patient_id": "P1", "kind": "inpatient", "status": "finished",
    "started_at": "2026-01-01T08:00:00Z", "ended_at": "2026-01-03T12:00:00+01:00", "facility": "F1",
    "attending_npi": npi(1),
}  # fmt: skip
DIAGNOSIS: Final = {
    "encounter_id": "E1", "patient_id": "P1", "sequence": "1", "kind": "principal", "code": "E11.9",
    "recorded_on": "2026-01-02", "present_on_admission": "Y",
}  # fmt: skip
PROCEDURE: Final = {
    "encounter_id": "E1", "patient_id": "P1", "sequence": "1", "code_system": "CPT", "icd10pcs_code": "",
    "hcpcs_code": "", "cpt_code": "10001", "modifier": "25", "performed_on": "2026-01-02", "units": "1",
}  # fmt: skip
RESULT: Final = {
    "result_id": "R1", "patient_id": "P1", "encounter_id": "", "test_code": "90001-1",
    "collected_at": "2026-01-02T08:00:00Z", "resulted_at": "2026-01-02T10:00:00Z", "status": "final", "value": "80",
    "unit": "mg/dL", "reference_low": "70", "reference_high": "99", "abnormal_flag": "N",
}  # fmt: skip
CLAIM: Final = {
    "claim_id": "C1", "patient_id": "P1", "kind": "professional", "status": "paid", "billing_npi": npi(2),
    "service_from": "2026-01-01", "service_to": "2026-01-02", "submitted_on": "2026-01-05", "paid_on": "2026-02-01",
    "denial_reason": "", "total_charge": "100.00", "allowed": "80.00", "adjustment": "20.00", "paid": "60.00",
    "patient_share": "20.00",
}  # fmt: skip
LINE: Final = {
    "claim_id": "C1", "line_number": "1", "service_date": "2026-01-01", "procedure_code": "10001",
    "diagnosis_code": "E119", "rendering_npi": "", "units": "3", "unit_price": "33.34", "charge": "100.02",
}  # fmt: skip
TRANSFER: Final = {
    "transfer_id": "T1", "account": "A1", "customer": "C1", "booked_at": "2026-01-01T00:00:00Z",
    "received_at": "2026-01-01T00:00:01Z", "direction": "in", "amount": "12.5", "currency": "EUR", "counterparty": "",
    "country": "XA", "channel": "wire",
}  # fmt: skip
FLOW: Final = {
    "event_id": "e1", "user_id": "u1", "event_time": "2026-01-01T00:00:00Z", "ingest_time": "2026-01-01T00:00:01Z",
    "event_type": "deposit_completed", "amount": "0.01", "currency": "GBP", "channel": "web",
}  # fmt: skip
GOOD: Final[dict[str, dict[str, str]]] = {
    "patient": PATIENT, "encounter": ENCOUNTER, "diagnosis": DIAGNOSIS, "procedure": PROCEDURE,
    "laboratory_result": RESULT, "claim": CLAIM, "claim_line": LINE, "account_transfers": TRANSFER, "money_flow": FLOW,
}  # fmt: skip
DIGEST: Final = "d4383d39f0be5f16ad9daa2f4769820a5ee8a13b741a101ccbe874e5f5263f85"
NOT_NPI: Final = npi(1)[:-1] + str((int(npi(1)[-1]) + 1) % 10)

# contract, what is changed, the column that is named (None: several are involved), words of the problem
BAD: Final[list[tuple[str, dict[str, str], str | None, str]]] = [
    ("patient", {"patient_id": ""}, "patient_id", "is missing"),
    ("patient", {"patient_id": "  "}, "patient_id", "only white space"),
    ("patient", {"birth_date": "01/06/1950"}, "birth_date", "YYYY-MM-DD"),
    ("patient", {"birth_date": "1850-06-01"}, "birth_date", "at least 1880-01-01"),
    ("patient", {"sex": "F"}, "sex", "female, male, other, unknown"),
    ("patient", {"country": "usa"}, "country", "does not have the form [A-Z]{2}"),
    ("patient", {"postal_code": "1"}, "postal_code", "2 to 10 characters"),
    ("patient", {"death_date": "1950-05-31"}, None, "death_after_birth: nobody dies before birth"),
    ("encounter", {"attending_npi": NOT_NPI}, "attending_npi", "is not an NPI"),
    ("encounter", {"attending_npi": ""}, "attending_npi", "is missing, and required when kind == 'inpatient'"),
    ("encounter", {"ended_at": ""}, "ended_at", "is missing, and required when status == 'finished'"),
    ("encounter", {"ended_at": "2026-01-03 12:00:00"}, "ended_at", "RFC 3339"),
    ("encounter", {"ended_at": "2025-12-31T23:00:00Z"}, None, "ends_after_start"),
    ("encounter", {"status": "in_progress"}, None, "ended_if_over"),
    ("diagnosis", {"code": "11.9"}, "code", "ICD-10-CM form"),
    ("diagnosis", {"code": "E11.90123"}, "code", "ICD-10-CM form"),
    ("diagnosis", {"sequence": "0"}, "sequence", "at least 1 and at most 99"),
    ("diagnosis", {"sequence": "2"}, None, "principal_first"),
    ("procedure", {"cpt_code": "1000"}, "cpt_code", "CPT form"),
    ("procedure", {"code_system": "HCPCS", "cpt_code": "", "hcpcs_code": "W1234"}, "hcpcs_code", "HCPCS level II form"),
    (
        "procedure",
        {"code_system": "ICD-10-PCS", "cpt_code": "", "modifier": "", "icd10pcs_code": "0DTJ4ZO"},
        "icd10pcs_code",
        "ICD-10-PCS form",
    ),
    ("procedure", {"cpt_code": ""}, "cpt_code", "required when code_system == 'CPT'"),
    ("procedure", {"hcpcs_code": "J1815"}, None, "one_code"),
    ("procedure", {"modifier": "2"}, "modifier", "does not have the form"),
    (
        "procedure",
        {"code_system": "ICD-10-PCS", "cpt_code": "", "icd10pcs_code": "0DTJ4ZZ"},
        None,
        "ICD-10-PCS has no modifiers",
    ),
    ("procedure", {"units": "1.5"}, "units", "not an integer"),
    ("laboratory_result", {"value": "80.00001"}, "value", "at most 4 decimals"),
    ("laboratory_result", {"value": ""}, "value", "required when status != 'cancelled'"),
    ("laboratory_result", {"unit": "mg/dl"}, "unit", "is not in ../lists/laboratory_units.csv"),
    ("laboratory_result", {"test_code": "GLU"}, "test_code", "does not have the form"),
    ("laboratory_result", {"resulted_at": "2026-01-02T07:00:00Z"}, None, "resulted_after_collected"),
    ("laboratory_result", {"reference_low": "100"}, None, "reference_range"),
    ("laboratory_result", {"abnormal_flag": ""}, "abnormal_flag", "is missing, and required when"),
    ("laboratory_result", {"value": "99.0001"}, None, "flag_normal"),
    ("laboratory_result", {"value": "69.9", "reference_high": ""}, None, "flag_normal"),
    ("laboratory_result", {"abnormal_flag": "L"}, None, "flag_low"),
    ("laboratory_result", {"abnormal_flag": "L", "reference_low": ""}, None, "flag_low"),
    ("laboratory_result", {"abnormal_flag": "H"}, None, "flag_high"),
    ("claim", {"billing_npi": "0123456789"}, "billing_npi", "is not an NPI"),
    ("claim", {"paid_on": ""}, "paid_on", "required when status == 'paid'"),
    ("claim", {"total_charge": "0.00"}, "total_charge", "above 0"),
    ("claim", {"paid": "-1.00", "patient_share": "81.00"}, "paid", "at least 0"),
    ("claim", {"total_charge": "100.01"}, None, "charge_adds_up: what was charged is allowed or adjusted"),
    ("claim", {"paid": "60.01"}, None, "allowed_adds_up"),
    ("claim", {"service_to": "2025-12-31"}, None, "service_dates"),
    ("claim", {"submitted_on": "2025-12-31"}, None, "submitted_after_service"),
    ("claim", {"paid_on": "2026-01-04"}, None, "paid_after_submitted"),
    ("claim", {"status": "denied"}, "denial_reason", "required when status == 'denied'"),
    ("claim", {"status": "submitted"}, None, "nothing_paid"),
    ("claim_line", {"charge": "100.00"}, None, "charge_of_line: a line's charge is units times price"),
    ("claim_line", {"units": "0"}, "units", "at least 1"),
    ("claim_line", {"procedure_code": "W1234"}, "procedure_code", "does not have the form"),
    ("claim_line", {"rendering_npi": NOT_NPI}, "rendering_npi", "is not an NPI"),
    ("account_transfers", {"amount": "0"}, "amount", "above 0"),
    ("account_transfers", {"channel": "pigeon"}, "channel", "allowed values"),
    ("account_transfers", {"country": "XAB"}, "country", "2 to 2 characters"),
    ("account_transfers", {"account": " "}, "account", "only white space"),
    ("account_transfers", {"booked_at": "0999-01-01T00:00:00Z"}, "booked_at", "years 1000 to 8999"),
    ("money_flow", {"amount": "1000000.01"}, "amount", "at most 1000000.00"),
    ("money_flow", {"amount": "1.001"}, "amount", "at most 2 decimals"),
    ("money_flow", {"currency": "EUR"}, "currency", "allowed values: GBP"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_record_of_each_shipped_contract_passes(name: str) -> None:
    """The record that the bad ones differ from in one thing meets its contract."""
    batch = shipped_validator(name, tuple(GOOD[name])).check(frame_of([GOOD[name]]))
    assert batch.rejected == ()
    assert batch.frame.height == 1


@pytest.mark.parametrize(
    ("name", "change", "column", "problem"), BAD, ids=[f"{name}-{'-'.join(change)}" for name, change, _, _ in BAD]
)
def test_each_rule_of_a_shipped_contract_refuses_what_breaks_it(
    name: str, change: dict[str, str], column: str | None, problem: str
) -> None:
    """One changed record between two good ones is rejected with its row, its column and the rule; the others pass."""
    good = GOOD[name]
    bad = good | change
    batch = shipped_validator(name, tuple(good)).check(frame_of([good, bad, good]))
    (rejected,) = batch.rejected
    assert (rejected.row, rejected.column, rejected.step) == (2, column, "validate")
    assert problem in rejected.problem
    assert rejected.value == (None if column is None else bad[column] or None)
    assert rejected.record == {key: value or None for key, value in bad.items()}
    assert batch.frame["__row"].to_list() == [1, 3]


def test_every_check_and_condition_of_the_shipped_contracts_is_broken_above() -> None:
    """No cross-field rule is shipped that no bad record shows at work."""
    told = {problem for name, _, _, problem in BAD}
    titles = {problem.partition(":")[0] for problem in told}
    for name in GOOD:
        for check in shipped(name).checks:
            assert check.name in titles or check.title in told, f"{name}: {check.name}"


@pytest.mark.parametrize("name", SAMPLES)
def test_made_up_records_meet_their_contract(name: str) -> None:
    """What the generator makes from any seed is accepted whole."""
    for seed in (1, 2, 3):
        rows = SAMPLES[name](seed, 200)
        batch = shipped_validator(name, tuple(rows[0])).check(frame_of(rows))
        assert batch.rejected == ()
        assert batch.frame.height == len(rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    """Samples do not depend on hash seeds, machines or what was made before: their digest is written down."""
    made = {name: as_csv(make(7, 50)) for name, make in SAMPLES.items()}
    assert made == {name: as_csv(make(7, 50)) for name, make in SAMPLES.items()}
    assert all(as_csv(make(8, 50)) != made[name] for name, make in SAMPLES.items())
    assert hashlib.sha256(b"".join(made.values())).hexdigest() == DIGEST


def test_samples_cover_what_the_contracts_distinguish() -> None:
    """Flags of all three kinds, and claims of every status: a sample exercises the rules."""
    assert {row["abnormal_flag"] for row in laboratory_results(1, 300)} == {"N", "L", "H"}
    assert {row["status"] for row in claims(1, 300)} == {"paid", "submitted", "denied"}


def test_the_lines_of_made_up_claims_add_up_to_the_claims() -> None:
    """Total charges are the sums of the lines, in cents."""
    totals: dict[str, int] = {}
    for line in claim_lines(3, 100):
        totals[line["claim_id"]] = totals.get(line["claim_id"], 0) + cents(line["charge"])
    assert totals == {row["claim_id"]: cents(row["total_charge"]) for row in claims(3, 100)}


def test_npis_of_samples_have_the_luhn_digit_of_the_standard() -> None:
    """The digit is that of 80840 and the nine before it; 1234567893 is the standard's own example."""
    assert luhn_holds("808401234567893")
    assert all(luhn_holds("80840" + npi(number)) for number in range(0, 10_000, 97))


@pytest.mark.parametrize("name", GOOD)
def test_a_shipped_contract_tells_its_json_schema(name: str) -> None:
    """Every field is a property, the required ones are required, and the whole is JSON."""
    schema: dict[str, Any] = json.loads(json.dumps(json_schema(shipped(name))))
    fields = shipped(name).fields
    assert list(schema["properties"]) == [field.source for field in fields]
    assert schema["required"] == [field.source for field in fields if field.required]
    assert schema["additionalProperties"] is False


def test_every_shipped_contract_is_tested_here() -> None:
    """A contract that is added without a good and bad records fails."""
    assert {path.stem for path in CONTRACTS.glob("*.toml")} == set(GOOD) == {name for name, *_ in BAD}


def cents(amount: str) -> int:
    """Return an amount of two decimals in cents."""
    whole, _, rest = amount.partition(".")
    return 100 * int(whole) + int(rest)


def luhn_holds(digits: str) -> bool:
    """The check of ISO/IEC 7812, written out a second time."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
