"""The facets of OpenLineage that tidewaiter writes, each with the schema it follows.

Owns: the pinned versions of the standard facets, their members, and the schemas of the two facets of our own. Leaves to
`datasets` the values and to `events` which facet goes where.

A facet says who made it (`_producer`) and under which version of which schema (`_schemaURL`). A custom facet bears the
project's prefix, in its key and in the name of its schema, as the specification asks; its schema has a URN, which never
changes: another version is another URN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.openlineage.datasets import Assertion, Column, ColumnLineage, Dataset, Digest, Origin

Facet = dict[str, Any]

SPEC: Final = "https://openlineage.io/spec"
STANDARD: Final = {
    "ColumnLineageDatasetFacet": "1-2-0",
    "DataQualityAssertionsDatasetFacet": "1-1-0",
    "DataQualityMetricsInputDatasetFacet": "1-0-3",
    "DatasetVersionDatasetFacet": "1-0-1",
    "ErrorMessageRunFacet": "1-0-1",
    "InputStatisticsInputDatasetFacet": "1-0-0",
    "JobTypeJobFacet": "2-0-4",
    "NominalTimeRunFacet": "1-0-1",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
    "ProcessingEngineRunFacet": "1-1-1",
    "SchemaDatasetFacet": "1-2-0",
    "StorageDatasetFacet": "1-0-1",
}
"""The standard facets by the names of their schemas, in the newest versions that are published."""
PRODUCER: Final = "urn:tidewaiter:producer:"
"""How the producer of every event of ours begins; the version follows."""
CUSTOM: Final = "urn:tidewaiter:openlineage:1-0-0"
DIGEST: Final = "TidewaiterContentDigestDatasetFacet"
AUDIT: Final = "TidewaiterAuditLogRunFacet"
RUNNING_SECONDS: Final = 60
"""The shortest time between two RUNNING events of a stream's run."""
_FORMATS: Final = {"csv": "csv", "tsv": "csv", "jsonl": "json", "json": "json", "parquet": "parquet"}
"""What the specification calls our formats; it has no word for the others."""


