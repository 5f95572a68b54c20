"""What OpenLineage asks of an event, and servers that take events well or badly.

Owns: the specification restated (`restated`), so that every run of the tests checks every facet; the official JSON
Schemas where they lie in the shared data (`official`); and a real HTTP server on loopback that follows a script. The
restated form is stricter: it allows no member that the specification does not name.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import jsonschema  # type: ignore[import-untyped] # its stubs are a package of their own
from referencing import Registry, Resource

from tidewaiter.core.openlineage.facets import CUSTOM_SCHEMAS
from tidewaiter.shell.openlineage_settings import OpenLineagePart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPEC: Final = "https://openlineage.io/spec"
EVENT: Final = f"{SPEC}/2-0-2/OpenLineage.json"
RUN_EVENT: Final = f"{EVENT}#/$defs/RunEvent"

# -- the specification -------------------------------------------------------------------------------------------------

TEXT: Final = {"type": "string"}
COUNT: Final = {"type": "integer"}
TIME: Final = {"type": "string", "format": "date-time"}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _values(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of}


_STATISTICS: Final = _object(rowCount=COUNT, size=COUNT, fileCount=COUNT)
_INPUT_FIELD: Final = _object(
    "namespace name field", namespace=TEXT, name=TEXT, field=TEXT,
    transformations=_list(
        _object("type", type=TEXT, subtype=TEXT, description=TEXT, masking={"type": "boolean"})
    ),
)  # fmt: skip
FACETS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "JobTypeJobFacet": ("2-0-4", _object(
        "processingType integration", processingType=TEXT, integration=TEXT, jobType=TEXT,
        emissionPattern=_object(
            "eventTrigger eventContentMode", eventTrigger=TEXT, eventContentMode=TEXT,
            windowDuration={"type": "integer", "minimum": 1},
        ),
    )),
    "ProcessingEngineRunFacet": ("1-1-1", _object(
        "version", version=TEXT, name=TEXT, openlineageAdapterVersion=TEXT
    )),
    "ErrorMessageRunFacet": ("1-0-1", _object(
        "message programmingLanguage", message=TEXT, programmingLanguage=TEXT, stackTrace=TEXT
    )),
    "NominalTimeRunFacet": ("1-0-1", _object("nominalStartTime", nominalStartTime=TIME, nominalEndTime=TIME)),
    "SchemaDatasetFacet": ("1-2-0", _object(
        fields=_list(_object("name", name=TEXT, type=TEXT, description=TEXT, ordinal_position=COUNT))
    )),
    "DatasetVersionDatasetFacet": ("1-0-1", _object("datasetVersion", datasetVersion=TEXT)),
    "StorageDatasetFacet": ("1-0-1", _object("storageLayer", storageLayer=TEXT, fileFormat=TEXT)),
    "InputStatisticsInputDatasetFacet": ("1-0-0", _STATISTICS),
    "OutputStatisticsOutputDatasetFacet": ("1-0-2", _STATISTICS),
    "DataQualityMetricsInputDatasetFacet": ("1-0-3", _object(
        "columnMetrics", rowCount=COUNT, bytes=COUNT, fileCount=COUNT,
        columnMetrics=_values(_object(nullCount=COUNT)),
    )),
    "DataQualityAssertionsDatasetFacet": ("1-1-0", _object(
        "assertions",
        assertions=_list(_object(
            "assertion success", assertion=TEXT, success={"type": "boolean"}, severity=TEXT, expected=TEXT, actual=TEXT
        )),
    )),
    "ColumnLineageDatasetFacet": ("1-2-0", _object(
        "fields", dataset=_list(_INPUT_FIELD),
        fields=_values(_object("inputFields", inputFields=_list(_INPUT_FIELD))),
    )),
}  # fmt: skip
"""The facets that tidewaiter uses, with the version of each: the members that it may set."""


def _base(**more: Any) -> dict[str, Any]:
    uri = {"type": "string", "format": "uri"}
    return {"type": "object", "properties": {"_producer": uri, "_schemaURL": uri, **more},
            "required": ["_producer", "_schemaURL"]}  # fmt: skip


def restated() -> Registry[Any]:
    """Return the part of the specification that is used here, in our own words, under the official addresses."""
    facets = {"type": "object", "additionalProperties": {"$ref": "#/$defs/BaseFacet"}}
    dataset = {"namespace": TEXT, "name": TEXT, "facets": facets}
    kinds = ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]
    uri = {"type": "string", "format": "uri"}
    definitions: dict[str, Any] = {
        "BaseFacet": _base(),
        **{name: {"$ref": "#/$defs/BaseFacet"} for name in (
            "RunFacet", "JobFacet", "DatasetFacet", "InputDatasetFacet", "OutputDatasetFacet"
        )},
        "RunEvent": _object(
            "eventTime producer schemaURL run job",
            eventTime=TIME, producer=uri, schemaURL=uri, eventType={"type": "string", "enum": kinds},
            run=_object("runId", runId={"type": "string", "format": "uuid"}, facets=facets),
            job=_object("namespace name", namespace=TEXT, name=TEXT, facets=facets),
            inputs=_list(_object("namespace name", **dataset, inputFacets=facets)),
            outputs=_list(_object("namespace name", **dataset, outputFacets=facets)),
        ),
    }  # fmt: skip
    documents = {EVENT: {"$id": EVENT, "$defs": definitions}}
    for name, (version, members) in FACETS.items():
        address = f"{SPEC}/facets/{version}/{name}.json"
        known = {"_producer": TEXT, "_schemaURL": TEXT, **members["properties"]}
        closed = {**members, "properties": known}
        documents[address] = {
            "$id": address,
            "$defs": {name: {"allOf": [{"$ref": f"{EVENT}#/$defs/BaseFacet"}, closed]}},
        }
    return _registry(documents.values())


def official(folder: Path) -> Registry[Any]:
    """Return the official JSON Schemas, as they lie in `folder`."""
    return _registry(json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json")))


def _registry(documents: Any) -> Registry[Any]:
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    every = [*documents, *CUSTOM_SCHEMAS.values()]
    registry: Registry[Any] = Registry()
    return registry.with_resources((each["$id"], Resource.from_contents({**dialect, **each})) for each in every)


_FORMATS: Final = jsonschema.FormatChecker(formats=())
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+")


def _is_uuid(value: object) -> bool:
    return str(uuid.UUID(str(value))) == value


def _is_time(value: object) -> bool:
    return _TIME.fullmatch(str(value)) is not None


def _is_uri(value: object) -> bool:
    return _URI.fullmatch(str(value)) is not None


_FORMATS.checks("uuid", raises=ValueError)(_is_uuid)
_FORMATS.checks("date-time")(_is_time)
_FORMATS.checks("uri")(_is_uri)


def facets_of(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every facet of an event with its key."""
    yield from event["run"].get("facets", {}).items()
    yield from event["job"].get("facets", {}).items()
    for data in (*event["inputs"], *event["outputs"]):
        for where in ("facets", "inputFacets", "outputFacets"):
            yield from data.get(where, {}).items()


