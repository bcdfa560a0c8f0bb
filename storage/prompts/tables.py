"""Prompts in the store: made once per cohort and policy, shared by all weights and settings."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.prompts.rows import PromptRow, RowKind
from storage.cohorts.cohorts import CaseRef
from storage.store.layout import StoreLayout
from storage.store.schemas import PROMPTS
from storage.store.tables import read_file, rows_of_cases, table_files, write_rows

_KEYS = pa.schema([PROMPTS.field("case_id"), PROMPTS.field("case_digest")])
_COLUMNS = tuple(PromptRow.__dataclass_fields__)


def index_prompts(
    store: StoreLayout, cohort: str, prompt_id: str, wanted: Collection[str]
) -> dict[tuple[str, str], str]:
    """File that holds the prompts of each (case_id, case_digest), for the wanted cases that have prompts."""
    index: dict[tuple[str, str], str] = {}
    for path in table_files(store.prompts(cohort, prompt_id)):
        table = read_file(path, _KEYS)
        pairs = zip(table["case_id"].to_pylist(), table["case_digest"].to_pylist(), strict=True)
        index.update(dict.fromkeys((pair for pair in pairs if pair[0] in wanted), path.name))
    return index


def read_prompts(
    store: StoreLayout, cohort: str, prompt_id: str, files: Mapping[tuple[str, str], str]
) -> dict[str, list[PromptRow]]:
    """Prompts by case_id for the files of `index_prompts`; a case without any prompt has an empty list.

    Several files may hold prompts of a case, made for other weights or an older version of the case. Rows are read from
    the indexed file alone, and only with the indexed digest.
    """
    digests: dict[str, dict[str, str]] = {}
    for (case_id, case_digest), name in files.items():
        digests.setdefault(name, {})[case_id] = case_digest
    found: dict[str, list[PromptRow]] = {case_id: [] for case_id, _ in files}
    for name, wanted in sorted(digests.items()):
        table = read_file(store.prompts(cohort, prompt_id) / name, PROMPTS)
        for row in rows_of_cases([table], list(wanted)):
            if row["kind"] != "none" and row["case_digest"] == wanted[row["case_id"]]:
                found[row["case_id"]].append(_prompt_row(row))
    return found


def write_prompts(
    store: StoreLayout, prompt_id: str, policy: PromptPolicy, prompts: Mapping[CaseRef, Sequence[PromptRow]], name: str
) -> None:
    """Write the prompts of cases of one cohort as one file; a case without prompts gets a row of kind `none`."""
    rows: list[dict[str, Any]] = []
    for case, case_prompts in prompts.items():
        common = {
            "cohort": case.cohort,
            "prompt_id": prompt_id,
            "prompt": policy.canonical(),
            "privileged": policy.privileged,
            "case_digest": case.case_digest,
        }
        rows.extend(asdict(prompt) | common for prompt in case_prompts)
        if not case_prompts:
            rows.append(common | {"case_id": case.case_id, "kind": "none"})
    if rows:
        write_rows(store.prompts(next(iter(prompts)).cohort, prompt_id), rows, PROMPTS, name=name)


def _prompt_row(row: Mapping[str, Any]) -> PromptRow:
    values = {name: row[name] for name in _COLUMNS} | {"kind": RowKind(row["kind"])}
    if values["mask_rle"] is not None:
        values["mask_rle"] = tuple(values["mask_rle"])
    return PromptRow(**values)
