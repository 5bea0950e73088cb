"""Writes the tokenizer of the embedded OFA, one piece per word: python configs/pretrain/make_tiny_words.py."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from datamodules.shapes import world
from datamodules.shapes.questions import BINS, INSTRUCTIONS

PROMPT = "what is the segmentation map of the image? object: unknown"
PIECES = Regex(r"<\w+>|\w+|[^\w\s]")


def words() -> list[str]:
    """Every piece once, in a fixed order: specials, what things are called, what is said about them, coordinates."""
    said = [*INSTRUCTIONS.values(), "what color texture shape is the object?", "yes no and <mask>", PROMPT]
    text = " ".join([*world.COLOURS, *world.TEXTURES, *world.SHAPES, *world.GROUNDS, *said]).replace("{}", " ")
    pieces = [piece for piece, _ in pre_tokenizers.Split(PIECES, "removed", invert=True).pre_tokenize_str(text)]
    return list(dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *pieces, *(f"<bin_{i}>" for i in range(BINS))]))


if __name__ == "__main__":
    vocabulary = {word: number for number, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 (no password)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(PIECES, "removed", invert=True)
    folder = Path(__file__).parents[2] / "backbones" / "checkpoints" / "embedded_ofa"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    print(f"{len(vocabulary)} pieces")
