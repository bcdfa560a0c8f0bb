import pytest

from medsam3_core.agent.requests import MAX_CHARACTERS, read_request
from medsam3_core.agent.vocabulary.vocabulary import Side, Term, Vocabulary, reviewed_vocabulary
from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, phantom_recipe
from scripts.agent_phrases import PHRASES, trained_texts
from storage.sources.listing.recipes import builtin_recipes

VOCABULARY = reviewed_vocabulary()


def read(words):
    return read_request(words, VOCABULARY)


@pytest.mark.parametrize(
    ("words", "term", "side"),
    [
        ("the organ that filters blood", "kidney", None),
        ("organ filtering the blood", "kidney", None),
        ("Ren sinister", "kidney", Side.LEFT),
        ("kidney on the left", "kidney", Side.LEFT),
        ("left-sided renal organ", "kidney", Side.LEFT),
        ("linke Niere", "kidney", Side.LEFT),
        ("le rein gauche", "kidney", Side.LEFT),
        ("both kidneys", "kidney", None),
        ("Pulmo dexter", "lung", Side.RIGHT),
        ("caput hippocampi", "hippocampus_anterior", None),
        ("front portion of the hippocampus", "hippocampus_anterior", None),
        ("brain tumors", "brain_tumour", None),
        ("mass in the brain", "brain_tumour", None),
        ("nuclei", "nucleus", None),
        ("DNA containing part of the cell", "nucleus", None),
        ("where the optic nerve exits the eye", "optic_disc", None),
        ("adenomas of the colon", "polyp", None),
        ("show me the polyps please", "polyp", None),
        ("pigmented naevi", "skin_lesion", None),
        ("the thing that pumps blood", "heart", None),
        ("right hepatic lobe", "liver_right_lobe", None),
        ("right ventricle of the heart", "right_ventricle_of_heart", None),
    ],
)
def test_words_name_what_they_mean(words, term, side):
    reading = read(words)
    assert (reading.term.name, reading.side) == (term, side)
    assert not reading.plain


def test_lesion_in_a_place_if_any():
    reading = read("lesion in the right lobe, if any")
    assert (reading.term.name, reading.place.term.name, reading.conditional) == ("lesion", "liver_right_lobe", True)


def test_a_synonym_asks_for_the_plain_name_first_with_its_side():
    assert read("Ren sinister").texts(2) == ("left kidney", "left renal parenchyma", "left renal organ")
    assert read("hepar").texts(0) == ("liver",)


def test_texts_of_all_recipes_are_plain_or_unknown_and_asked_as_they_stand():
    recipes = [*builtin_recipes().values(), *(phantom_recipe(kind) for kind in PhantomKind)]
    texts = {item.text for recipe in recipes for item in recipe.structures}
    changed = {text: read(text).texts(3) for text in texts if read(text).texts(3) != (text,)}
    assert changed == {}


def test_a_name_means_one_thing():
    with pytest.raises(ValueError, match="'Renal organs' means both 'kidney' and 'liver'"):
        Vocabulary(
            (Term("kidney", "kidney", synonyms=("renal organ",)), Term("liver", "liver", latin=("Renal organs",)))
        )


def test_unknown_words_are_asked_as_they_stand():
    reading = read("  striped \n gizmo ")
    assert (reading.term, reading.texts(3)) == (None, ("striped gizmo",))


@pytest.mark.parametrize("words", ["", "   ", "?!", "\n\t", "123"])
def test_an_empty_request_is_refused(words):
    with pytest.raises(UsageError, match="is empty; say in words what to segment"):
        read(words)


def test_a_request_as_long_as_a_letter_is_refused():
    with pytest.raises(UsageError, match=f"at most {MAX_CHARACTERS} are read"):
        read("kidney " * 100)


def test_measured_phrases_are_understood_and_none_of_them_was_a_text_of_training():
    phrases = [phrase for structures in PHRASES.values() for listed in structures.values() for phrase in listed]
    assert len(set(phrases)) == len(phrases) >= 60
    assert not {phrase.lower() for phrase in phrases} & trained_texts()
    assert not [phrase for phrase in phrases if read(phrase).term is None]
