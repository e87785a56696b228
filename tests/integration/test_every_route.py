"""What holds on every route of the whole application: parameters, methods, pages of other origins.

The routes are taken from the application, so that a new one is tried here too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from orchestrator.http.routes import RawRoute
from orchestrator.settings import ServerSettings
from tests.integration.managing import Manager, box_settings, running_box

PAGE, CONSOLE, STRANGE = "https://chat.test", "https://console.test", "https://strange.test"
GOOGLES = {"x-goog-api-client": "genai-js/1"}
ANTHROPICS = {"anthropic-version": "2023-06-01"}
HEADERS = "authorization,content-type,x-stainless-os,x-stainless-retry-count"


@dataclass(frozen=True)
class Application:
    """It, and an admin of it."""

    routes: list[RawRoute]
    admin: Manager

    async def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """The reply to the admin."""
        given = {"authorization": f"Bearer {self.admin.secret}", **headers}
        return await self.admin.client.request(method, path, headers=given)

    def paths(self) -> dict[str, set[str]]:
        """Every path with its methods, and something in the place of what is chosen."""
        found: dict[str, set[str]] = {"/openapi.json": {"GET", "HEAD"}}
        for route in self.routes:
            found.setdefault(_filled(route.path), set()).update(route.methods or ())
        return found


def _filled(path: str) -> str:
    path = path.replace("{model:path}", "acme%2Fchat").replace("{response_id}", "resp_1")
    return path.replace("{key_id}", "key_1").replace("{policy_id}", "pol_1")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def application(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Application]:
    server = ServerSettings(cors_origins=(PAGE,), cors_management_origins=(CONSOLE,))
    settings = box_settings(tmp_path_factory.mktemp("routes"))
    settings = settings.model_copy(update={"server": server})
    async with running_box(settings) as box:
        app: Any = box.client._transport.app  # type: ignore[attr-defined]  # of an ASGI transport
        routes = [one for one in app.router.routes if isinstance(one, RawRoute)]
        yield Application(routes, await box.manager("acme"))


async def test_an_unknown_parameter_is_refused_on_every_route(application: Application) -> None:
    tried = 0
    for path, methods in application.paths().items():
        for method in methods - {"HEAD"}:
            reply = await application.ask(method, f"{path}?bogus=1")
            assert reply.status_code == 400, f"{method} {path}: {reply.text}"
            is_socket = path.endswith("/realtime")
            assert is_socket or "`bogus` is no parameter here" in reply.text, f"{method} {path}"
            tried += 1
    assert tried > 80


async def test_a_bad_key_is_reported_before_a_bad_parameter(application: Application) -> None:
    for path in ("/v1/models", "/v1/keys", "/v1/usage"):
        url = f"{path}?bogus=1"
        reply = await application.admin.client.get(url)
        assert reply.status_code == 401, url


@pytest.mark.parametrize(
    ("path", "headers", "member"),
    [
        ("/v1/models?bogus=1", {}, "param"),
        ("/api/v1/models?bogus=1", {}, "param"),
        ("/v1/keys?bogus=1", {}, "param"),
        ("/v1/models?bogus=1", ANTHROPICS, "details"),
        ("/v1/models?bogus=1", GOOGLES, "status"),
        ("/v1beta/models?bogus=1", {}, "status"),
    ],
)
async def test_the_error_is_in_the_words_of_the_dialect(
    application: Application, path: str, headers: dict[str, str], member: str
) -> None:
    reply = (await application.ask("GET", path, **headers)).json()
    error = reply if isinstance(reply["error"], str) else reply["error"]
    assert member in error
    assert error.get("param") in (None, "bogus")
    assert error.get("status") in (None, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("POST", "/v1/messages?beta=true", ANTHROPICS),
        ("POST", "/v1/messages/count_tokens?beta=true", ANTHROPICS),
        ("GET", "/v1/models?beta=true&limit=1000", ANTHROPICS),
        ("GET", "/v1/models/demo%2Fchat?beta=true", ANTHROPICS),
        ("GET", "/v1/models?pageSize=5&alt=json", GOOGLES),
        ("GET", "/v1beta/models?key=none&pageSize=50&$alt=json;enum-encoding=int", {}),
        ("POST", "/v1beta/models/demo/chat:streamGenerateContent?alt=sse&key=none", {}),
        ("POST", "/v1/models/demo/chat:generateContent?%24alt=json&prettyPrint=false", GOOGLES),
        ("POST", "/v1/chat/completions?api-version=2024-10-21", {}),
        ("POST", "/v1/embeddings?api-version=preview", {}),
        ("GET", "/v1/models?api-version=preview", {}),
        ("GET", "/v1/models?client_version=0.171.0", {}),
        ("GET", "/v1/responses/resp_1?include[]=reasoning.encrypted_content&stream=true", {}),
        ("GET", "/v1/responses/resp_1?stream=true&starting_after=3&include_obfuscation=false", {}),
        ("GET", "/v1/responses/resp_1/input_items?order=asc&limit=5&after=x&include[]=a", {}),
        ("GET", "/v1/keys?limit=5", {}),
        ("GET", "/health", {}),
        ("GET", "/v1/models?", {}),
    ],
)
async def test_what_clients_send_is_known(
    application: Application, method: str, url: str, headers: dict[str, str]
) -> None:
    reply = await application.ask(method, url, **headers)
    assert "no parameter" not in reply.text, reply.text
    assert reply.status_code != 400 or "request body is empty" in reply.text, reply.text


async def test_a_parameter_of_another_client_is_refused_on_a_shared_path(
    application: Application,
) -> None:
    for url, headers, shown in (
        ("/v1/models?limit=5", {}, (False, False)),
        ("/v1/models?pageSize=5", ANTHROPICS, (True, False)),
        ("/v1/models?limit=5", GOOGLES, (False, True)),
        ("/v1/models/demo%2Fchat?limit=5", ANTHROPICS, (False, False)),
    ):
        reply = await application.ask("GET", url, **headers)
        assert reply.status_code == 400, url
        unknown, _, known = reply.text.partition(" is no parameter here; there are ")
        assert url.partition("?")[2].partition("=")[0] in unknown
        assert ("after_id" in known, "pageSize" in known) == shown, reply.text


async def test_every_path_names_all_its_methods(application: Application) -> None:
    for path, methods in application.paths().items():
        reply = await application.admin.client.options(path)
        assert (reply.status_code, reply.content) == (204, b""), path
        allowed = reply.headers["allow"].split(", ")
        # Some paths are two routes' at once: an id may look like a method of a model.
        assert {*methods, "OPTIONS"} <= set(allowed), path
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"):
            reply = await application.ask(method, path)
            assert (reply.status_code == 405) == (method not in allowed), f"{method} {path}"
            if method not in allowed:
                assert reply.headers["allow"] == ", ".join(allowed), f"{method} {path}"


async def test_allow_names_no_method_that_is_not_there(application: Application) -> None:
    reply = await application.ask("PUT", "/v1/keys")
    assert reply.headers["allow"] == "GET, HEAD, POST, OPTIONS"
    reply = await application.ask("PUT", "/v1/keys/key_1")
    assert reply.headers["allow"] == "GET, HEAD, PATCH, DELETE, OPTIONS"
    assert "GET, HEAD, PATCH, DELETE, OPTIONS" in reply.text


async def test_head_is_get_without_a_body(application: Application) -> None:
    for path in ("/health", "/v1/models", "/v1/keys", "/openapi.json"):
        whole = await application.ask("GET", path)
        head = await application.ask("HEAD", path)
        assert head.status_code == whole.status_code == 200, path
        assert head.headers["content-type"] == whole.headers["content-type"], path


async def test_options_of_what_is_not_there_is_404(application: Application) -> None:
    client = application.admin.client
    assert (await client.options("/v1/nothing")).status_code == 404


def _preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": HEADERS,
    }


async def test_each_path_answers_a_browser_without_a_key(application: Application) -> None:
    client = application.admin.client
    for path, methods in application.paths().items():
        first = path.removeprefix("/api").removeprefix("/v1").split("/")[1]
        manages = first in ("keys", "policies", "usage", "audit", "metrics")
        good, bad = (CONSOLE, PAGE) if manages else (PAGE, CONSOLE)
        reply = await client.options(path, headers=_preflight(good))
        assert reply.status_code == 204, path
        assert reply.headers["access-control-allow-origin"] == good, path
        told = set(reply.headers["access-control-allow-methods"].split(", "))
        assert methods <= told, path
        assert reply.headers["access-control-allow-headers"] == HEADERS
        assert int(reply.headers["access-control-max-age"]) > 0
        assert "access-control-allow-credentials" not in reply.headers
        for origin in (bad, STRANGE):
            reply = await client.options(path, headers=_preflight(origin))
            assert reply.headers["vary"] == "Origin", path
            assert not any(name.startswith("access-control") for name in reply.headers), path


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/none", 404),
        ("POST", "/v1/chat/completions", 400),
        ("PUT", "/v1/chat/completions", 405),
        ("GET", "/v1/nothing", 404),
    ],
)
async def test_replies_and_errors_may_be_read_by_the_page(
    application: Application, method: str, path: str, status: int
) -> None:
    reply = await application.ask(method, path, origin=PAGE)
    assert reply.status_code == status
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert reply.headers["vary"] == "Origin"
    assert "x-request-id" in reply.headers["access-control-expose-headers"]
    reply = await application.ask(method, path, origin=STRANGE)
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["vary"] == "Origin"


async def test_a_reply_that_asks_for_a_key_may_be_read_too(application: Application) -> None:
    reply = await application.admin.client.get("/v1/models", headers={"origin": PAGE})
    assert reply.status_code == 401
    assert reply.headers["access-control-allow-origin"] == PAGE
