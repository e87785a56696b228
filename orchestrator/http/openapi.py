"""Makes `/openapi.json`: what every route takes and returns, from the structs of the bodies.

FastAPI's own generator supports pydantic models only, so the document is made here.
Source: OpenAPI 3.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

_REFERENCE = "#/components/schemas/{name}"
_PREFIX = "#/components/schemas/"
_JSON = "application/json"

_IN_PATH = re.compile(r"\{(\w+)")

EVENT_STREAM = "text/event-stream"

_MEANINGS: Mapping[int, str] = {
    400: "The request is wrong; `param` names the member.",
    401: "The key is missing, unknown, expired or revoked.",
    403: "The key is good and may not do this.",
    404: "There is no such thing, or not one that this key may know of.",
    408: "The body did not come in time.",
    409: "It does not go together with how things are.",
    413: "The body is over the limit.",
    415: "The body is compressed in a way that is not known.",
    429: "A limit of the key or of its tenant is used up.",
    500: "A fault of the appliance.",
    502: "The engine answered with an error of its own.",
    503: "The model, the store or the policy engine cannot be reached, or there is no room.",
    504: "The engine did not answer in time.",
}
ALWAYS = (401, 500, 503)
INFERENCE = (400, *ALWAYS, 403, 404, 408, 409, 413, 415, 429, 502, 504)
MANAGEMENT = (400, *ALWAYS, 403, 408, 413, 415)

_LIMIT_HEADERS = (
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Reset-Requests",
    "X-RateLimit-Limit-Tokens",
    "X-RateLimit-Remaining-Tokens",
    "X-RateLimit-Reset-Tokens",
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes and returns.

    `body` and `reply` are structs or unions of tagged structs. A tuple of replies lists
    alternatives; `None` means no JSON. `streams` adds server-sent events, `media` other media types
    of the same reply. `faulty` are further statuses with the same body as the reply. `limited`
    routes send the limits in headers. A `public` route needs no key. `errors` are the error
    statuses, with a body of type `error`. Path parameters may be left out.
    """

    body: Any = None
    reply: Any = None
    example: Mapping[str, Any] | None = None
    status: int = 200
    description: str = "Done."
    parameters: Sequence[Mapping[str, Any]] = ()
    errors: Sequence[int] = MANAGEMENT
    error: Any = None
    faulty: Sequence[int] = ()
    streams: bool = False
    media: Sequence[str] = ()
    limited: bool = False
    public: bool = False
    body_required: bool = True

    @property
    def queried(self) -> list[str]:
        """The names of its query parameters."""
        return [one["name"] for one in self.parameters if one["in"] == "query"]

    @property
    def types(self) -> list[Any]:
        """All types of its bodies and errors."""
        kinds = (self.body, *self.replies, self.error)
        return [kind for kind in kinds if kind is not None]

    @property
    def replies(self) -> tuple[Any, ...]:
        """The alternatives of the reply, as a tuple."""
        return self.reply if isinstance(self.reply, tuple) else (self.reply,)


@dataclass(frozen=True, slots=True)
class Described:
    """The description of one route for the document."""

    method: str
    path: str
    operation_id: str
    summary: str
    description: str
    tag: str
    operation: Operation


def path_parameter(name: str, description: str = "") -> dict[str, Any]:
    """Describes a parameter of the path."""
    return _parameter(name, "path", description, {"type": "string"}) | {"required": True}


def query_parameter(
    name: str, description: str = "", schema: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describes a parameter of the query; a string unless `schema` says otherwise."""
    return _parameter(name, "query", description, schema or {"type": "string"})


def document(title: str, version: str, routes: Iterable[Described]) -> dict[str, Any]:
    """Makes the whole document."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        told = paths.setdefault(route.path.replace(":path}", "}"), {})
        told[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "virtual_key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A virtual key; `x-api-key` and `x-goog-api-key` carry it too.",
                }
            },
            "headers": _HEADERS,
        },
        "security": [{"virtual_key": []}],
    }


def _parameter(
    name: str, place: str, description: str, schema: Mapping[str, Any]
) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "in": place, "schema": dict(schema)}
    return told | ({"description": description} if description else {})


def _operation(route: Described, schemas: _Schemas) -> dict[str, Any]:
    operation = route.operation
    schemas.add(route.tag, operation.types)
    told: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "description": route.description,
        "tags": [route.tag],
        "responses": _responses(route, schemas),
    }
    named = [*operation.parameters]
    known = {parameter["name"] for parameter in named}
    named += [path_parameter(name) for name in _IN_PATH.findall(route.path) if name not in known]
    if named:
        told["parameters"] = named
    if operation.body is not None:
        content = {"schema": schemas.of(route.tag, operation.body)}
        if operation.example is not None:
            content["example"] = dict(operation.example)
        told["requestBody"] = {"required": operation.body_required, "content": {_JSON: content}}
    if operation.public:
        told["security"] = []
    return told


