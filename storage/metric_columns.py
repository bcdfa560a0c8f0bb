"""Columns of `scores` that are averaged and compared: one list for views, comparisons and pages."""

METRICS = (
    "dice", "iou", "nsd", "precision", "recall", "specificity", "hd95", "assd", "cldice",
    "instance_precision", "instance_recall", "instance_f1", "pq",
)  # fmt: skip
DISTANCES = ("hd95", "assd")
"""Metrics that are better when smaller; they have no worst value, which failures could take."""

IN_UNITS = ("nsd", *DISTANCES)
"""Metrics that mean something else in mm than in px: undefined over cases of both."""

ALWAYS_DEFINED = ("dice", "iou", "nsd", "precision", "recall", "specificity")
"""Metrics that every structure has; the others may not apply to it."""
