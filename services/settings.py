"""Every setting of a tier, with its sentence and its unit.

Each can be given as an argument (`--max-in-flight 32`), in the environment (`OFFRAMP_MAX_IN_FLIGHT=32`) or
in a file `.env`; the argument wins, then the environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

from services import codec, targets
from services.domain import Objective, Segment
from services.errors import SettingsError

PREFIX = "OFFRAMP_"

Provider = Literal["cpu", "cuda", "openvino"]


def _segment(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:  # an argument, whose setting is a tuple
        (value,) = value
    if not isinstance(value, str):
        return value
    start, separator, end = value.partition(":")
    if not separator or not start.isdigit() or not end.isdigit() or int(start) > int(end):
        raise ValueError("must be START:END, two split points, e.g. 0:7")
    return Segment(int(start), int(end))


def _paths(value: Any) -> Any:
    if isinstance(value, Path):
        return (value,)
    parts = [value] if isinstance(value, str) else value
    return [each for part in parts for each in (part.split(",") if isinstance(part, str) else [part]) if each]


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class TierSettings(BaseSettings):
    """Settings that every tier has."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        arbitrary_types_allowed=True,
    )

    bundle: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        (Path("models/digits"),),
        min_length=1,
        description="Directory of a bundle to serve, or of several; repeatable, or separated by commas. Read again at "
        "SIGHUP.",
    )
    listen: str = Field("127.0.0.1:8001", description="Address of the gRPC server; port 0 picks a free one.")
    next: str | None = Field(
        None,
        description="Target of the next tier: HOST:PORT, several of them separated by commas, or dns:///NAME:PORT for "
        "all addresses of a name; none: no next.",
    )
    hedge_after_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds without an answer after which another replica of the next tier is asked too; none: never.",
    )
    transport: Literal["exchange", "unary"] = Field(
        "exchange", description="How requests travel to the next tier: many on one stream, or each as a call."
    )
    threads: int = Field(1, ge=1, le=256, description="Threads of one run of a segment.")
    workers: int | None = Field(
        None, ge=1, le=256, description="Runs side by side; none: as many as there are cores for their threads."
    )
    dedicated: bool = Field(
        False,
        description="Whether this machine does nothing else: unless threads and workers are given, each run then takes "
        "all cores, one run at a time, and idle threads spin.",
    )
    providers: Annotated[tuple[Provider, ...], NoDecode, BeforeValidator(_names)] = Field(
        ("cpu",),
        min_length=1,
        description="What runs the network, the first that can: cpu, cuda or openvino; separated by commas.",
    )
    max_batch_size: int = Field(
        32,
        ge=1,
        le=1024,
        description="Samples of several requests run as one batch, where measuring says that it pays; 1: never.",
    )
    max_queue_delay_microseconds: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Microseconds a run waits for others to share a batch with; 0: it never does.",
    )
    default_timeout_microseconds: int = Field(
        0, ge=0, description="Microseconds a run may wait for its turn; 0: as long as its request's deadline."
    )
    timeout_action: Literal["reject", "delay"] = Field(
        "reject", description="What becomes of a run that waited longer: refused, or run after those that did not."
    )
    max_in_flight: int = Field(64, ge=1, description="Requests held at once, waiting ones included.")
    adaptive_limit: bool = Field(
        False,
        description="Whether to hold fewer than max_in_flight where more only make each other wait: small batches.",
    )
    max_batch: int = Field(256, ge=1, description="Samples in one request.")
    max_message_bytes: int = Field(64 << 20, ge=1 << 16, le=1 << 30, description="Largest message, in bytes.")
    memory_bytes: int | None = Field(
        None, ge=64 << 20, description="Memory this tier may take, in bytes; none: what its container or machine has."
    )
    deadline_seconds: float = Field(10.0, gt=0, le=3600, description="Deadline of a request that brings none.")
    drain_delay_seconds: float = Field(
        0.2, ge=0, le=60, description="Seconds between turning not ready and refusing new requests."
    )
    drain_grace_seconds: float = Field(25.0, ge=0, le=600, description="Seconds given to requests in flight.")
    holds: Annotated[Segment | None, NoDecode, BeforeValidator(_segment)] = Field(
        None, description="Part of the network this tier may run, START:END; none: all of it."
    )
    compute_slowdown: float = Field(
        1.0,
        ge=1,
        le=1000,
        description="Emulates a slower machine: each run, though no codec, takes this many times as long.",
    )
    profile_seconds: float = Field(
        3.0,
        ge=0,
        le=600,
        description="Seconds at start to measure what runs take here, where no earlier start did; 0: leave it unknown.",
    )
    profile_cache: str | None = Field(
        None, description="Directory that keeps what was measured; -: nowhere; none: the user's cache directory."
    )
    tls_cert: Path | None = Field(None, description="Certificate this tier serves with, PEM; none: plaintext.")
    tls_key: Path | None = Field(None, description="Private key of tls_cert, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="Certificates of who signs for those that may call, PEM; given: each must show one."
    )
    allowed_sans: str | None = Field(
        None,
        description="Names in certificates that may call this tier, separated by commas; none: all that tls_client_ca "
        "signed.",
    )
    token_file: Path | None = Field(
        None, description="Bearer tokens that clients of the public door must bring, one per line; none: no token."
    )
    next_ca: Path | None = Field(
        None, description="Certificates of who signs for the next tier, PEM; given: it is called over TLS."
    )
    next_cert: Path | None = Field(None, description="Certificate to show to the next tier, PEM.")
    next_key: Path | None = Field(None, description="Private key of next_cert, PEM.")
    next_server_name: str | None = Field(
        None, description="Name the next tier's certificate must have; none: the host in next."
    )
    health_listen: str | None = Field(
        None, description="Address that answers health checks alone, in plaintext; none: only on listen."
    )
    metrics_listen: str = Field(
        "127.0.0.1:8002", description="Address that serves /metrics; port 0 picks a free one; -: none."
    )
    compat_metrics: Literal["triton", "none"] = Field(
        "triton", description="Other servers' names under which metrics are served as well."
    )
    otlp_endpoint: str | None = Field(
        None, description="OTLP collector that spans are sent to over gRPC, e.g. http://127.0.0.1:4317; none: no spans."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line.")

    @property
    def allowed_names(self) -> frozenset[str]:
        return frozenset(name.strip() for name in (self.allowed_sans or "").split(",") if name.strip())

    @field_validator("allowed_sans")
    @classmethod
    def _somebody(cls, value: str | None) -> str | None:
        if value is not None and not any(map(str.strip, value.split(","))):
            raise ValueError("names nobody; leave it out to let in all that tls_client_ca signed")
        return value

    @field_validator("next")
    @classmethod
    def _reachable(cls, value: str | None) -> str | None:
        if value is not None:
            targets.check(value)
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_address(cls, value: str) -> str:
        return value if value == "-" else str(cls._address(value))

    @field_validator("listen", "health_listen")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, separator, port = value.rpartition(":")
        if not separator or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be HOST:PORT, e.g. 127.0.0.1:8001")
        return value


class DeviceSettings(TierSettings):
    """Settings of the device agent: those of a tier, and the plan it gives to requests."""

    splits: str | None = Field(
        None, description="The two split points of a fixed plan, e.g. 7,14; none: planned from measurements."
    )
    codecs: str = Field(
        "int8+zstd,int8+zstd", description="Codec of each hop, nearest first, while the plan is fixed or unknown."
    )
    policy: Objective = Field(Objective.LATENCY, description="What a plan is chosen to have least of.")
    min_accuracy: float | None = Field(
        None, ge=0, le=1, description="Expected accuracy a plan must keep; none: see max_accuracy_loss."
    )
    max_accuracy_loss: float = Field(
        0.005, ge=0, le=1, description="Accuracy that codecs may cost below what calibration promises."
    )
    privacy: bool = Field(False, description="Whether the raw input must stay on the device.")
    compute_watts: float = Field(
        5.0, ge=0, le=1e6, description="Power of this device while it computes, for estimates."
    )
    idle_watts: float = Field(1.0, ge=0, le=1e6, description="Power of this device while it waits, for estimates.")
    joules_per_byte: float = Field(1e-6, ge=0, le=1, description="Energy of this device to send a byte, for estimates.")
    refresh_seconds: float = Field(
        10.0, gt=0, le=3600, description="Seconds between asking the tiers above what they know of themselves."
    )
    console_listen: str = Field("127.0.0.1:8000", description="Address of the live console, a web page; -: none.")
    link_control: str | None = Field(
        None,
        description="Control addresses of emulated links, nearest first, separated by commas; given: the console may "
        "change them and send samples.",
    )

    @field_validator("console_listen")
    @classmethod
    def _address_or_none(cls, value: str) -> str:
        return value if value == "-" else str(cls._address(value))

    @field_validator("splits")
    @classmethod
    def _two_numbers(cls, value: str | None) -> str | None:
        if value is not None and (value.count(",") != 1 or not all(p.strip().isdecimal() for p in value.split(","))):
            raise ValueError("must be two split points, e.g. 7,14")
        return value

    @field_validator("codecs")
    @classmethod
    def _known(cls, value: str) -> str:
        names = value.split(",")
        if len(names) != 2 or not set(names) <= set(codec.NAMES):
            raise ValueError("must be two codecs such as int8+zstd,int8+zstd; docs/wire-format.md lists them")
        return value

    @property
    def link_controls(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in (self.link_control or "").split(",") if part.strip())

    @property
    def split_points(self) -> tuple[int, int] | None:
        if self.splits is None:
            return None
        first, second = self.splits.split(",")
        return int(first), int(second)

    @property
    def hop_codecs(self) -> tuple[str, str]:
        first, second = self.codecs.split(",")
        return first, second


S = TypeVar("S", bound=TierSettings)


def read(kind: type[S], arguments: list[str] | None = None) -> S:
    """Settings from arguments, environment and `.env`. Raises SettingsError naming what is wrong."""
    _refuse_unknown(kind)
    _refuse_empty(sys.argv[1:] if arguments is None else arguments)
    try:
        return CliApp.run(kind, cli_args=arguments, cli_cmd_method_name="_no_command")
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(faults)) from None
    except PydanticSettingsError as error:
        raise SettingsError(str(error)) from None


def _refuse_unknown(kind: type[TierSettings]) -> None:
    """A misspelt variable, in the environment or in `.env`, would otherwise silently do nothing.

    What only another tier knows is not refused: tiers started side by side share an environment.
    """
    known = {PREFIX + name.upper() for each in (kind, DeviceSettings) for name in each.model_fields}
    for name in sorted({*os.environ, *_env_file()}):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"{name}: no such setting; known: {', '.join(sorted(known))}")


def _refuse_empty(arguments: list[str]) -> None:
    """An empty argument would count as none: whom to let in, from a script's unset variable, would be everybody."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise SettingsError(f"{(argument or before).rstrip('=') or 'argument'}: is empty; leave it out for none")


def _env_file() -> dict[str, str | None]:
    try:
        return dotenv_values(".env")
    except (UnicodeDecodeError, OSError) as error:
        raise SettingsError(f".env: cannot be read as text ({error.__class__.__name__})") from None
