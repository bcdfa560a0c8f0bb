"""Settings file of a site, `medsam3.toml`; docs/operations.md has an example.

The file named by `MEDSAM3_SETTINGS`, else `medsam3.toml` beside the store (for an object store: in the working folder).
Without a file all settings have their defaults.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from flows.settings.clusters import ClusterSettings, parse_cluster
from flows.settings.defaults import LEFTOVER_HOURS, METRICS
from medsam3_core.agent.chat import Price
from medsam3_core.errors import UsageError
from storage.store.locations import is_remote, location
from storage.store.request_schema import STRICT
from tasks.agent.endpoint import EndpointSettings

VARIABLE = "MEDSAM3_SETTINGS"
FILE_NAME = "medsam3.toml"
_Seconds = Annotated[float, Field(gt=0)]
_ENDPOINT = EndpointSettings()


def _of_segment(form: str) -> str:
    """Check the name of a format that `medsam3 segment` writes; empty stays empty."""
    from storage.exports.registry import ExportCommand, format_named

    return format_named(form, ExportCommand.SEGMENT).name if form else ""


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Settings of `medsam3 watch`.

    Attributes:
        weights: Names of watched weights; empty for all registered ones.
        every_seconds: Interval between checks.
        quiet_seconds: Time without changes after which a file counts as completely written.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    weights: tuple[str, ...] = ()
    every_seconds: _Seconds = 30.0
    quiet_seconds: _Seconds = 5.0


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Comparison of new weights with the previous version.

    Attributes:
        metrics: Compared columns of `scores`.
        margins: Tolerated decline of the mean, by metric.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = METRICS
    margins: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """Notifications about triggered benchmarks and alerts; off by default.

    Attributes:
        command: Program and arguments; receives the message as JSON on stdin.
        webhook: URL to which the message is posted as JSON; empty for none.
        timeout_seconds: Time limit of either.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    command: tuple[str, ...] = ()
    webhook: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    timeout_seconds: _Seconds = 30.0


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Archive that the deployment `segment-archive` segments every night; none by default.

    Attributes:
        source: Folder of the archive.
        weights: `NAME` or `NAME@N`.
        texts: Structures to segment.
        out: Output folder.
        form: Output format, as in `medsam3 segment --format`; empty for `nifti`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str = ""
    weights: str = ""
    texts: tuple[str, ...] = ()
    out: str = ""
    form: Annotated[str, AfterValidator(_of_segment)] = ""

    def completed(self, known: Self) -> Self:
        """These settings, with empty fields taken from `known`."""
        given = {item.name: value for item in fields(self) if (value := getattr(self, item.name))}
        return replace(known, **given)


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    """Limits for `medsam3 prune` and the deployment `maintenance`.

    Attributes:
        encodings: Size to which the cache of slice encodings is trimmed, such as `20GB`; empty leaves it.
        leftover_hours: Age from which a scratch file counts as a leftover; longer than any file takes to write.
        files_per_run: Number of score files above which those of a run are compacted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    encodings: str = ""
    leftover_hours: Annotated[float, Field(ge=0)] = LEFTOVER_HOURS
    files_per_run: Annotated[int, Field(gt=0)] = 500


@dataclass(frozen=True, slots=True)
class AgentSite:
    """Language model of the policy `agent`; `MEDSAM3_AGENT_URL` and `MEDSAM3_AGENT_MODEL` override it.

    Attributes:
        url: Base URL of an OpenAI-compatible endpoint; empty for none.
        model: Default of the setting `agent_model`; empty for the built-in rules.
        key_variable: Environment variable that holds the API key.
        timeout_seconds: Time limit of one reply.
        tries: Attempts before a case counts as failed.
        backoff_seconds: Pause before the second attempt; doubles with each.
        prices: Price per million tokens, by model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    model: str = ""
    key_variable: str = _ENDPOINT.key_variable
    timeout_seconds: _Seconds = _ENDPOINT.timeout_seconds
    tries: Annotated[int, Field(ge=1, le=20)] = _ENDPOINT.tries
    backoff_seconds: _Seconds = _ENDPOINT.backoff_seconds
    prices: Mapping[str, Price] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections of the file; an absent section has its defaults."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    clusters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    watch: WatchSettings = field(default_factory=WatchSettings)
    compare: CompareSettings = field(default_factory=CompareSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    agent: AgentSite = field(default_factory=AgentSite)


def settings_file(store_root: Path | str) -> Path:
    """Path of the settings file of a store, existing or not."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    root = location(store_root)
    return (Path.cwd() if is_remote(root) else root.absolute().parent) / FILE_NAME


def read_settings(store_root: Path | str) -> Settings:
    """Read the settings of a store.

    Raises:
        UsageError: If the file is named but absent, is not TOML, or has an unknown key or wrong value; names both.
    """
    path = settings_file(store_root)
    if not path.exists():
        if VARIABLE not in os.environ:
            return Settings()
        msg = f"{VARIABLE} names {path}, which does not exist; create it or unset the variable"
        raise UsageError(msg)
    try:
        return TypeAdapter(Settings).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"settings {path} cannot be read: {error}"
        raise UsageError(msg) from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        msg = f"settings {path}: {found}"
        raise UsageError(msg) from error


def named_cluster(name: str, store_root: Path | str) -> ClusterSettings:
    """A cluster by name, see `parse_cluster`, with the settings file of this store."""
    return parse_cluster(name, read_settings(store_root).clusters)
