"""The settings file of a site, `medsam3.toml`: what differs from place to place and is no property of one command.

    [clusters.big]                    # clusters by name, see flows.settings.clusters
    kind = "address"

    [watch]                           # medsam3 watch
    weights = ["sam3"]                # default: all registered weights
    every_seconds = 30
    quiet_seconds = 5                 # a file that changed less long ago is still being written

    [compare]                         # when is a triggered benchmark a regression?
    metrics = ["dice", "nsd"]
    margins = { dice = 0.01 }

    [notify]                          # off unless one is given
    command = ["/usr/local/bin/tell-the-team"]
    webhook = "https://chat.example.org/hooks/abc"

    [agent]                           # language models for the policy agent; none is asked without a url
    url = "http://127.0.0.1:11434/v1"
    model = "qwen3"                   # default of agent_model; without it the rules answer
    prices = { "big-model" = { tokens_in = 2.5, tokens_out = 10.0 } }   # money per million tokens

    [archive]                         # what the deployment segment-archive does every night
    source = "/data/pacs"
    weights = "medsam3"
    texts = ["liver", "spleen"]
    out = "/data/masks"
    form = "dicom-seg"

    [maintenance]
    encodings = "20GB"                # size to which the cache of slice encodings is trimmed

The file is the one that `MEDSAM3_SETTINGS` names, else `medsam3.toml` beside the store (of an object
store: in the working folder); without it all is default.
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
    """The name of a format that `medsam3 segment` writes; empty stays empty."""
    from storage.exports.registry import ExportCommand, format_named

    return format_named(form, ExportCommand.SEGMENT).name if form else ""


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What `medsam3 watch` looks at.

    Attributes:
        weights: Weights by name; empty for all that are registered.
        every_seconds: Pause between two looks.
        quiet_seconds: How long a file must not have changed before it counts as written.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    weights: tuple[str, ...] = ()
    every_seconds: _Seconds = 30.0
    quiet_seconds: _Seconds = 5.0


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """What makes a regression of new weights.

    Attributes:
        metrics: Columns of `scores` that are compared.
        margins: Per metric, how much worse the mean may get.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = METRICS
    margins: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """Who is told about the end of a triggered benchmark and about alerts; nobody by default.

    Attributes:
        command: Program and arguments; gets the message as JSON on stdin.
        webhook: URL that the message is posted to as JSON; empty for none.
        timeout_seconds: How long either may take.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    command: tuple[str, ...] = ()
    webhook: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    timeout_seconds: _Seconds = 30.0


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """What the deployment `segment-archive` does every night; nothing by default.

    Attributes:
        source: Folder of the archive.
        weights: `NAME` or `NAME@N`.
        texts: What to look for.
        out: Folder for the segmentations.
        form: How they are written, as in `medsam3 segment --format`; empty for `nifti`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str = ""
    weights: str = ""
    texts: tuple[str, ...] = ()
    out: str = ""
    form: Annotated[str, AfterValidator(_of_segment)] = ""

    def completed(self, known: Self) -> Self:
        """These settings, with what they leave out taken from others."""
        given = {item.name: value for item in fields(self) if (value := getattr(self, item.name))}
        return replace(known, **given)


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    """What `medsam3 prune` and the deployment `maintenance` leave.

    Attributes:
        encodings: Size to which the cache of slice encodings is trimmed, such as `20GB`; empty leaves it.
        leftover_hours: Age from which a scratch file counts as a killed process's; longer than any file takes to write.
        files_per_run: Number of score files of one run above which they are compacted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    encodings: str = ""
    leftover_hours: Annotated[float, Field(ge=0)] = LEFTOVER_HOURS
    files_per_run: Annotated[int, Field(gt=0)] = 500


@dataclass(frozen=True, slots=True)
class AgentSite:
    """Where the policy `agent` may ask a language model; `MEDSAM3_AGENT_URL` and `MEDSAM3_AGENT_MODEL` win.

    Attributes:
        url: Base URL of an OpenAI-compatible endpoint; empty for none.
        model: Default of the setting `agent_model`; empty for the rules.
        key_variable: Environment variable that holds the key.
        timeout_seconds: How long one answer may take.
        tries: How often is asked before a case counts as failed.
        backoff_seconds: Pause before the second try; it doubles.
        prices: Money per million tokens, by model.
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
    """All sections; a section that the file lacks has its defaults."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    clusters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    watch: WatchSettings = field(default_factory=WatchSettings)
    compare: CompareSettings = field(default_factory=CompareSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    agent: AgentSite = field(default_factory=AgentSite)


def settings_file(store_root: Path | str) -> Path:
    """Where the settings of a store are, whether the file exists or not."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    root = location(store_root)
    return (Path.cwd() if is_remote(root) else root.absolute().parent) / FILE_NAME


def read_settings(store_root: Path | str) -> Settings:
    """The settings that hold for a store.

    Raises:
        UsageError: If the file is named but absent, is not TOML, or has a key or value that nobody reads; names both.
    """
    path = settings_file(store_root)
    if not path.exists():
        if VARIABLE not in os.environ:
            return Settings()
        msg = f"{VARIABLE} names {path}, which does not exist; write it or unset the variable"
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
    """A cluster by name, as `parse_cluster` and the settings file of this store have it."""
    return parse_cluster(name, read_settings(store_root).clusters)
