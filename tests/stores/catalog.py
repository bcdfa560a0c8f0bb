"""A store of tables written by hand, so that the catalog's answers are arithmetic."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from storage.store import schemas
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout
from storage.store.tables import write_rows

START = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
DIGEST = "digest-1"


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


@dataclass
class HandmadeStore:
    """One cohort `hearts`; runs, attempts and scores as a test needs them."""

    root: Path
    cohort: str = "hearts"
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def layout(self) -> StoreLayout:
        return StoreLayout(self.root)

    def case(self, case_id: str, **values: Any) -> None:
        row = {
            "cohort": self.cohort,
            "case_id": case_id,
            "patient_id": case_id,
            "split": "test",
            "status": "accepted",
            "case_digest": DIGEST,
            "ndim": 3,
            "source": f"{case_id}.nii.gz",
            "ingested_at": at(0),
        }
        write_rows(self.layout.cases(self.cohort), [row | values], schemas.CASES)

    def run(self, run_id: str, **values: Any) -> None:
        run = {
            "run_id": run_id,
            "weights": "net",
            "weights_version": 1,
            "weights_sha256": "a" * 64,
            "cohort": self.cohort,
            "prompt": "text",
            "prompt_id": "p1",
            "privileged": False,
            "settings": "",
            "settings_id": "s1",
            "inference_code": "1",
            "git_commit": None,
            "machine": "here",
            "versions": "{}",
            "created_at": at(0).isoformat(),
        } | values
        self.weights[run_id] = run
        write_json(self.layout.run_json(run_id), run)

    def plan(self, run_id: str, *case_ids: str, structures: tuple[str, ...] = ("heart",)) -> None:
        rows = [
            {"run_id": run_id, "case_id": case, "rater": "r1", "structure": structure, "planned_at": at(1)}
            for case in case_ids
            for structure in structures
        ]
        write_rows(self.layout.plan(run_id), rows, schemas.PLAN)

    def outcome(self, run_id: str, case_id: str, **values: Any) -> None:
        row = {
            "run_id": run_id,
            "case_id": case_id,
            "attempt": "a1",
            "case_digest": DIGEST,
            "status": "scored",
            "seconds_segment": 2.0,
            "finished_at": at(10),
        }
        write_rows(self.layout.outcomes(run_id), [row | values], schemas.OUTCOMES)

    def score(self, run_id: str, case_id: str, dice: float | None = None, **values: Any) -> None:
        """A row of the table, not of the ledger; `dice` None is a row without score."""
        run = self.weights[run_id]
        shared = ("run_id", "weights", "weights_version", "weights_sha256", "cohort", "prompt", "prompt_id")
        row = {name: run[name] for name in (*shared, "settings_id", "privileged")} | {
            "attempt": "a1",
            "split": "test",
            "in_training": False,
            "case_id": case_id,
            "case_digest": DIGEST,
            "patient_id": case_id,
            "rater": "r1",
            "structure": "heart",
            "status": "failed" if dice is None else "scored",
            "empty": None if dice is None else "none",
            "dice": dice,
            "nsd": dice,
            "hd95": None if dice is None else 10 * dice,
            "distance_unit": None if dice is None else "mm",
            "finished_at": at(10),
            "protocol": PROTOCOL_VERSION,
        }
        write_rows(self.layout.scores(run_id), [row | values], schemas.SCORES)

    def scored(self, run_id: str, case_id: str, dice: float | None, **values: Any) -> None:
        """Score and outcome of one case, as a worker leaves them."""
        shared = {name: values[name] for name in ("attempt", "case_digest", "finished_at", "status") if name in values}
        self.score(run_id, case_id, dice, **values)
        self.outcome(run_id, case_id, **({"status": "scored" if dice is not None else "failed"} | shared))
