"""Texts become the token numbers that the official code feeds, offline."""

import hashlib
import random
import subprocess
import sys

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from medsam3_core.errors import UsageError, WeightsError
from medsam3_core.sam3.tensors.tokenizer import CONTEXT_LENGTH, TextTokenizer, _bpe_path, clean

TEXTS = (
    "liver tumor",
    "  Left   Lung\tupper\nlobe ",
    "optic disc & cup",
    "&lt;5 mm polyp&gt; &amp;amp; stalk",
    "“curly” quotes ﬁne ligature",
    "naïve Müller cells",
    "mojibake: cafÃ©",
    "2.5cm lesion, 3rd segment (S3) - grade IV?!",
    "!",
    "!!!",
    "it's the patient's",
    "肝臓の腫瘍",
    "😀 nucleus 🧬",
    "nuclei_in_H&E x40",
    "tumour " * 60,
    "-" * 50,
)
"""Odd ones on purpose: entities, ligatures, emoji, the token 0, and more tokens than fit."""


@pytest.fixture(scope="module")
def tokenize():
    return TextTokenizer()


@pytest.fixture(scope="module")
def reference():
    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def random_texts(count):
    letters = random.Random(0)
    alphabet = "abcdefghij ABC 0123 .,;:!?'\"&<>()[]-_/ äéß µ ½ 肝 ﬁ “”"
    return ["x" + "".join(letters.choice(alphabet) for _ in range(letters.randint(1, 40))) for _ in range(count)]


def test_tokens_are_those_of_the_official_tokenizer(tokenize, reference):
    for text in (*TEXTS, *random_texts(300)):
        assert tokenize(text).input_ids[0].tolist() == reference(text)[0].tolist(), text


def test_every_zero_is_padding_as_in_the_official_code(tokenize):
    tokens = tokenize("!!! !a")
    assert torch.equal(tokens.attention_mask, (tokens.input_ids != 0).long())


def test_long_text_is_cut_with_its_end_token_and_that_is_reported(tokenize):
    tokens = tokenize("tumour " * 60)
    assert tokens.length == 62
    assert tokens.fallbacks == ("text-truncated:62>32",)
    assert tokens.input_ids[0, -1] == tokenize("x").input_ids[0, 2]
    assert tokenize("tumour").fallbacks == ()


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "&nbsp;"])
def test_empty_text_is_refused(tokenize, text):
    with pytest.raises(UsageError, match="is empty; name what to look for"):
        tokenize(text)


@pytest.mark.parametrize("text", ["a <|endoftext|> b", "<|StartOfText|>", "&lt;|endoftext|&gt;"])
def test_special_tokens_in_a_text_are_refused(tokenize, text):
    with pytest.raises(UsageError, match=r"contains the special token <\|"):
        tokenize(text)


def test_cleaning_repairs_text_before_it_is_split():
    assert clean("“ﬁne”  CAFÃ© &amp;amp; co") == '"fine" café & co'


def test_tokenizer_in_the_weights_folder_wins(tokenize, tmp_path):
    tokenize._clip.save_pretrained(tmp_path)
    assert torch.equal(TextTokenizer(str(tmp_path))("liver tumor").input_ids, tokenize("liver tumor").input_ids)


def test_broken_tokenizer_beside_the_weights_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="tokenizer beside the weights cannot be read"):
        TextTokenizer(str(tmp_path))


def test_the_vocabulary_is_that_of_clip_whichever_package_carries_it():
    path = _bpe_path()
    assert path is not None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def test_the_package_that_carries_the_vocabulary_is_never_imported():
    code = (
        "import sys; from medsam3_core.sam3.tensors.tokenizer import TextTokenizer; "
        "TextTokenizer()('x'); assert not {'clip', 'open_clip'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
