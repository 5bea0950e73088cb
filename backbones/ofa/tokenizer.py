"""Words to OFA's pieces: GPT-2's byte-level BPE in fairseq's numbering, or any tokenizer file of the same interface."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from backbones.ofa.config import BOS, EOS, PAD, UNK
from common.errors import UserError

SPECIAL = {"<s>": BOS, "<pad>": PAD, "</s>": EOS, "<unk>": UNK}
ADDED = ("<mask>", *(f"<code_{i}>" for i in range(8192)), *(f"<bin_{i}>" for i in range(1000)))  # after BART's dictionary


class OFATokenizer:
    """Piece ids of text.

    Args:
        bpe: splits a word, with one space before it, into pieces.
        id_of: piece number of ``bpe`` -> id; None where they are the same.
        symbols: ids of the words that are entries of the dictionary and not split into pieces.
    """

    def __init__(self, bpe: Tokenizer, id_of: list[int] | None = None, symbols: dict[str, int] | None = None) -> None:
        self.bpe = bpe
        self.id_of = id_of
        self.symbols = symbols or {}
        self.piece_of = None if id_of is None else {id_: piece for piece, id_ in enumerate(id_of)}

    @classmethod
    def from_folder(cls, folder: str | Path) -> OFATokenizer:
        """Reads ``tokenizer.json``, Hugging Face's ``vocab.json`` and ``merges.txt``, or fairseq's three files.

        fairseq's are ``encoder.json``, ``vocab.bpe`` and ``dict.txt``: a GPT-2 number is looked up *as a string* in the
        dictionary, whose first line has the id 4. OFA adds ``<mask>``, ``<code_i>`` and ``<bin_i>`` after its last one. A
        ``tokenizer.json`` brings its own.

        Raises:
            UserError: none of them is there.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            return cls(_byte_level(folder / "vocab.json", folder / "merges.txt"), None, _added(ids.get("<mask>", len(ids))))
        needed = ("encoder.json", "vocab.bpe", "dict.txt")
        if absent := [name for name in needed if not (folder / name).is_file()]:
            raise UserError(
                f"'{folder}' holds no tokenizer ('{absent[0]}' is missing). Put OFA's encoder.json, vocab.bpe and dict.txt "
                "there, or vocab.json and merges.txt of OFA-Sys/ofa-base."
            )
        lines = (folder / "dict.txt").read_text(encoding="utf-8").splitlines()
        dictionary = {line.rpartition(" ")[0]: position + len(SPECIAL) for position, line in enumerate(lines)}
        numbers = json.loads((folder / "encoder.json").read_text(encoding="utf-8")).values()
        id_of = [dictionary.get(str(number), UNK) for number in range(max(numbers) + 1)]
        return cls(_byte_level(folder / "encoder.json", folder / "vocab.bpe"), id_of, _added(len(SPECIAL) + len(lines)))

    def encode(self, text: str) -> list[int]:
        """Ids of every word, each with one space before it; no <s> and no </s>."""
        return [id_ for word in text.split() for id_ in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word in self.symbols:
            return [self.symbols[word]]
        pieces: list[int] = self.bpe.encode(f" {word}", add_special_tokens=False).ids
        return pieces if self.id_of is None else [self.id_of[piece] for piece in pieces]

    def decode(self, ids: list[int]) -> str:
        """Text of ids; special ones and symbols are left out."""
        left_out = {*SPECIAL.values(), *self.symbols.values()}
        kept = [id_ for id_ in ids if id_ not in left_out]
        pieces = kept if self.piece_of is None else [self.piece_of[id_] for id_ in kept if id_ in self.piece_of]
        return self.bpe.decode(pieces).strip()


def _added(first: int) -> dict[str, int]:
    return {symbol: first + i for i, symbol in enumerate(ADDED)}


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    bpe = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe
