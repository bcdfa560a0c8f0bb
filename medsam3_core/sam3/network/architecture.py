"""Architectures of SAM3 as `transformers` configurations, corrected to match the official results."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Sam3Config, Sam3TrackerVideoConfig

from medsam3_core.errors import UsageError, WeightsError

OFFICIAL_LAYER_NORM_EPS = 1e-5
"""The official trunk uses plain LayerNorms; the default of `transformers`, 1e-6, costs 1.5 digits."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """Configuration of the detector and of the tracker (interactive head and propagation), if there is one."""

    detector: Sam3Config
    tracker: Sam3TrackerVideoConfig | None = None

    @property
    def resolution(self) -> int:
        """Input side in pixels."""
        size = self.detector.vision_config.backbone_config.image_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        size = self.detector.vision_config.backbone_config.patch_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def grid(self) -> int:
        """Side of the token grid."""
        return self.resolution // self.patch_size

    @property
    def propagates(self) -> bool:
        """True if the tracker's memory is trained; `"propagation": false` in its configuration denies it.

        The official weights are trained for it, ours for single slices only: an untrained memory would draw noise.
        """
        return self.tracker is not None and bool(getattr(self.tracker, "propagation", True))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Input sides that these weights accept: their own and half of it (504 for the released 1008)."""
        own = self.resolution
        return (own, own // 2) if own % (2 * self.patch_size) == 0 else (own,)

    def at(self, resolution: int) -> "Architecture":
        """The same architecture for another input side; 0 is its own.

        The position table is tiled over the grid: sizes change, tensors do not.

        Raises:
            UsageError: If the weights do not accept this resolution; lists the accepted ones.
        """
        if resolution in (0, self.resolution):
            return self
        if resolution not in self.resolutions:
            allowed = ", ".join(map(str, self.resolutions))
            msg = f"resolution={resolution} does not fit these weights; they take {allowed} (0 is their own)"
            raise UsageError(msg)
        detector, tracker = copy.deepcopy(self.detector), copy.deepcopy(self.tracker)
        detector.vision_config.backbone_config.image_size = resolution
        _set_feature_sizes(detector.vision_config)
        if tracker is not None:
            tracker.image_size = resolution
        return Architecture(detector, tracker)


def released_architecture(*, tracker: bool) -> Architecture:
    """The full-size architecture of the released SAM3 (840 million parameters in the detector)."""
    return architecture_from({}, {} if tracker else None)


def architecture_from(detector: Mapping[str, Any], tracker: Mapping[str, Any] | None = None) -> Architecture:
    """Read configurations in Hugging Face format.

    Args:
        detector: A `Sam3Config`, or a `sam3_video` configuration with detector and tracker.
        tracker: A `Sam3TrackerVideoConfig`; `{}` is the released tracker on the detector's trunk.

    Raises:
        WeightsError: If it is the configuration of another model, or `transformers` rejects it.
    """
    kind = detector.get("model_type", "sam3")
    if kind == "sam3_video":
        tracker = detector.get("tracker_config") if tracker is None else tracker
        detector = detector.get("detector_config") or {}
    elif kind != "sam3":
        msg = f"config.json describes a {kind!r}, not a SAM3 (model_type 'sam3' or 'sam3_video')"
        raise WeightsError(msg)
    try:
        config = Sam3Config(**_plain(detector))
        _correct(config.vision_config)
        return Architecture(config, None if tracker is None else _tracker_config(tracker, config))
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        msg = f"config.json is not a valid SAM3 configuration: {' '.join(str(error).split())}"
        raise WeightsError(msg) from error


def _tracker_config(given: Mapping[str, Any], detector: Sam3Config) -> Sam3TrackerVideoConfig:
    """Configuration of the tracker on the detector's trunk, which replaces its own."""
    plain = _plain(given)
    vision = _plain(plain.get("vision_config") or {})
    trunk = detector.vision_config.backbone_config
    vision["backbone_config"] = trunk.to_dict()
    # Without image_size the constructor sets every size to 1008.
    config = Sam3TrackerVideoConfig(**plain | {"vision_config": vision, "image_size": trunk.image_size})
    _correct(config.vision_config)
    return config


def _correct(vision_config: Any) -> None:
    vision_config.backbone_config.layer_norm_eps = OFFICIAL_LAYER_NORM_EPS
    _set_feature_sizes(vision_config)


def _set_feature_sizes(vision_config: Any) -> None:
    """Set the sides of the feature maps: 4, 2 and 1 times the token grid."""
    trunk = vision_config.backbone_config
    grid = trunk.image_size // trunk.patch_size
    vision_config.backbone_feature_sizes = [[scale * grid, scale * grid] for scale in (4, 2, 1)]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the fields for class and release."""
    return {key: value for key, value in config.items() if key not in {"model_type", "transformers_version"}}
