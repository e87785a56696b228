"""Settings: environment over TOML file over defaults, checked at start, frozen afterwards.

`ORCHESTRATOR_SERVER__PORT=9000` and `[server] port = 9000` are the same setting. The file is the
one named by `ORCHESTRATOR_CONFIG`, or `orchestrator.toml` in the working directory when it exists.
An unknown key is a start-up error. With no file and no variables a working CPU box starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from orchestrator.core.addresses import network_of
from orchestrator.core.origins import origin_of
from orchestrator.core.variables import check_variables

ENV_PREFIX = "ORCHESTRATOR_"
PROJECT_ROOT = Path(__file__).resolve().parent.parent

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Origin = Annotated[str, AfterValidator(origin_of)]
EndpointName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,63}$")]
"""Lower case, as names in the environment come out; `default` is the one Triton of `triton.url`."""


class SettingsError(ValueError):
    """The settings cannot be used; the message names the setting and what is wrong with it."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Group):
    """The public port. Port 0 takes any free one."""

    host: str = "127.0.0.1"
    port: Port = 8000
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    body_timeout_s: Seconds = 60.0
    """How long a client may take to send its request's body."""
    drain_s: Seconds = 30.0
    """How long running answers may go on after a stop is asked for."""
    keep_alive_s: Seconds = 75.0
    """How long a connection may wait for its next request."""
    first_byte_timeout_s: Seconds = 10.0
    """How long a new connection may send nothing."""
    head_timeout_s: Seconds = 10.0
    """How long the head of a request may take from its first byte to its last."""
    send_timeout_s: Seconds = 30.0
    """How long a reply may wait for a client that takes less of it than `send_rate_bytes`."""
    send_rate_bytes: int = Field(default=64, ge=0)
    """Bytes a second that a client must take of a reply that waits, over `send_timeout_s`."""
    linger_s: Seconds = 5.0
    """How long the rest of a body is read and dropped after a reply that did not need it."""
    max_head_bytes: int = Field(default=64 * 1024, ge=1024)
    """Bytes of a request line and headers, and of the trailers of a body."""
    max_head_lines: int = Field(default=128, ge=8)
    """Headers of a request, and trailers of its body."""
    max_connections: int = Field(default=0, ge=0)
    """Open connections of one worker; 0 takes what its file descriptors allow."""
    max_connections_per_peer: int = Field(default=0, ge=0)
    """Of these, how many one address may have in one worker; 0 takes half of them."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that answer calls on the same port; more than one need Redis."""
    standby: bool = True
    """Whether one more process, with all imports done, waits to take the place of a dead one."""
    ping_after_s: Seconds = 15.0
    """After how long a silence a stream sends its status, if it has not, and a ping."""
    clamp_max_tokens: bool = False
    """Whether a limit of tokens above the room beside a prompt means that room, and is not 400."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies that are believed about the client behind them."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins whose web pages may call, all but to manage; `*` is any."""
    cors_management_origins: tuple[Origin, ...] = ()
    """Origins whose web pages may manage keys and policies, and read usage, audit and metrics."""

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            try:
                network_of(one)
            except ValueError as error:
                raise ValueError(
                    f"`server.trusted_proxies` takes addresses and networks: {error}"
                ) from error
        return given


class IntakeSettings(_Group):
    """How much of requests may be in memory at once, and who works on what is large."""

    most_bytes: int | None = Field(default=None, ge=1024)
    """Of bodies, histories and conversations together; 8 of the largest bodies unless set."""
    most_tenant_bytes: int | None = Field(default=None, ge=1024)
    """The same of one tenant; 2 of the largest bodies unless set."""
    threads: int = Field(default=0, ge=0, le=64)
    """Threads of one worker that decode large bodies and turn long prompts into tokens.

    0 takes half of the processors, from 1 to 4: the rest answers everybody else meanwhile.
    """

    def all_bytes(self, max_body_bytes: int) -> int:
        """Bytes of all tenants together."""
        return 8 * max_body_bytes if self.most_bytes is None else self.most_bytes

    def tenant_bytes(self, max_body_bytes: int) -> int:
        """Bytes of one tenant."""
        return 2 * max_body_bytes if self.most_tenant_bytes is None else self.most_tenant_bytes


