"""The lines of a claim add up to the claim: the pipeline of the reference, over made-up claims and spoilt ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from support import REPOSITORY
from table_contracts import CONTRACTS
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.pipelines.samples import SAMPLES, as_csv, claim_lines, claims
from tidewaiter.core.pipelines.validation import Validator
from tidewaiter.pipeline import PipelineConfig, PipelineResult, run_pipeline

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE: Final = """\
pipeline = "claims_out_of_balance"
version = 1
contract = "contracts/claim_line.toml"

[input]
format = "csv"

[[step]]
aggregate = { by = ["claim_id"], lines_total = "sum(charge)" }
[[step]]
join = { file = "claims.csv", on = { claim_id = "claim_id" }, take = ["total_charge"], missing = "reject" }
[[step]]
cast = { total_charge = "decimal(2)" }
[[step]]
filter = "lines_total != total_charge"
"""
NUMBER: Final = 200


def run(folder: Path, lines: list[dict[str, str]], *, on_invalid: str = "halt") -> PipelineResult:
    """Run the pipeline over `lines`, with the made-up claims beside it."""
    (folder / "contracts").mkdir(exist_ok=True)
    (folder / "contracts" / "claim_line.toml").write_bytes((CONTRACTS / "claim_line.toml").read_bytes())
    (folder / "claims.csv").write_bytes(as_csv(claims(1, NUMBER)))
    (folder / "claim_lines.csv").write_bytes(as_csv(lines))
    (folder / "pipeline.toml").write_text(PIPELINE, encoding="utf-8")
    return run_pipeline(
        PipelineConfig(
            input_path=folder / "claim_lines.csv",
            output_path=folder / "out.csv",
            pipeline=folder / "pipeline.toml",
            on_invalid=on_invalid,
        )
    )


def test_claims_in_balance_give_an_empty_list_of_findings(tmp_path: Path) -> None:
    """Every claim's lines add up: nothing is left but the header."""
    result = run(tmp_path, claim_lines(1, NUMBER))
    assert result.success
    assert (tmp_path / "out.csv").read_text() == "claim_id,lines_total,total_charge\n"


def test_a_claim_whose_lines_do_not_add_up_is_named(tmp_path: Path) -> None:
    """A line whose charge was changed, units times price kept right, shows up by its claim."""
    lines = claim_lines(1, NUMBER)
    lines[7] |= {"units": "2", "unit_price": "0.01", "charge": "0.02"}
    result = run(tmp_path, lines)
    assert result.success
    found = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in found] == [lines[7]["claim_id"]]


def test_a_line_that_breaks_its_contract_halts_or_is_set_aside(tmp_path: Path) -> None:
    """A charge that is not units times price: no output under halt; under quarantine its claim is out of balance."""
    lines = claim_lines(1, NUMBER)
    lines[3] |= {"charge": "0.01"}
    halted = run(tmp_path, lines)
    assert not halted.success
    assert not (tmp_path / "out.csv").exists()
    assert any("charge_of_line" in str(error) for error in halted.errors)
    assert run(tmp_path, lines, on_invalid="quarantine").success
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2
    assert "charge_of_line" in (tmp_path / "out.csv.rejected.jsonl").read_text()


def test_the_reference_shows_this_pipeline_and_contracts_that_compile() -> None:
    """What the reference prints is what is tested here."""
    text = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Contracts of pipelines\n")[2].partition("\n## ")[0]
    contract, pipeline = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    assert pipeline == PIPELINE
    compiled = compile_contract(contract.encode(), "invoice.toml", for_stream=False)
    columns = tuple(field.name for field in compiled.fields)
    assert Validator(compiled, columns, None, {"country": {"GB"}}).schema


def test_every_made_up_table_goes_through_a_pipeline_under_its_contract(tmp_path: Path) -> None:
    """Samples, contracts and lists work together from file to file, without a rejection."""
    for name, make in SAMPLES.items():
        (tmp_path / f"{name}.csv").write_bytes(as_csv(make(5, 60)))
        result = run_pipeline(
            PipelineConfig(
                input_path=tmp_path / f"{name}.csv",
                output_path=tmp_path / f"{name}.out.csv",
                contract=CONTRACTS / f"{name}.toml",
            )
        )
        assert result.success, result.errors
        assert result.input_records == result.output_records > 0
