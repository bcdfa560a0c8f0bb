"""Convert text to tokens, offline, with CLIP's BPE vocabulary as in the official code.

The vocabulary is a tokenizer in the weights folder, or a file of the package `clip-anytorch` or `open_clip_torch`; the
packages are not imported, which would take seconds.
"""

import gzip
import html
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import ftfy
import torch
from transformers import CLIPTokenizer

from medsam3_core.errors import UsageError, WeightsError

CONTEXT_LENGTH = 32
"""Tokens per text, start and end token included."""
VISUAL = "visual"
"""Text of prompts by boxes alone."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_MERGES = 49152 - 256 - 2
_BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
_CARRIERS = ("clip", "open_clip")


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """Tokens of one text.

    Attributes:
        input_ids: int64, shape (1, 32), 0 after the end token.
        attention_mask: int64, shape (1, 32), 1 for tokens that are read.
        length: Tokens of the whole text; above 32 the end was truncated.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    length: int

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Note on a truncated text; empty if it fits."""
        return () if self.length <= CONTEXT_LENGTH else (f"text-truncated:{self.length}>{CONTEXT_LENGTH}",)


class TextTokenizer:
    """Splits texts into tokens exactly as the official tokenizer does."""

    def __init__(self, folder: str | None = None) -> None:
        self._clip = _from_folder(folder) if folder else _packaged()

    def __call__(self, text: str) -> TokenizedText:
        """Tokenize one text.

        Raises:
            UsageError: If the text is empty or contains a special token.
        """
        cleaned = clean(text)
        tokens: list[int] = self._clip(cleaned)["input_ids"]
        kept = tokens if len(tokens) <= CONTEXT_LENGTH else [*tokens[: CONTEXT_LENGTH - 1], tokens[-1]]
        ids = torch.zeros(1, CONTEXT_LENGTH, dtype=torch.long)
        ids[0, : len(kept)] = torch.tensor(kept)
        # The official code treats every 0 as padding, also token 0 of a text.
        return TokenizedText(ids, (ids != 0).long(), len(tokens))


def clean(text: str) -> str:
    """Normalise a text: broken encodings, HTML entities (twice), white space, case.

    Raises:
        UsageError: If nothing is left, or the text contains a special token of the vocabulary.
    """
    repaired = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    cleaned = re.sub(r"\s+", " ", repaired).strip().lower()
    if not cleaned:
        msg = f"text prompt {text!r} is empty; name what to look for"
        raise UsageError(msg)
    for special in (_START, _END):
        if special in cleaned:
            msg = f"text prompt {text!r} contains the special token {special}; leave it out"
            raise UsageError(msg)
    return cleaned


def _from_folder(folder: str) -> CLIPTokenizer:
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        msg = f"{folder}: the tokenizer beside the weights cannot be read ({error}); repair or remove its files"
        raise WeightsError(msg) from error
    return tokenizer


@cache
def _packaged() -> CLIPTokenizer:
    merges = [tuple(line.split()) for line in _bpe_lines()[1 : _MERGES + 1]]
    letters = list(_byte_letters())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), _START, _END]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)


def _bpe_lines() -> list[str]:
    path = _bpe_path()
    if path is None:
        msg = f"{_BPE_FILE} is missing: install clip-anytorch, which carries the vocabulary of SAM3's text encoder"
        raise WeightsError(msg)
    return gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")


def _bpe_path() -> Path | None:
    """Path of the file in an installed package; finding a package does not import it."""
    specs = filter(None, map(find_spec, _CARRIERS))
    folders = [folder for spec in specs for folder in spec.submodule_search_locations or []]
    return next((path for folder in folders if (path := Path(folder) / _BPE_FILE).is_file()), None)


def _byte_letters() -> list[str]:
    """The printable letter of each byte, in the order of the vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(hidden))]