class Facets:
    """Makes facets in the name of one version of tidewaiter; a member that is None is left out."""

    def __init__(self, version: str) -> None:
        """`version` is tidewaiter's."""
        self.version = version
        self.producer = f"{PRODUCER}{version}"

    def standard(self, schema: str, **members: object) -> Facet:
        """Return a facet of the specification. Raises KeyError for one whose version is not pinned here."""
        return self._facet(f"{SPEC}/facets/{STANDARD[schema]}/{schema}.json#/$defs/{schema}", members)

    def custom(self, schema: str, **members: object) -> Facet:
        """Return a facet of our own."""
        return self._facet(f"{CUSTOM}:{schema}.json#/$defs/{schema}", members)

    def _facet(self, url: str, members: dict[str, object]) -> Facet:
        present = {name: value for name, value in members.items() if value is not None}
        return {"_producer": self.producer, "_schemaURL": url, **present}

    # -- job and run ---------------------------------------------------------------------------------------------

    def job_type(self, *, streaming: bool) -> Facet:
        """What kind of job it is, and when it emits what: its events are to be read together."""
        pattern: dict[str, object] = {"eventTrigger": "EVENT_BASED", "eventContentMode": "ACCUMULATIVE"}
        if streaming:
            pattern |= {"eventTrigger": "PERIODIC", "windowDuration": RUNNING_SECONDS}
        return self.standard(
            "JobTypeJobFacet", processingType="STREAMING" if streaming else "BATCH", integration="TIDEWAITER",
            jobType="JOB", emissionPattern=pattern,
        )  # fmt: skip

    def processing_engine(self) -> Facet:
        """The engine; it is its own adapter."""
        return self.standard(
            "ProcessingEngineRunFacet", name="tidewaiter", version=self.version, openlineageAdapterVersion=self.version
        )

    def error(self, message: str) -> Facet:
        """Why a run failed. The message is for others' eyes: it must not quote data."""
        return self.standard("ErrorMessageRunFacet", message=message, programmingLanguage="PYTHON")

    def nominal_time(self, start: str, end: str | None) -> Facet:
        """The times that a run is for (RFC 3339)."""
        return self.standard("NominalTimeRunFacet", nominalStartTime=start, nominalEndTime=end)

    # -- datasets ------------------------------------------------------------------------------------------------

    def dataset(self, data: Dataset) -> dict[str, Facet]:
        """The facets that inputs and outputs have in common, by their keys."""
        facets: dict[str, Facet] = {}
        if data.columns:
            facets["schema"] = self.schema(data.columns)
        if data.version is not None:
            facets["version"] = self.standard("DatasetVersionDatasetFacet", datasetVersion=data.version)
        if data.digest is not None:
            facets["tidewaiter_contentDigest"] = self.digest(data.digest)
        if data.format in _FORMATS:
            facets["storage"] = self.standard(
                "StorageDatasetFacet", storageLayer="file", fileFormat=_FORMATS[data.format]
            )
        if data.lineage is not None:
            facets["columnLineage"] = self.column_lineage(data.lineage)
        return facets

    def input(self, data: Dataset) -> dict[str, Facet]:
        """The facets about what a run read of an input, by their keys."""
        facets: dict[str, Facet] = {}
        if data.records is not None or data.bytes is not None:
            facets["inputStatistics"] = self.standard(
                "InputStatisticsInputDatasetFacet", rowCount=data.records, size=data.bytes, fileCount=data.files
            )
        if data.quality or data.nulls:
            facets["dataQualityMetrics"] = self.standard(
                "DataQualityMetricsInputDatasetFacet", rowCount=data.records, bytes=data.bytes, fileCount=data.files,
                columnMetrics={name: {"nullCount": number} for name, number in data.nulls.items()},
            )  # fmt: skip
        if data.assertions:
            facets["dataQualityAssertions"] = self.assertions(data.assertions)
        return facets

    def output(self, data: Dataset) -> dict[str, Facet]:
        """The facets about what a run wrote, by their keys."""
        if data.records is None and data.bytes is None:
            return {}
        return {
            "outputStatistics": self.standard(
                "OutputStatisticsOutputDatasetFacet", rowCount=data.records, size=data.bytes, fileCount=data.files
            )
        }

    def schema(self, columns: Sequence[Column]) -> Facet:
        """The columns in their order; `ordinal_position` counts from 1."""
        fields = [
            {"name": each.name, "type": each.type, "ordinal_position": number}
            | ({"description": each.description} if each.description else {})
            for number, each in enumerate(columns, start=1)
        ]
        return self.standard("SchemaDatasetFacet", fields=fields)

    def digest(self, digest: Digest) -> Facet:
        """The digest of the content; the specification has no facet for it."""
        return self.custom(
            DIGEST, algorithm=digest.algorithm, value=digest.value, first=digest.first, length=digest.length
        )

    def assertions(self, assertions: Sequence[Assertion]) -> Facet:
        """What was checked, and how many records failed it."""
        checked = [
            {
                "assertion": each.name,
                "success": not each.actual,
                "severity": "error" if each.halts else "warn",
                "expected": "0",
                "actual": str(each.actual),
            }
            for each in assertions
        ]
        return self.standard("DataQualityAssertionsDatasetFacet", assertions=checked)

    def column_lineage(self, lineage: ColumnLineage) -> Facet:
        """Which columns of the inputs each column of the output is made of."""
        fields = {
            name: {"inputFields": [_field(each, "DIRECT") for each in origins]}
            for name, origins in lineage.columns.items()
        }
        rows = [_field(each, "INDIRECT") for each in lineage.rows]
        return self.standard("ColumnLineageDatasetFacet", fields=fields, dataset=rows or None)


def _field(origin: Origin, kind: str) -> dict[str, object]:
    return {
        "namespace": origin.namespace,
        "name": origin.dataset,
        "field": origin.column,
        "transformations": [{"type": kind, "subtype": origin.kind}],
    }


def _custom_schema(name: str, base: str, key: str, properties: dict[str, object], required: list[str]) -> Facet:
    own = {"type": "object", "properties": properties, "required": required}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{CUSTOM}:{name}.json",
        "$defs": {name: {"allOf": [{"$ref": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/{base}"}, own], "type": "object"}},
        "type": "object",
        "properties": {key: {"$ref": f"#/$defs/{name}"}},
    }


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
CUSTOM_SCHEMAS: Final = {
    DIGEST: _custom_schema(
        DIGEST, "DatasetFacet", "tidewaiter_contentDigest",
        {
            "algorithm": _TEXT | {"description": "sha-256, or tidewaiter-running-sha-256: h = SHA256(h || batch)"},
            "value": _TEXT | {"description": "The digest in hexadecimal.", "pattern": "^[0-9a-f]*$"},
            "first": _COUNT | {"description": "Where the hashed bytes begin; absent: all were hashed."},
            "length": _COUNT | {"description": "How many bytes were hashed."},
        },
        ["algorithm", "value"],
    ),
    AUDIT: _custom_schema(
        AUDIT, "RunFacet", "tidewaiter_auditLog",
        {
            "runId": _TEXT | {"description": "What the audit log calls the run."},
            "log": _TEXT | {"description": "The audit log: its origin, or its file."},
            "entries": _COUNT | {"description": "How many entries it had before the one about this event."},
            "head": _TEXT | {"description": "The SHA-256 (hexadecimal) of the last of them."},
        },
        ["runId", "log", "entries", "head"],
    ),
}  # fmt: skip
"""The JSON Schemas of the custom facets, by their names."""