def problems(event: dict[str, Any], registry: Registry[Any]) -> list[str]:
    """Return what is wrong with an event and each of its facets, each against the schema that it names itself."""
    found = [error.message for error in _validator(event["schemaURL"], registry).iter_errors(event)]
    for key, facet in facets_of(event):
        name = facet["_schemaURL"].rpartition("/")[2]
        document = registry.contents(facet["_schemaURL"].partition("#")[0])
        if document.get("properties", {key: None}).keys() != {key}:
            found.append(f"{key}: is the key of no {name}")
        found += [f"{key}: {error.message}" for error in _validator(facet["_schemaURL"], registry).iter_errors(facet)]
    return found


def _validator(address: str, registry: Registry[Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": address}, registry=registry, format_checker=_FORMATS)


def events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def told(path: Path) -> list[str]:
    """Return the kinds of the events of a file."""
    return [str(event["eventType"]) for event in events(path)]


# -- a server ----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """What a server got, in order: the bodies that it took, the headers and the path of each request."""

    url: str = ""
    taken: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answer: Callable[[Server, http.server.BaseHTTPRequestHandler, bytes], None] | None = None
    ending: threading.Event = field(default_factory=threading.Event)

    def part(self, timeout_us: int = 2_000_000) -> OpenLineagePart:
        """Return the settings that name this server."""
        return OpenLineagePart(url=self.url, timeout_us=timeout_us)


def take(server: Server, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    """Take the event."""
    server.taken.append(body)
    status(201)(server, handler, body)


def status(code: int) -> Callable[[Server, http.server.BaseHTTPRequestHandler, bytes], None]:
    """Answer with a status and an empty body."""

    def answer(server: Server, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hang(server: Server, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    """Say nothing until the server ends or the client has gone."""
    handler.connection.settimeout(0.05)
    while not server.ending.is_set():
        try:
            if not handler.connection.recv(1):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    handler.close_connection = True


def drip(server: Server, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    """Answer a byte at a time, for ever: no single read times out."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not server.ending.wait(0.02):
            handler.wfile.write(b"A")
    except OSError:
        pass
    handler.close_connection = True


def take_and_break(answer: bytes) -> Callable[[Server, http.server.BaseHTTPRequestHandler, bytes], None]:
    """Take the event, send a part of an answer, and close."""

    def broken(server: Server, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        server.taken.append(body)
        handler.wfile.write(answer)
        handler.close_connection = True

    return broken


@contextmanager
def serving(
    answer: Callable[[Server, http.server.BaseHTTPRequestHandler, bytes], None] = take,
) -> Iterator[Server]:
    """Be an OpenLineage server on loopback; `answer` may be replaced while it runs."""
    state = Server(answer=answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):  # the client died
                self.close_connection = True
                return
            state.asked.append(body)
            state.headers.append(dict(self.headers))
            state.paths.append(self.path)
            assert state.answer is not None
            state.answer(state, self, body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    class Calm(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of a client that has gone."""

    server = Calm(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield state
    finally:
        state.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()
