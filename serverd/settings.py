"""What a daemon process is told when it starts: JSON on its standard input, checked strictly."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clipperfs.daemon_files import runtime_dir
from clipperfs.errors import InvalidSetting

MAX_FRONTENDS = 256
MOST_AUTO_FRONTENDS = 8
"""One answers 30,000 small queries a second, and those that share a replica leave each other smaller batches."""


class DaemonSettings(BaseModel):
    """One daemon's settings. Units: seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: str
    state_dir: Path
    cache_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=1337, ge=0, le=65535)
    admin_port: int | None = Field(default=1338, ge=0, le=65535)
    """Loopback port of the read-only admin pages; ``None``: none."""
    frontends: int = Field(default=1, ge=0, le=MAX_FRONTENDS)
    """0: one for two processors, at most ``MOST_AUTO_FRONTENDS``."""
    models: list[str] | None = None
    """Models to serve; ``None``: all."""
    watch: bool = True
    poll_s: float = Field(default=2.0, ge=0.01, le=3600)
    sweep_s: float = Field(default=180.0, ge=0.05, le=86_400)
    """How often every ledger is looked at, whatever the hints say."""
    status_s: float = Field(default=30.0, ge=0.05, le=3600)
    """How often the daemon's status is written into the registry; it expires after three times as long."""
    event_queue: str | None = None
    """Address of an SQS queue of this daemon's own that the registry's bucket tells of its changes."""
    cache_limit_bytes: int = Field(default=20_000_000_000, ge=0)
    """What the local cache may hold beside the versions that are in use."""
    prediction_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """What each frontend's prediction cache may hold; 0: none."""
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=1 << 30)
    """The largest body of a query, before and after it is decompressed."""
    slow_s: float | None = Field(default=None, gt=0)
    """Queries that take longer are logged with the time in each stage; ``None``: only those that miss their SLO."""
    max_connections: int = Field(default=4096, ge=1, le=1_000_000)
    """Connections that each frontend holds."""
    drain_s: float = Field(default=30.0, ge=0, le=3600)
    name: str | None = None
    """The daemon's name in the registry; ``None``: made of the host's name and the state folder."""
    actor: str | None = None
    """Who adopts and activates, as records will say; ``None``: ``serverd@<host>``."""
    trusted_keys: dict[str, str] | None = None
    """Publishers (name → public key) whose signature every version needs here; ``None``: as each policy says."""
    ready_fd: int | None = None
    """Where the starter reads JSON lines: progress, then ready or failed."""
    lifeline_fd: int | None = None
    """When this reaches its end the starter is gone and the daemon drains; ``None``: it lives on."""
    takes_over: Path | None = None
    """Where to ask the daemon that runs for its place; ``None``: there is none."""
    abandon_fd: int | None = None
    """When this reaches its end before the daemon has taken over, nobody wants it any more."""
    foreground: bool = False
    """The process was started by a supervisor, which waits for this very process."""

    def for_successor(self, *, port: int, admin_port: int | None, watch: bool) -> dict[str, Any]:
        """Return the settings of a daemon that is to go on in this one's place, with what has been settled since."""
        inherited = self.model_dump(mode="json", exclude={"ready_fd", "lifeline_fd", "takes_over", "abandon_fd"})
        return inherited | {"port": port, "admin_port": admin_port, "watch": watch}

    @property
    def frontend_count(self) -> int:
        """Return how many frontends to start."""
        return self.frontends or max(1, min(MOST_AUTO_FRONTENDS, len(os.sched_getaffinity(0)) // 2))

    @property
    def frontend_options(self) -> tuple[str, ...]:
        """Return what each frontend's command line says of limits."""
        slow = () if self.slow_s is None else ("--slow-s", str(self.slow_s))
        return (
            *slow,
            *("--max-body-bytes", str(self.max_body_bytes)),
            *("--max-connections", str(self.max_connections)),
            *("--cache-bytes", str(self.prediction_cache_bytes)),
        )


def parse_settings(data: bytes) -> DaemonSettings:
    """Parse what the starter wrote. Raises InvalidSetting, which names the field."""
    try:
        return DaemonSettings.model_validate_json(data)
    except ValidationError as error:
        finding = error.errors()[0]
        name = ".".join(str(part) for part in finding["loc"]) or "settings"
        raise InvalidSetting(f"{name}: {finding['msg']}", hint="see docs/operations.md", setting=name) from error


def default_name(host: str, settings: DaemonSettings) -> str:
    """Return a name for the daemon that follows the grammar and differs for each state folder of a host."""
    tag = runtime_dir(settings.state_dir).name.rpartition("-")[2]
    bare = re.sub(r"[^a-z0-9-]+", "-", host.lower()).strip("-")[:50] or "host"
    return f"{bare}-{tag}"
