"""The metrics, one row each: schemas, views, comparisons, pages and docs/metrics.md are derived from this table.

A metric is a function of a `MeasuredPair`, which holds everything that costs time (counts, distances, matches).
Importing the table needs neither scipy nor scikit-image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medsam3_core.metrics import instances, overlap, surface

SHARE = "share, 0 to 1"
DISTANCE = "mm or px"


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPair:
    """Reference and prediction of one structure of one case, measured once for all metrics.

    Attributes:
        counts: Voxel counts of the two masks.
        distances: Distances between their surfaces, in the unit of the spacing.
        nsd_tolerance: NSD tolerance of the structure, in the same unit.
        cldice: Centreline Dice; NaN unless the structure is tubular.
        matches: Instances that pair up; None unless the structure comes in instances and both maps are given.
    """

    counts: overlap.ConfusionCounts
    distances: surface.SurfaceDistances
    nsd_tolerance: float
    cldice: float
    matches: instances.InstanceCounts | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of `scores` that is averaged, ranked and compared.

    Attributes:
        name: Column.
        label: Name on pages.
        definition: One line; R is the reference, P the prediction.
        value: The function; NaN or infinity if it is undefined.
        source: Literature.
        unit: Unit of a value: `SHARE`, `DISTANCE` (the unit of the row) or a description.
        upper: Maximum value; None without a bound. The minimum is 0.
        higher_is_better: True if 0 is the worst value, as which failed cases may count; else there is no worst value.
        needs_one_unit: True if values in mm and in px cannot be averaged together.
        always_defined: True if every structure has it; else it may not apply.
        symmetric: True if reference and prediction may be swapped, so that it measures the agreement of two raters.
        empty: Value if both masks are empty, the prediction alone, the reference alone; NULL is undefined.
    """

    name: str
    label: str
    definition: str
    value: Callable[[MeasuredPair], float]
    source: str = ""
    unit: str = SHARE
    upper: float | None = 1.0
    higher_is_better: bool = True
    needs_one_unit: bool = False
    always_defined: bool = True
    symmetric: bool = True
    empty: tuple[str, str, str] = ("NULL", "0", "0")

    @property
    def is_distance(self) -> bool:
        """True if its unit is the `distance_unit` of the row."""
        return self.unit == DISTANCE


def _of_instances(function: Callable[[instances.InstanceCounts], float]) -> Callable[[MeasuredPair], float]:
    return lambda pair: float("nan") if pair.matches is None else function(pair.matches)


_TABLE = (
    Metric(
        "dice",
        "Dice",
        "Dice similarity coefficient, 2 |R ∩ P| / (|R| + |P|)",
        lambda pair: overlap.dice(pair.counts),
        "Dice 1945",
    ),
    Metric(
        "iou",
        "IoU",
        "intersection over union (Jaccard), |R ∩ P| / (|R| + |P| - |R ∩ P|)",
        lambda pair: overlap.iou(pair.counts),
        "Jaccard 1912",
    ),
    Metric(
        "nsd",
        "Surface Dice (NSD)",
        "normalised surface Dice: share of the border voxels of both masks that lie within `nsd_tolerance` of the "
        "other surface",
        lambda pair: surface.nsd(pair.distances, pair.nsd_tolerance),
        "Nikolov et al. 2018 (arXiv 1809.04430), by voxels as in Seidlitz et al. 2021 (arXiv 2111.05408)",
        needs_one_unit=True,
    ),
    Metric(
        "precision",
        "Precision",
        "share of the prediction inside the reference, |R ∩ P| / |P|",
        lambda pair: overlap.precision(pair.counts),
        symmetric=False,
    ),
    Metric(
        "recall",
        "Recall",
        "share of the reference inside the prediction (sensitivity), |R ∩ P| / |R|",
        lambda pair: overlap.recall(pair.counts),
        symmetric=False,
    ),
    Metric(
        "specificity",
        "Specificity",
        "share of the background of R that P leaves free; depends on how much background the image shows",
        lambda pair: overlap.specificity(pair.counts),
        symmetric=False,
        empty=("1", "1", "below 1"),
    ),
    Metric(
        "hd95",
        "HD95",
        "95th percentile Hausdorff distance: the larger of the two directed 95th percentiles of the surface "
        "distances, linear interpolation",
        lambda pair: surface.hd95(pair.distances),
        "Huttenlocher et al. 1993; Taha and Hanbury 2015",
        unit=DISTANCE,
        upper=None,
        higher_is_better=False,
        needs_one_unit=True,
        always_defined=False,
        empty=("NULL", "NULL", "NULL"),
    ),
    Metric(
        "assd",
        "ASSD",
        "average symmetric surface distance, border voxels of both masks pooled",
        lambda pair: surface.assd(pair.distances),
        "Heimann et al. 2009",
        unit=DISTANCE,
        upper=None,
        higher_is_better=False,
        needs_one_unit=True,
        always_defined=False,
        empty=("NULL", "NULL", "NULL"),
    ),
    Metric(
        "ravd",
        "Volume difference (RAVD)",
        "relative absolute volume difference, | |P| - |R| | / |R|; looks at sizes alone",
        lambda pair: overlap.ravd(pair.counts),
        "Heimann et al. 2009 (SLIVER07)",
        unit="share of the reference volume",
        upper=None,
        higher_is_better=False,
        symmetric=False,
        empty=("NULL", "1", "NULL"),
    ),
    Metric(
        "cldice",
        "Centreline Dice",
        "centreline Dice: harmonic mean of the share of P's centreline in R and of R's centreline in P; tubular "
        "structures only",
        lambda pair: pair.cldice,
        "Shit et al., CVPR 2021",
        always_defined=False,
    ),
    Metric(
        "instance_precision",
        "Instance precision at IoU 0.5",
        "share of the instances of P with a partner of IoU above 0.5",
        _of_instances(instances.instance_precision),
        always_defined=False,
        symmetric=False,
    ),
    Metric(
        "instance_recall",
        "Instance recall at IoU 0.5",
        "share of the instances of R with a partner of IoU above 0.5",
        _of_instances(instances.instance_recall),
        always_defined=False,
        symmetric=False,
    ),
    Metric(
        "instance_f1",
        "Instance F1 at IoU 0.5",
        "harmonic mean of `instance_precision` and `instance_recall`",
        _of_instances(instances.instance_f1),
        always_defined=False,
    ),
    Metric(
        "pq",
        "Panoptic quality",
        "panoptic quality: summed IoU of the matched instances / mean number of instances",
        _of_instances(instances.panoptic_quality),
        "Kirillov et al., CVPR 2019",
        always_defined=False,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Metrics by column, in the order of tables and pages."""
