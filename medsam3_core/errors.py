"""Errors with messages for users: culprit, value, remedy.

The class decides what happens next: a `CaseDataError` rejects one case, a `UsageError` ends the command with exit
code 2, a `StoreError` or `WeightsError` stops a whole run (it would hit every case alike).
"""


class Medsam3Error(Exception):
    """Base of all errors that are shown to users without a traceback."""


class UsageError(Medsam3Error, ValueError):
    """The caller asked for something that does not exist or contradicts itself; nothing was done."""


class UnsupportedPromptError(UsageError):
    """The weights do not accept this kind of prompt; the message names weights that do."""


class CaseDataError(Medsam3Error):
    """The data of one case are unusable; only this case is recorded as rejected."""


class UnreadableFileError(CaseDataError):
    """A file is missing, truncated, or not in the format that its name says."""


class ShapeMismatchError(CaseDataError):
    """Image and reference differ in size or position."""


class LabelValueError(CaseDataError):
    """A reference holds values that are not labels, or labels that the recipe does not name."""


class NotBinaryError(LabelValueError):
    """A mask of one structure holds values besides background and structure."""


class WeightsError(Medsam3Error):
    """Weights cannot be loaded (missing file, foreign format, architecture that is not SAM3)."""


class WeightsMismatchError(WeightsError):
    """Tensors and architecture do not match one to one; the message names the first offenders."""


class TrainingError(Medsam3Error):
    """Training cannot continue (a loss that is not finite, a missing checkpoint)."""


class StoreError(Medsam3Error):
    """The store cannot be read or written (permissions, disk full, half-written or foreign content)."""


class DamagedFileError(StoreError):
    """One file of the store is missing or damaged; only the case that it belongs to fails."""