class TritonConnection(_Group):
    """Where a Triton listens, and how it is spoken to."""

    url: str = ""
    """`host:port`, or `unix:/path`."""
    tls: bool = False
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    metadata: dict[str, SecretStr] = Field(default_factory=dict)
    """gRPC metadata sent with every call, an authorisation token say."""
    token: SecretStr | None = None
    """For Triton's restricted protocols; a child gets a new one at every start."""
    transport: Literal["http2", "grpc"] = "http2"
    """What speaks to it in clear text: our own HTTP/2, or the gRPC library, which TLS takes too."""


class TritonSettings(TritonConnection):
    """Which Tritons serve: a child of ours, or any others by URL."""

    mode: Literal["child", "remote"] = "child"
    endpoints: dict[EndpointName, TritonConnection] = Field(default_factory=dict)
    """More Tritons, by the names that the catalogue places models on."""
    repository: Path = PROJECT_ROOT / "model_repository"
    server_root: Path | None = None
    """A Triton to start instead of the wheel's; NVIDIA's images have `/opt/tritonserver`."""
    start_timeout_s: Seconds = 120.0
    probe_interval_s: Seconds = 1.0
    probe_timeout_s: Seconds = 2.0
    """How long a Triton that has nothing to compute may leave a test request unanswered."""
    exit_timeout_s: Seconds = 15.0
    request_timeout_s: Seconds = 600.0
    """The longest that one generation may take."""
    first_token_timeout_s: Seconds = 120.0
    wait_for_model_s: float = Field(default=30.0, ge=0)
    """How long calls wait for a model that is lost, from then on, before they fail."""
    most_waiting: int = Field(default=256, ge=0)
    """Calls of one worker that may wait for a model; half of them of one tenant."""
    cancel_drain_s: Seconds = 5.0
    """How long a stopped generation may take to end before its call is cut."""
    progress_file: Path | None = None
    """Touched while the engine answers, so that the supervisor can tell busy from hung."""
    metrics_port: Port = 0
    engine_threads: int = Field(default=0, ge=0)
    """Threads of the CPU engine; 0 takes one for each core, or for each processor of a quota."""
    eject_first_s: Seconds = 1.0
    """How long one of several Tritons that failed is left alone; each time twice as long."""
    eject_most_s: Seconds = 30.0
    """The longest that it is left alone."""
    affinity_margin: int = Field(default=4, ge=0)
    """How many more requests than the idlest a server may have and still keep its conversations."""
    affinity_blocks: int = Field(default=65_536, ge=1)
    """Of how many blocks of prompts a model on several servers remembers who has them cached."""

    @model_validator(mode="after")
    def _remote_has_a_url(self) -> TritonSettings:
        if self.mode == "remote" and not self.url and not self.endpoints:
            raise ValueError("`triton.mode` is `remote`, so `triton.url` must be set")
        for name, endpoint in self.endpoints.items():
            if name == "default":
                raise ValueError("`triton.endpoints.default` is the Triton of `triton.url`")
            if not endpoint.url:
                raise ValueError(f"`triton.endpoints.{name}.url` must be set")
        return self


class StoreSettings(_Group):
    """Where tenants and keys live."""

    url: str = ""
    """`postgresql+asyncpg://…` or `sqlite+aiosqlite:///…`; empty: a file in the data folder."""
    key_cache_s: Seconds = 1.0
    """How long a verified key is believed without asking the store again."""
    key_cache_keys: int = Field(default=20_000, ge=1)
    """How many keys a process remembers; those used last stay."""
    key_grace_s: float = Field(default=300.0, ge=0)
    """How long it is still believed while the store cannot be reached."""
    key_lookup_timeout_s: Seconds = 2.0
    """How long a caller waits for the store before it counts as out of reach."""
    busy_timeout_s: Seconds = 5.0
    """How long a writer waits for another process to let go of the file or the rows."""
    pool_size: int = Field(default=8, ge=1)
    """Connections of one process to PostgreSQL, for each of its parts that uses the store."""
    connect_timeout_s: Seconds = 2.0
    """How long PostgreSQL may take to accept a connection."""
    statement_timeout_s: Seconds = 10.0
    """How long PostgreSQL may take for one statement."""
    pgbouncer: bool = False
    """Whether a PgBouncer in transaction mode stands between."""


class BootstrapSettings(_Group):
    """The first key of a fresh install. One is made up when none is given."""

    admin_key: SecretStr | None = None
    admin_key_file: Path | None = None
    tenant: str = "default"


class SecuritySettings(_Group):
    """The pepper that key digests are made with; made up and kept 0600 when none is given."""

    pepper: SecretStr | None = None
    pepper_file: Path | None = None
    previous_peppers: tuple[SecretStr, ...] = ()
    """Older peppers. A key that is found under one of them is digested anew at once."""
    previous_peppers_file: Path | None = None
    """The same, one to a line."""


