"""Dense ConSE: a tower for photographs from an image classifier and a sentence encoder, both out of packages.

ConSE (Norouzi et al., ICLR 2014) embeds a picture as the probability-weighted mean of the text embeddings of a classifier's
classes. Dense: the classifier is applied at every place. What is ours, chosen on 100 pictures of VOC (docs of the functions say
why): texts with definitions and hypernyms, two sizes and mirrored copies, dense groups of classes held down, what the whole
picture shows preferred, for classes and for words.

Shapes: B pictures, (h, w) grid, K = 1000 classes of ImageNet, C = 384 text dimensions, Q words.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from backbones.class_texts import embed_classes, key_of_texts
from backbones.imagenet import imagenet_classes
from backbones.lite2 import STRIDE, Lite2
from backbones.minilm import CHANNELS, FILES, MiniLM
from backbones.tower import PLAIN, DenseTower, join_templates
from common.kept import Kept
from common.sizes import side_lengths, whole
from common.synonyms import best_of_class, places
from common.weights import state_hash

NAME = "packaged"
SHIPPED_TEXTS = Path(__file__).parent / "checkpoints" / "imagenet_texts"  # an entry of common.kept
SIZES = (1.0, 5 / 7)  # of the picture as given; 449 and 321 of VOC's
NEIGHBOUR = 0.7  # cosine of class texts
DENSITY = 0.5
KEPT = 50  # classes a place
AT_ONCE = 32  # pictures embedded whole; bounds the memory
TEMPERATURE = 0.03  # of cosines of words


class ConSE(DenseTower):
    """EfficientNet-Lite2's 1000 classes as text embeddings of all-MiniLM-L6-v2.

    Raises:
        UserError: a package is missing, or holds other files.
    """

    name = NAME
    saw = "ImageNet's image labels"

    scale: Tensor
    class_texts: Tensor  # (K, C)
    crowding_of_classes: Tensor  # (K, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.lite2 = Lite2()
        self.register_buffer("class_texts", self._class_texts())
        self.register_buffer("crowding_of_classes", crowding(self.class_texts))
        self.register_buffer("scale", torch.tensor(1 / TEMPERATURE), persistent=False)

    @property
    def stride(self) -> int:
        """Half that of the classifier, for :meth:`expected_text` reads between its places."""
        return STRIDE // 2

    @property
    def channels(self) -> int:
        return CHANNELS

    @property
    def native_side(self) -> int:
        return 260

    def tokens(
        self, images: Tensor, rule: str = PLAIN, position_resize: str = "scaled_bicubic", pooled: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        self.check_rule(rule)
        dense = F.normalize(self.expected_text(images), dim=1)
        return self.embed_image(images) if pooled else None, dense

    def embed_image(self, images: Tensor, unit: bool = True) -> Tensor:
        parts = [self.lite2(part).mean((2, 3), keepdim=True) for part in images.split(AT_ONCE)]
        logits = torch.cat(parts)  # the head is linear: the logits of the mean feature are the mean logits
        embedding = self._expectation((logits - self.crowding_of_classes).softmax(1))[:, :, 0, 0]
        return F.normalize(embedding, dim=-1) if unit else embedding

    def expected_text(self, images: Tensor) -> Tensor:
        """Probability-weighted mean of the classes' texts at every place, (B, C, h, w); short where classes disagree."""
        logits = self.both_sizes_both_ways(images) - self.crowding_of_classes
        coarse = self._expectation(reestimated(logits))
        rows, columns = (4 * (side - 1) + 1 if side > 1 else 2 for side in coarse.shape[2:])
        between = F.interpolate(coarse, (rows, columns), mode="bilinear", align_corners=True)
        return between[:, :, 1::2, 1::2]  # the classifier looks at 0, 32, ..., tokens stand for 0..16, 16..32, ...

    def both_sizes_both_ways(self, images: Tensor) -> Tensor:
        """Logits (B, K, h, w), mean over :data:`SIZES` and mirrored copies, each on the first size's grid.

        Sides are brought to a multiple of the stride and one more, so that a mirrored copy is read at the same places.
        """
        total: Tensor | None = None
        for factor in SIZES:
            sized = F.interpolate(images, sides(images, factor), mode="bilinear", align_corners=False, antialias=True)
            logits, mirrored = self.lite2(sized), self.lite2(sized.flip(3)).flip(3)
            found = (logits + mirrored) / (2 * len(SIZES))
            if total is None:
                total = found
            else:
                total = total + F.interpolate(found, total.shape[2:], mode="bilinear", align_corners=True)
        assert total is not None
        return total

    def _expectation(self, probability: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, C, h, w), over the most probable classes, whose probabilities then add up to less than 1."""
        value, index = probability.topk(KEPT, dim=1)
        kept = torch.zeros_like(probability).scatter_(1, index, value)
        return torch.einsum("bkhw,kc->bchw", kept, self.class_texts)

    def compare(self, images: Tensor, text_QC: Tensor, class_of_word: Tensor, **reading: Any) -> tuple[Tensor, Tensor]:
        self.check_rule(reading.get("rule", PLAIN))
        expected = self.expected_text(images)
        return word_scores(expected, text_QC, class_of_word), F.normalize(expected, dim=1)

    # Texts -------------------------------------------------------------------------------------------------------

    @cached_property
    def encoder(self) -> MiniLM:
        """Loaded when a text is asked that is not kept."""
        return MiniLM()

    def _class_texts(self) -> Tensor:
        """Those that are shipped, which take half a minute to make; anew where the sentences or the encoder are others."""
        classes = imagenet_classes()
        key = key_of_texts(classes)
        shipped = Kept("class texts", SHIPPED_TEXTS).read(key)
        if shipped is not None:
            return shipped.tensors["text"]
        return Kept("text").tensors(key, lambda: {"text": embed_classes(classes, self.encoder)})["text"]

    def text_identity(self, words: list[str]) -> dict[str, str]:
        return FILES | {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}

    def encode_text(self, words: list[str], templates: list[str], ensemble: str) -> Tensor:
        prompts = [template.format(word) for word in words for template in templates]
        return join_templates(self.encoder(prompts).view(len(words), len(templates), -1), ensemble)

    def image_weights_hash(self) -> str:
        return state_hash(self.state_dict())


def sides(images: Tensor, factor: float) -> tuple[int, int]:
    """The nearest multiples of the stride, and one more, to the images' height and width times a factor."""
    steps = whole(((side_lengths(images.shape[2], images.shape[3]) * factor - 1) / STRIDE).round())
    return steps[0] * STRIDE + 1, steps[1] * STRIDE + 1


