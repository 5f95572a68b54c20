"""The forms that codes of medicine and payments have: what a contract's ``check = "…"`` may name.

Owns: their names and, where the form is one that a pattern can say, the pattern. Leaves to `pipelines.contract_checks`
the sums of digits. Only the form is looked at, never whether a code is in force: that takes a list of the year, which a
contract names with ``list = "…"``.

ICD-10-CM: a letter, a digit, a digit or A or B, then up to four more characters, with or without the point after the
third. ICD-10-PCS: seven characters, no I and no O, the first one a section. HCPCS level II: a letter from A to V and
four digits. CPT: four digits and a digit, or the letter of its category (A, F, M, T, U). NPI: ten digits, the first 1
or 2, the last the Luhn digit of 80840 and the nine before it (45 CFR 162.406, ISO/IEC 7812).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class CodeForm(NamedTuple):
    """What a text must be, in words, and the pattern of it; `luhn` is the prefix of its Luhn sum, None for no sum."""

    words: str
    pattern: str
    luhn: str | None = None


CODE_FORMS: Final[dict[str, CodeForm]] = {
    "luhn": CodeForm("a number of 2 to 19 digits whose last digit is its Luhn digit", "^[0-9]{2,19}$", ""),
    "npi_luhn": CodeForm("an NPI: 10 digits, the last one its Luhn digit", "^[12][0-9]{9}$", "80840"),
    "icd10cm": CodeForm("a code of ICD-10-CM form, such as E11.9", r"^[A-Z][0-9][0-9AB](?:\.?[0-9A-Z]{1,4})?$"),
    "icd10pcs": CodeForm("a code of ICD-10-PCS form, such as 0DTJ4ZZ", "^[0-9BCDFGHX][0-9A-HJ-NP-Z]{6}$"),
    "hcpcs": CodeForm("a code of HCPCS level II form, such as J1815", "^[A-V][0-9]{4}$"),
    "cpt": CodeForm("a code of CPT form: five digits, or four and A, F, M, T or U", "^[0-9]{4}[0-9AFMTU]$"),
}