class BooksSettings(_Group):
    """How usage and denials get into the store: through journals in the data folder."""

    sync_interval_s: Seconds = 0.02
    """How far a power cut may set the journal back; a killed process sets it back by nothing."""
    commit_interval_s: Seconds = 0.2
    """How long records are collected for one transaction."""
    journal_max_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024)
    """How much may wait for the store; beyond it requests are refused with 503."""
    journal_reserve_bytes: int = Field(default=4 * 1024 * 1024, ge=64 * 1024)
    """Disk space that each journal reserves ahead for requests that are running: 1.5 KB each."""
    keep_records_s: float = Field(default=0, ge=0)
    """How long single records are kept; 0 is for ever. Their sums by hour and day always are."""


class RedisSettings(_Group):
    """Where several workers or boxes count limits together."""

    url: SecretStr | None = None
    """`redis://`, `rediss://` or `unix://`; without it limits are counted in the process."""
    timeout_s: Seconds = 0.25
    """The longest that a request waits for it."""
    prefix: str = Field(default="operayde", pattern=r"^[A-Za-z0-9_.-]{1,40}$")
    """Begins every name; installations that share a Redis need one each."""
    retry_s: Seconds = 0.5
    """While it is out of reach: how often to look whether it is back."""
    worker_ttl_s: Seconds = 15.0
    """A worker silent for this long is dead, and what its requests held is free again."""


class QuotaSettings(_Group):
    """What happens to limits while Redis is out of reach."""

    on_outage: Literal["fail_closed", "local_share"] = "fail_closed"
    """503 for every caller with limits, or each worker grants its share by itself."""
    shares: int = Field(default=0, ge=0)
    """Into how many shares a limit is divided then; 0 takes `server.workers`."""


class PolicySettings(_Group):
    """Who evaluates policies, and what is kept of their decisions."""

    engine: Literal["embedded", "opa"] = "embedded"
    """Rego of this appliance, or an OPA server with the same files."""
    opa_url: str = ""
    opa_token: SecretStr | None = None
    timeout_s: Seconds = 0.25
    """Processor time of one evaluation; a module that takes longer is refused with 503 and tried
    again after a while. Callers wait 2 s and four times as long at most; for an OPA server, so
    long."""
    evaluators: int = Field(default=2, ge=2, le=64)
    """Processes of one worker that evaluate modules; they run while modules are in use."""
    evaluator_memory_bytes: int = Field(default=256 * 1024 * 1024, ge=16 * 1024 * 1024)
    """What one evaluation may add to the memory of such a process."""
    fresh_s: Seconds = 1.0
    """How long a policy is believed without asking the store again."""
    record_share: float = Field(default=0.01, ge=0, le=1)
    """How many decisions are recorded, of one; where a candidate differs all of them are."""
    record_keep_s: Seconds = 30 * 24 * 3600.0
    record_queue: int = Field(default=10_000, ge=1)
    """How many decisions may wait to be recorded; more are not recorded at all."""

    @model_validator(mode="after")
    def _opa_has_a_url(self) -> PolicySettings:
        if self.engine == "opa" and not self.opa_url.startswith(("http://", "https://")):
            raise ValueError(
                "`policy.engine` is `opa`, so `policy.opa_url` must be its http(s) URL"
            )
        return self


class ResponsesSettings(_Group):
    """What is stored of the Responses API, and for how long."""

    store: bool = True
    """Off, nothing is ever stored: no retrieval, no previous response, no background."""
    ttl_s: Seconds = 30 * 24 * 3600.0
    """How long a response is kept."""
    most_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """The most that one tenant may have stored; the oldest go first."""
    most_stored: int = Field(default=10_000, ge=1)
    """How many responses one tenant may have stored; the oldest go first."""
    most_running: int = Field(default=64, ge=1)
    """How many responses one worker runs in the background."""
    poll_s: Seconds = 0.25
    """How often events of background responses are written, and read by those that follow."""
    lost_after_s: Seconds = 30.0
    """A background response whose worker is silent for this long has failed."""


