"""A store of tables alone, with scores that a test plants: no volumes, no predictions."""

import json

import numpy as np

from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from storage.store.layout import StoreLayout, utc_now
from storage.store.schemas import CASES, OUTCOMES, PLAN, SCORES
from storage.store.tables import write_rows

PROMPT, PROMPT_ID, SETTINGS_ID = "box:jitter=0,per=auto,slices=all", "p" * 12, "s" * 12


def plant_cohort(store: StoreLayout, cohort: str, patients: int, structures: tuple[str, ...], per_patient: int = 1):
    """Cases of a cohort; the case_ids."""
    rows = [
        {
            "cohort": cohort, "case_id": f"case_{patient:04}_{eye}", "patient_id": f"patient_{patient:04}",
            "split": None, "status": "accepted", "case_digest": f"digest-{patient}-{eye}", "modality": "CT", "ndim": 3,
            "raters": ["reference"], "structures": list(structures), "in_training": [], "source": "x",
            "distance_unit": "mm", "ingested_at": utc_now(),
        }
        for patient in range(patients)
        for eye in range(per_patient)
    ]  # fmt: skip
    write_rows(store.cases(cohort), rows, CASES)
    return rows


def plant_run(store: StoreLayout, cases, weights: str, dice, *, failed=(), prompt_id=PROMPT_ID, empty="none", px=()):
    """A finished run; `dice(structure)` gives one value per case; `failed` names cases without a score, `px` in px."""
    cohort = cases[0]["cohort"]
    run_id = f"{weights}-{cohort}".replace(":", "-")
    common = {
        "run_id": run_id, "weights": weights, "weights_version": 1, "weights_sha256": weights * 4, "cohort": cohort,
        "prompt": PROMPT, "prompt_id": prompt_id, "settings_id": SETTINGS_ID, "privileged": True,
    }  # fmt: skip
    store.run(run_id).mkdir(parents=True, exist_ok=True)
    facts = {"settings": "default", "inference_code": "1", "machine": "m", "versions": "{}"}
    store.run_json(run_id).write_text(json.dumps({**common, **facts, "created_at": utc_now().isoformat()}))
    structures = cases[0]["structures"]
    values = {structure: np.broadcast_to(dice(structure), len(cases)) for structure in structures}
    scores, outcomes, plan = [], [], []
    for number, case in enumerate(cases):
        broken = case["case_id"] in failed
        status = {"status": "failed", "reason": "planted"} if broken else {"status": "scored"}
        own = {"run_id": run_id, "attempt": "a", "case_id": case["case_id"], "case_digest": case["case_digest"]}
        outcomes.append({**own, **status, "seconds_segment": 0.5, "finished_at": utc_now()})
        for structure in structures:
            plan.append(
                {"run_id": run_id, "case_id": case["case_id"], "rater": "reference", "structure": structure,
                 "planned_at": utc_now()}
            )  # fmt: skip
            value = float(values[structure][number])
            measured = {"dice": value, "nsd": value, "hd95": 10 * (1 - value)}
            measured |= {"distance_unit": "px" if case["case_id"] in px else "mm"}
            numbers = {} if broken else {"empty": empty, **measured}
            scores.append(
                {**common, **own, **status, **numbers, "patient_id": case["patient_id"], "split": None, "ndim": 3,
                 "modality": "CT", "rater": "reference", "structure": structure, "in_training": False,
                 "finished_at": utc_now(), "protocol": PROTOCOL_VERSION}
            )  # fmt: skip
    write_rows(store.plan(run_id), plan, PLAN)
    write_rows(store.scores(run_id), scores, SCORES)
    write_rows(store.outcomes(run_id), outcomes, OUTCOMES)
    return run_id
