"""Sentences that report a comparison, for the terminal, the dashboard and the report."""

from functools import partial

from medsam3_core.prompts.policies import short_prompt
from storage.comparisons.comparison import ALPHA, Comparison, StructureComparison, Verdict

_MAX_NAMED = 6


def comparison_sentences(comparison: Comparison) -> list[str]:
    """One sentence per verdict, regressions first."""
    base, new = (name.removesuffix("@1") for name in (comparison.request.base, comparison.request.new))
    by_verdict: dict[Verdict, list[StructureComparison]] = {}
    for item in comparison.structures:
        by_verdict.setdefault(item.verdict, []).append(item)
    named = partial(_named, several_raters=has_several_raters(comparison))
    sentences = []
    if worse := by_verdict.get(Verdict.WORSE):
        sentences.append(f"REGRESSION: {new} is worse than {base} on {named(worse)}.")
    elif is_tested(comparison):
        sentences.append(f"No regression of {new} against {base} is shown.")
    else:
        sentences.append(f"Nothing can be said about a regression of {new} against {base}: no structure was tested.")
    if within := by_verdict.get(Verdict.WITHIN_MARGIN):
        sentences.append(f"Worse, but within the margin: {named(within)}.")
    if better := by_verdict.get(Verdict.BETTER):
        sentences.append(f"Better on {named(better)}.")
    if same := by_verdict.get(Verdict.IDENTICAL):
        sentences.append(f"Identical in every pair: {named(same, numbers=False)}.")
    unclear = by_verdict.get(Verdict.NOT_SHOWN, [])
    if torn := [item for item in unclear if item.adjusted_p is not None and item.adjusted_p <= ALPHA]:
        sentences.append(f"Most patients and the mean disagree, so neither is shown: {named(torn)}.")
    if equal := [item for item in unclear if item not in torn]:
        sentences.append(f"No significant difference: {named(equal, numbers=False)}.")
    if few := by_verdict.get(Verdict.TOO_FEW):
        reasons = "; ".join(dict.fromkeys(item.numbers.reason or "" for item in few))
        sentences.append(f"Too few patients to test {named(few, numbers=False)}: {reasons}.")
    if empty := by_verdict.get(Verdict.NO_PAIRS):
        sentences.append(f"Nothing to compare on {named(empty, numbers=False)}: no pair has a value.")
    return sentences


def is_tested(comparison: Comparison) -> bool:
    """True if at least one structure was tested, or is identical in all pairs."""
    return any(item.verdict not in (Verdict.TOO_FEW, Verdict.NO_PAIRS) for item in comparison.structures)


def has_several_raters(comparison: Comparison) -> bool:
    """True if a cohort is compared against several raters, so that they must be named."""
    pairs = {(item.cohort, item.rater) for item in comparison.structures}
    return len(pairs) > len({cohort for cohort, _ in pairs})


def comparison_notes(comparison: Comparison) -> list[str]:
    """Explanations and reservations that apply to these numbers, one sentence each."""
    items = comparison.structures
    named = partial(_named, several_raters=has_several_raters(comparison), numbers=False)
    notes = [
        "difference: NEW minus BASE, mean over cases that hold the structure; [ ] 95 % cluster bootstrap by patient.",
        "p: Wilcoxon signed-rank on patient means, adjusted over structures (Holm). effect: rank-biserial, + is larger "
        "in NEW. w/t/l: patients for whom NEW is better, equal, worse.",
    ]
    first = [item for item in items if item.metric == comparison.request.metrics[0]]
    base, new = sum(item.base_failed for item in first), sum(item.new_failed for item in first)
    if base or new:
        notes.append(
            f"Pairs without a score: BASE {base}, NEW {new}; a failure counts as 0 where the other has a score, "
            "and is left out of distances."
        )
    if absent := sum(item.absent for item in first):
        base, new = sum(item.base_false_alarms for item in first), sum(item.new_false_alarms for item in first)
        notes.append(
            f"{absent} pairs lack the structure and are not in the means; false alarms: BASE {base}, NEW {new}."
        )
    if trained := sum(item.in_training for item in first):
        notes.append(f"{trained} pairs are left out: one of the weights was trained on the case.")
    if mixed := [item for item in items if item.two_units]:
        notes.append(
            f"No {' and no '.join(dict.fromkeys(item.metric for item in mixed))} of {named(mixed)}: "
            "some cases are in mm and others in px."
        )
    if undefined := sum(item.numbers.undefined for item in items if not item.two_units):
        reason = "empty prediction, or scored before the metric was added"
        notes.append(f"{undefined} pairs have no value for the metric on one side ({reason}) and are left out.")
    margins = ", ".join(f"{metric} {margin:g}" for metric, margin in comparison.request.margins.items())
    return [*notes, *([f"Margins: {margins}."] if margins else [])]


def _named(items: list[StructureComparison], *, several_raters: bool, numbers: bool = True) -> str:
    names = list(dict.fromkeys(_name(item, several_raters, numbers=numbers) for item in items))
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _name(item: StructureComparison, several_raters: bool, *, numbers: bool) -> str:
    where = f"{item.cohort}, {short_prompt(item.prompt)}{f', rater {item.rater}' if several_raters else ''}"
    if not numbers or item.numbers.difference is None:
        return f"{item.structure} ({where})"
    change = f"{item.metric} {item.numbers.difference:+.3f}{' ' + item.unit if item.unit else ''}"
    return f"{item.structure} ({where}: {change})"
