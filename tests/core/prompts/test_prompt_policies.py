import pytest

from medsam3_core.capabilities import Capabilities
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy, short_prompt

TEXTS = {"liver": "liver", "nuclei": "cell nucleus"}


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("text", "text:slices=all"),
        ("text:slices=reference", "text:slices=reference"),
        ("box", "box:jitter=0,per=auto,slices=all"),
        ("box:slices=key,jitter=0.10", "box:jitter=0.1,per=auto,slices=key"),
        ("box:jitter=2.0", "box:jitter=2,per=auto,slices=all"),
        ("points:per=instance,pos=3", "points:neg=0,per=instance,pos=3,slices=all"),
        ("mask", "mask:per=auto,slices=all"),
        ("text+box:per=structure", "text+box:jitter=0,per=structure,slices=all"),
    ],
)
def test_canonical_string_names_every_key_sorted_and_reads_back(written, canonical):
    policy = PromptPolicy.parse(written)
    assert policy.canonical() == canonical
    assert PromptPolicy.parse(canonical) == policy


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("boxes", "unknown prompt policy 'boxes'; the kinds are: text, box, points, mask, text\\+box"),
        ("", "unknown prompt policy ''"),
        ("box:size=3", "unknown key 'size=3' in prompt policy box; write key=value with: jitter, per, slices"),
        ("box:jitter", "unknown key 'jitter' in prompt policy box"),
        ("box:", "unknown key '' in prompt policy box"),
        ("box:pos=2", "key 'pos' does not apply to prompt policy box, which takes: jitter, per, slices"),
        ("text:per=instance", "key 'per' does not apply to prompt policy text, which takes: slices"),
        ("points:jitter=0.1", "key 'jitter' does not apply to prompt policy points"),
        ("box:jitter=0.1,jitter=0.2", "gives 'jitter' twice"),
        ("box:jitter=wide", "jitter='wide' of prompt policy box is not a number of at least 0"),
        ("box:jitter=-0.1", "jitter=-0.1 of prompt policy box is not a number of at least 0"),
        ("box:jitter=nan", "jitter=nan of prompt policy box is not a number"),
        ("box:jitter=inf", "jitter=inf of prompt policy box is not a number"),
        ("box:per=organ", "per='organ' of prompt policy box is not one of auto, structure, instance"),
        ("points:pos=0", "pos=0 of prompt policy points is not a whole number of at least 1"),
        ("points:neg=1.5", "neg='1.5' of prompt policy points is not a whole number of at least 0"),
        ("text:slices=some", "slices='some' of prompt policy text is not one of all, key, reference"),
        ("mask:slices=reference", "slices=reference does not apply to prompt policy mask.*slices=all or slices=key"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(written, complaint):
    with pytest.raises(UsageError, match=complaint):
        PromptPolicy.parse(written)


@pytest.mark.parametrize(
    ("written", "privileged"),
    [("text", False), ("text:slices=reference", True), ("text:slices=key", True), ("box", True), ("text+box", True)],
)
def test_only_text_on_all_slices_is_not_privileged(written, privileged):
    assert PromptPolicy.parse(written).privileged is privileged


def test_a_policy_says_which_capabilities_are_lacking():
    boxes_only = Capabilities(text=False, box=True)
    assert PromptPolicy.parse("box").lacking(boxes_only) == ()
    assert PromptPolicy.parse("text+box").lacking(boxes_only) == ("text",)
    assert PromptPolicy.parse("points").lacking(boxes_only) == ("interactive",)


def test_per_auto_follows_the_recipe():
    nuclei, liver = Structure("nuclei", "nucleus", instances=True), Structure("liver", "liver")
    automatic = PromptPolicy.parse("box")
    assert automatic.is_per_instance(nuclei)
    assert not automatic.is_per_instance(liver)
    assert PromptPolicy.parse("box:per=instance").is_per_instance(liver)
    assert not PromptPolicy.parse("box:per=structure").is_per_instance(nuclei)


def test_prompt_id_is_the_same_for_two_spellings_and_changes_with_the_texts():
    short, long = PromptPolicy.parse("box"), PromptPolicy.parse("box:slices=all,jitter=0.0")
    assert short.prompt_id(TEXTS) == long.prompt_id(dict(reversed(TEXTS.items())))
    assert len(short.prompt_id(TEXTS)) == 12
    assert short.prompt_id(TEXTS) != short.prompt_id({**TEXTS, "liver": "hepar"})
    assert short.prompt_id(TEXTS) != PromptPolicy.parse("box:jitter=0.1").prompt_id(TEXTS)


def test_prompt_id_changes_with_the_version_of_the_prompt_code(monkeypatch):
    before = PromptPolicy.parse("box").prompt_id(TEXTS)
    monkeypatch.setattr("medsam3_core.prompts.policies.PROMPT_CODE_VERSION", -1)
    assert PromptPolicy.parse("box").prompt_id(TEXTS) != before


def test_a_prompt_is_named_by_its_differences_from_the_default() -> None:
    assert short_prompt("box:jitter=0,per=auto,slices=all") == "box"
    assert short_prompt("box:jitter=0.1,per=auto,slices=key") == "box:jitter=0.1,slices=key"
    assert short_prompt("agent:synonyms=3") == "agent"