class RealtimeSettings(_Group):
    """Sessions over WebSockets."""

    idle_s: Seconds = 600.0
    """How long a session may neither hear from its client nor answer it."""
    session_s: Seconds = 3600.0
    """How long a session may last at all."""
    most_sessions: int = Field(default=500, ge=1)
    """Sessions of one worker at the same time."""
    most_tenant_sessions: int = Field(default=250, ge=1)
    """Those of one tenant among them."""
    most_items: int = Field(default=1000, ge=1)
    """Items of one conversation."""
    most_conversation_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Text of one conversation."""
    most_message_bytes: int = Field(default=1024 * 1024, ge=1024)
    """Of one event of a client; a longer one ends the session."""
    ping_s: Seconds = 20.0
    """How often a client is asked whether it is there, and how long it may take to say so."""


class LoggingSettings(_Group):
    """Logs go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    """`auto` writes text into a terminal and JSON into anything else."""


class MetricsSettings(_Group):
    """Who may read `/metrics`, and what is in it."""

    host: str = "127.0.0.1"
    port: Port | None = None
    """A port for nothing else, without keys. Without one admins read it on the public port."""
    keys: int = Field(default=100, ge=0, le=10_000)
    """For how many keys numbers of their own are kept; the others are counted together."""


class TelemetrySettings(_Group):
    """Traces. Where they go is said by the standard `OTEL_*` variables."""

    content_keys: tuple[str, ...] = ()
    """Ids of keys whose prompts and completions may be put into spans."""
    server_timing: bool = True
    """Whether replies that are not streamed tell how long each stage took."""


class HostsSettings(_Group):
    """Host names whose callers get an error dialect of their own (`*` matches within a name)."""

    spec: tuple[str, ...] = ()
    proxy: tuple[str, ...] = ()


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: Path = PROJECT_ROOT / ".data"
    catalogue: Path = PROJECT_ROOT / "model_repository" / "catalogue.toml"
    server: ServerSettings = ServerSettings()
    intake: IntakeSettings = IntakeSettings()
    triton: TritonSettings = TritonSettings()
    store: StoreSettings = StoreSettings()
    bootstrap: BootstrapSettings = BootstrapSettings()
    security: SecuritySettings = SecuritySettings()
    books: BooksSettings = BooksSettings()
    hosts: HostsSettings = HostsSettings()
    redis: RedisSettings = RedisSettings()
    quota: QuotaSettings = QuotaSettings()
    policy: PolicySettings = PolicySettings()
    responses: ResponsesSettings = ResponsesSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _largest_body_fits(self) -> Settings:
        largest = self.server.max_body_bytes
        each, total = self.intake.tenant_bytes(largest), self.intake.all_bytes(largest)
        if not largest <= each <= total:
            raise ValueError(
                f"`server.max_body_bytes` is {largest}, `intake.most_tenant_bytes` {each} and"
                f" `intake.most_bytes` {total}: none may be larger than the next"
            )
        return self

    @model_validator(mode="after")
    def _workers_share_their_limits(self) -> Settings:
        if self.server.workers > 1 and self.redis.url is None:
            raise ValueError(
                f"`server.workers` is {self.server.workers}, and several workers count limits"
                f" together in Redis: set {ENV_PREFIX}REDIS__URL, or one worker"
            )
        return self

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # two sources are left out on purpose
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the file."""
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if (path := _config_file()) is not None:
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=path))
        return tuple(sources)

    @property
    def store_url(self) -> str:
        """The store's URL, the SQLite default filled in."""
        return self.store.url or f"sqlite+aiosqlite:///{self.data_dir / 'orchestrator.db'}"


def load_settings() -> Settings:
    """The settings of this process. Raises: SettingsError."""
    try:
        _check_variables()
        return Settings()
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(lines)) from error
    except (OSError, ValueError) as error:
        raise SettingsError(str(error)) from error


def _config_file() -> Path | None:
    """The TOML file to read. Raises: SettingsError when the named one is not there."""
    if named := os.environ.get(f"{ENV_PREFIX}CONFIG"):
        if not Path(named).is_file():
            raise SettingsError(f"{ENV_PREFIX}CONFIG names `{named}`, which is not a file")
        return Path(named)
    default = Path("orchestrator.toml")
    return default if default.is_file() else None


def _check_variables() -> None:
    """Checks the environment: pydantic ignores a misspelt variable, and its default would apply."""
    known, lists = {"CONFIG"}, {}
    for name, field in Settings.model_fields.items():
        known.add(name.upper())
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner, member in field.annotation.model_fields.items():
                known.add(full := f"{name}__{inner}".upper())
                if get_origin(member.annotation) is tuple:
                    lists[full] = name == "security"
    check_variables(os.environ, ENV_PREFIX, known, lists)
