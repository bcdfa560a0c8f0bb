"""A store from Python: its views as DataFrames, comparisons, and the two commands that fill it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medsam3.commands import options, run_command
from storage.catalog.guard import run_sql
from storage.catalog.queries.views import read_view
from storage.comparisons.comparison import Comparison, ComparisonRequest, compare_weights
from storage.store.layout import DEFAULT_STORE, STORE_VARIABLE, StoreLayout, existing_store
from storage.store.layout import open_store as create_store
from storage.store.locations import location
from storage.weights.registry import add_weights


@dataclass(frozen=True, slots=True)
class Store:
    """A store of cohorts, weights, runs and scores.

    Attributes:
        root: Folder, or a path on `s3://`.
    """

    root: Path

    @property
    def layout(self) -> StoreLayout:
        """Paths inside the store, for internal modules."""
        return StoreLayout(self.root)

    def sql(self, query: str) -> pd.DataFrame:
        """Answer one SELECT over the views, as `medsam3 sql` does.

        Raises:
            UsageError: If it is not one SELECT over the views; names the reason.
            StoreError: If a table that it needs is damaged or newer than this version.
        """
        frame: pd.DataFrame = run_sql(self.layout, query).to_pandas()
        return frame

    def view(self, name: str) -> pd.DataFrame:
        """One view whole, such as `scores`, `leaderboard`, `cases` or `failures`; docs/reference/catalog.md lists them.

        Raises:
            UsageError: If there is no such view; lists what exists.
        """
        frame: pd.DataFrame = read_view(self.layout, name).to_pandas()
        return frame

    def compare(
        self,
        base: str,
        new: str,
        *,
        cohorts: Sequence[str] = (),
        split: str | None = None,
        metrics: Sequence[str] = ("dice",),
    ) -> Comparison:
        """Compare two weights, paired by case, rater, structure and prompt, with patients as independent units.

        Args:
            base: `NAME` or `NAME@N`.
            new: `NAME` or `NAME@N`.
            cohorts: Cohorts by name; empty for all that both were run on.
            split: Split; None for all cases.
            metrics: Columns of `scores`.

        Raises:
            UsageError: If the two have no runs in common; lists what can be compared.
        """
        return compare_weights(self.layout, ComparisonRequest(base, new, tuple(cohorts), split, tuple(metrics)))

    def add_weights(self, name: str, path: str | Path) -> str:
        """Register a checkpoint file, folder or `hf://` location; returns `NAME@N`.

        Raises:
            WeightsError: If a tensor is missing, left over or of another shape.
        """
        added = add_weights(self.layout, name, path)
        return f"{added.name}@{added.version}"

    def ingest(
        self,
        source: str | Path,
        cohort: str,
        *,
        reader: str | None = None,
        split: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Convert a source to OME-Zarr, as `medsam3 ingest` does; cases that are unchanged are not read again.

        Args:
            source: Folder, or `phantom:KIND`.
            cohort: Name of the cohort.
            reader: Recipe or layout by name; None finds it by the files.
            split: Split of all cases, instead of the recipe's rule.
            limit: Number of cases at most.

        Returns:
            Rows of the view `cases` of this cohort: accepted, or rejected with a reason.

        Raises:
            UsageError: If the source or a name is refused; the message names value and remedy.
        """
        words = [str(source), "--cohort", cohort]
        words += [*options("reader", [reader]), *options("split", [split]), *options("limit", [limit])]
        run_command(self.root, "ingest", words)
        cases = self.view("cases")
        return cases[cases["cohort"] == cohort].reset_index(drop=True)

    def benchmark(
        self,
        cohorts: Sequence[str],
        weights: Sequence[str],
        prompts: Sequence[str],
        *,
        settings: Sequence[str] = (),
        split: str | None = None,
        structures: Sequence[str] = (),
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Segment and score every case that has no fresh score yet, as `medsam3 benchmark` does.

        Args:
            cohorts: Cohorts by name.
            weights: Weights as `NAME` or `NAME@N`.
            prompts: Prompt policies, such as `text` or `box:jitter=0.1`.
            settings: Inference settings as `key=value`.
            split: Split, `all`, or None for `test` where the cohort has one and all cases otherwise.
            structures: Structures by name; empty for all.
            limit: Number of cases per cohort at most.

        Returns:
            Rows of the view `leaderboard` of these cohorts, means beside their denominators.

        Raises:
            UsageError: If a name does not exist; lists what exists.
        """
        words = [*options("cohort", cohorts), *options("weights", weights), *options("prompt", prompts)]
        words += [*options("set", settings), *options("split", [split]), *options("structure", structures)]
        run_command(self.root, "benchmark", [*words, *options("limit", [limit])])
        board = self.view("leaderboard")
        return board[board["cohort"].isin(list(cohorts))].reset_index(drop=True)


def open_store(root: str | Path | None = None, *, create: bool = False) -> Store:
    """Open a store.

    Args:
        root: Folder or `s3://` path; None for `$MEDSAM3_STORE`, else `medsam3-store`.
        create: Make an empty store where there is none.

    Raises:
        StoreError: If there is none and `create` is false; says how to make one.
    """
    place = location(root if root is not None else os.environ.get(STORE_VARIABLE, DEFAULT_STORE))
    return Store((create_store if create else existing_store)(place).root)