def _responses(route: Described, schemas: _Schemas) -> dict[str, Any]:
    operation = route.operation
    reply: dict[str, Any] = {
        "description": operation.description,
        "headers": _headers(
            "X-Request-Id", *(("X-Op-Warning", *_LIMIT_HEADERS) if operation.limited else ())
        ),
    }
    content: dict[str, Any] = {}
    if operation.reply is not None:
        alternatives = [schemas.of(route.tag, kind) for kind in operation.replies]
        one = alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
        content[_JSON] = {"schema": one}
    others = (*operation.media, *((EVENT_STREAM,) if operation.streams else ()))
    content |= {media: {"schema": {"type": "string"}} for media in others}
    if content:
        reply["content"] = content
    replies = {str(operation.status): reply}
    replies |= {
        str(status): reply | {"description": _MEANINGS[status]} for status in operation.faulty
    }
    for status in sorted(set(operation.errors) - {operation.status, *operation.faulty}):
        error: dict[str, Any] = {
            "description": _MEANINGS[status],
            "headers": _headers("X-Request-Id", *_error_headers(status, limited=operation.limited)),
        }
        if operation.error is not None:
            error["content"] = {_JSON: {"schema": schemas.of(route.tag, operation.error)}}
        replies[str(status)] = error
    return replies


def _error_headers(status: int, *, limited: bool) -> tuple[str, ...]:
    match status:
        case 401:
            return ("WWW-Authenticate",)
        case 429:
            return ("Retry-After", *(_LIMIT_HEADERS if limited else ()))
        case 503:
            return ("Retry-After",)
        case _:
            return ()


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_HEADERS: Mapping[str, Any] = {
    "X-Request-Id": _header("The id of this request in logs, traces, books and audit.", "string"),
    "X-Op-Warning": _header("Tools that are not here and were left out.", "string"),
    "WWW-Authenticate": _header("How to authenticate.", "string"),
    "Retry-After": _header("Seconds after which a repetition makes sense.", "integer"),
    "X-RateLimit-Limit-Requests": _header("Requests a minute.", "integer"),
    "X-RateLimit-Remaining-Requests": _header("Requests left in this minute.", "integer"),
    "X-RateLimit-Reset-Requests": _header("When the next minute begins, Unix seconds.", "integer"),
    "X-RateLimit-Limit-Tokens": _header("Tokens a day.", "integer"),
    "X-RateLimit-Remaining-Tokens": _header("Tokens left today.", "integer"),
    "X-RateLimit-Reset-Tokens": _header("When the next day begins, Unix seconds.", "integer"),
}


class _Schemas:
    """The components, named after their structs; a name used twice gets its tag as a prefix."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._owners: dict[str, object] = {}
        self._names: dict[str, dict[str, str]] = {}

    def add(self, tag: str, kinds: Sequence[Any]) -> None:
        """Adds the schemas of `kinds` and of all types inside them."""
        if not kinds:
            return
        _, found = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
        names = self._names.setdefault(tag, {})
        for name in found:
            names[name] = self._name(tag, name, _closure(name, found))
        for name, schema in found.items():
            self.components[names[name]] = _renamed(schema, names)

    def of(self, tag: str, kind: Any) -> dict[str, Any]:
        """The schema of `kind`; for a struct, a reference to its component."""
        (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
        renamed: dict[str, Any] = _renamed(schema, self._names[tag])
        return renamed

    def _name(self, tag: str, name: str, closure: Mapping[str, Any]) -> str:
        plain = name.rpartition(".")[2]
        for candidate in (plain, tag.title().replace("_", "") + plain):
            if self._owners.setdefault(candidate, closure) == closure:
                return candidate
        raise ValueError(f"two schemas of `{tag}` are called `{name}`")


def _closure(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The schema `name` and all schemas that it refers to, directly or not."""
    reached: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached[one] = found[one]
            waiting += _references(found[one])
    return reached


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        own = [reference.removeprefix(_PREFIX)] if isinstance(reference, str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    if isinstance(schema, list):
        return [name for value in schema for name in _references(value)]
    return []


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """A copy of `schema` whose references use the new `names`."""
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix(_PREFIX)
            return schema | {"$ref": _PREFIX + names.get(name, name)}
        return {key: _renamed(value, names) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_renamed(value, names) for value in schema]
    return schema
