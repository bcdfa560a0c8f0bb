"""The log of a training run as a picture: the loss, its parts, and validation if there was any."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from storage.store.atomic import replacing

_SIZE, _MARGIN, _GAP, _TOP = (960, 720), 56, 40, 40
_COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f", "#bcbd22", "#e377c2",
    "#000080", "#a0522d", "#008080",
)  # fmt: skip
_INK, _GRID = "#222222", "#dddddd"
_HIDDEN = frozenset({"step", "steps", "epoch", "learning_rate", "grad_norm", "total_flos"})

Curve = list[tuple[float, float]]


def write_curves(target: Path, log: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the log as PNG; a log without numbers gives empty axes."""
    losses = _curves(log, lambda name: not name.startswith(("eval_", "train_")))
    total = {name: losses.pop(name) for name in ("loss",) if name in losses}
    scores = _curves(log, lambda name: name.startswith("eval_"))
    panels: list[tuple[str, dict[str, Curve], tuple[float, float] | None]]
    panels = [("loss", total, None), ("parts of the loss, weighted", losses, None)]
    panels += [("validation", scores, (0.0, 1.0))] if scores else []
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 8), f"{title}, by step", fill=_INK, font=ImageFont.load_default())
    height = (_SIZE[1] - _TOP) // len(panels)
    for number, (name, curves, limits) in enumerate(panels):
        top = _TOP + number * height
        _panel(draw, (_MARGIN, top, _SIZE[0] - 220, top + height - _GAP), curves, name, limits)
    with replacing(target) as scratch:
        image.save(scratch, format="PNG")


def _curves(log: Sequence[Mapping[str, Any]], wanted: Any) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for entry in log:
        for name, value in entry.items():
            if wanted(name) and name not in _HIDDEN and isinstance(value, int | float):
                curves.setdefault(name.removeprefix("eval_"), []).append((float(entry["step"]), float(value)))
    return curves


def _panel(
    draw: ImageDraw.ImageDraw,
    frame: tuple[int, int, int, int],
    curves: Mapping[str, Curve],
    title: str,
    limits: tuple[float, float] | None,
) -> None:
    left, top, right, bottom = frame
    font = ImageFont.load_default()
    draw.rectangle(frame, outline=_INK)
    draw.text((left + 4, top - 12), title, fill=_INK, font=font)
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return
    last = max(max(x for x, _ in points), 1.0)
    low, high = limits or (0.0, max(max(y for _, y in points), 1e-6))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        draw.line([(left, y), (right, y)], fill=_GRID)
        draw.text((left - 44, y - 6), f"{low + share * (high - low):.3g}", fill=_INK, font=font)
        draw.text((left + share * (right - left) - 10, bottom + 4), f"{share * last:.0f}", fill=_INK, font=font)
    for index, (name, curve) in enumerate(sorted(curves.items())):
        colour = _COLOURS[index % len(_COLOURS)]
        path = [
            (left + x / last * (right - left), bottom - (min(max(y, low), high) - low) / (high - low) * (bottom - top))
            for x, y in curve
        ]
        draw.line(path, fill=colour, width=2) if len(path) > 1 else draw.point(path, fill=colour)
        draw.text((right + 8, top + 2 + 13 * index), f"{name} {curve[-1][1]:.3g}"[:34], fill=colour, font=font)