def crowding(text_KC: Tensor) -> Tensor:
    """(K, 1, 1) what is taken from a class's logit for its neighbours, half the logarithm of their number.

    A third of ImageNet's classes are animals, 118 of them dogs: unseen things would mostly look like these.
    """
    neighbours = (text_KC @ text_KC.T > NEIGHBOUR).float().sum(1)
    return DENSITY * neighbours.log()[:, None, None]


def reestimated(logits: Tensor) -> Tensor:
    """Class probabilities (B, K, h, w) of logits, with the picture's own class frequencies as the prior.

    One step of EM for the prior of a new data set (Saerens et al., 2002), the data set being the places of one picture.
    """
    prior = logits.softmax(1).mean((2, 3), keepdim=True)
    return (logits + prior.clamp_min(1e-12).log()).softmax(1)


def word_scores(expected: Tensor, text_QC: Tensor, class_of_word: Tensor) -> Tensor:
    """Scores (B, Q, h, w) of words: similarity, and in its unit the logarithm of the share of the picture that a word has.

    The similarity is no cosine: where the classifier cannot decide between unlike classes, the mean of their texts is short,
    and nothing is similar to it. That tells things from background.

    Args:
        expected: (B, C, h, w), of :meth:`ConSE.expected_text`.
        text_QC: unit embeddings.
        class_of_word: (Q,), words of one class share what they have of the picture.
    """
    similar = torch.einsum("bchw,qc->bqhw", expected, text_QC)
    cosines = similar / expected.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return similar + TEMPERATURE * word_prior(cosines, class_of_word)


def word_prior(cosines: Tensor, class_of_word: Tensor) -> Tensor:
    """(B, Q, 1, 1) the logarithm of the share that each word's class has of the picture."""
    share = (best_of_class(cosines, class_of_word) / TEMPERATURE).softmax(1).mean((2, 3), keepdim=True)
    return share.clamp_min(1e-12).log()[:, places(class_of_word).of_word]
