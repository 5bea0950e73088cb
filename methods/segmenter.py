"""Segmenter: the one interface of all methods.

A method implements :meth:`Segmenter.embed_vocabulary` (what the class names become) and :meth:`Segmenter.forward`
(images -> scores of the words at the backbone's stride); one that learns also ``training_step`` and
``configure_optimizers``, and what :mod:`methods.training_steps` asks for besides. Windows, upsampling, background,
label map and metric are in :mod:`evaluation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor

from common.errors import UserError
from common.images import ImageLike, as_images
from common.values import Count, check_values
from evaluation.inference import Inference
from evaluation.kept_scores import KeptScores
from evaluation.label_map import LabelMap, Scores
from evaluation.metrics import ConfusionMatrix
from evaluation.protocol import Protocol
from evaluation.rules import BACKGROUND_RULES, DECISION_RULES, NEIGHBOUR_RULES, WINDOW_RULES, ProtocolValues
from evaluation.segmentation import Segmentation
from evaluation.selective import RiskCoverage
from evaluation.vocabulary import Vocabulary
from evaluation.windows import WindowScores
from methods.evaluation_steps import EvaluationSteps, evaluating
from methods.training_steps import TrainingSteps


class Segmenter(TrainingSteps, EvaluationSteps, ABC):
    """Base of all methods.

    Attributes:
        scores: what :meth:`forward` gives, see :func:`evaluation.label_map.label_map`.
        closed: number of outputs that training has fixed; None where any words can be asked.
        no_graph: why the method cannot be exported as a graph; empty where nothing is known against it.

    Args:
        protocol: name of a preset; the benchmark's own values apply where the preset has some.
        protocol_values: single rules to change, such as ``{"temperature": 50}``; one that the method would ignore is an error.
        window_batch: windows scored at once; bounds the memory, does not change the result.
    """

    scores: ClassVar[Scores] = "cosine"
    closed: int | None = None
    no_graph: str = ""

    def __init__(
        self, protocol: str = "shapes", protocol_values: ProtocolValues | None = None, window_batch: Count = 64
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # with those of the class that is made, which Lightning collects
        check_values(type(self), Segmenter, self.hparams)
        self.protocol_name, self.window_batch = protocol, window_batch
        self.protocol_values: ProtocolValues = protocol_values or {}
        self.class_of_word: Tensor = torch.zeros(0, dtype=torch.int64)
        self.protocol = self._followed(None)  # fails early on a wrong name or value
        self._vocabulary: Vocabulary | None = None
        self.words: list[str] = []
        self.kept_scores: KeptScores | None = None

    # What a method implements ------------------------------------------------------------------------------------

    @abstractmethod
    def embed_vocabulary(self, words: list[str]) -> None:
        """Prepares for the ``words`` to ask; ``self.class_of_word`` (Q,) says the class of each."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, Q, h, w) of images (B, 3, H, W) in [0, 1]."""

    def patch_features(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) by which patches are alike, on the scores' grid; for the protocol's ``neighbours``."""
        raise NotImplementedError

    def score_with_best(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """:meth:`forward` and, where a method knows better than its pixels, the best probability (B,) of each image.

        For the protocol's ``background: threshold``.
        """
        return self(images), None

    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and :meth:`patch_features` of the same images; a method that has both from one pass gives them here."""
        return self(images), self.patch_features(images)

    def followed_rules(self) -> frozenset[str]:
        """Names of the protocol's rules that have an effect here: those of evaluation, and what a method adds."""
        rules = WINDOW_RULES | DECISION_RULES
        if self.closed is None:
            rules |= {"wording"}
        if not self._has_patch_features:
            rules -= NEIGHBOUR_RULES
        ignored = {"cosine": set(), "logit": {"temperature"}, "probability": {"temperature", "activation", "logit_bias"}}
        return rules - ignored[self.scores]

    def training_rules(self) -> frozenset[str]:
        """Names of further rules that act on what is learnt alone, such as the prompts that a closed head is labelled by."""
        return frozenset()

    @property
    def reads_positions(self) -> bool:
        """Whether the network has position embeddings, which a graph holds for one size of window alone."""
        return "position_resize" in self.followed_rules()

    # The shared rest ---------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            raise UserError("no class names: give --data.classes, or call use_vocabulary('cat; dog') first.")
        return self._vocabulary

    def use_vocabulary(self, vocabulary: Vocabulary | str, protocol: Protocol | None = None) -> None:
        """Sets what is asked from now on.

        Args:
            vocabulary: a label space, the name of a shipped one (``"voc21"``), or free text: ``"cat; dog, puppy; sky"``.
            protocol: the method's preset for that label space if not given.

        Raises:
            UserError: nothing to ask, another number of classes than a closed head has, or a rule that would be ignored.
        """
        if isinstance(vocabulary, str):
            vocabulary = Vocabulary.named(vocabulary)
        self.protocol = self._followed(vocabulary) if protocol is None else self._own(protocol, vocabulary)
        self._vocabulary = vocabulary.worded(self.protocol.prompt.wording)
        words, classes = self._vocabulary.words_and_classes(self.protocol.decision.background in ("words", "none"))
        if not words:
            raise UserError(f"'{vocabulary.name}' has nothing but background. Name at least one other class.")
        self.words, self.class_of_word = words, torch.tensor(classes, device=self.device)
        self.embed_vocabulary(words)
        if self.closed not in (None, len(self.class_of_word)):
            raise UserError(
                f"{type(self).__name__} has a closed head of {self.closed} outputs, '{vocabulary.name}' asks for "
                f"{len(self.class_of_word)}. Train it for these, or choose the label space that it was trained for."
            )
        self.metric = ConfusionMatrix(vocabulary.num_classes, vocabulary.ignore_index).to(self.device)
        self.selective = RiskCoverage(vocabulary.ignore_index, vocabulary.none).to(self.device)

    def use_protocol(self, name: str) -> None:
        """Another preset from the next vocabulary on; the single values stay."""
        self.protocol_name = name

    def _followed(self, vocabulary: Vocabulary | None) -> Protocol:
        """The preset for a vocabulary with the user's values, as this method follows it."""
        requested = dict(self.protocol_values)
        wording = requested.get("wording", "names")
        if vocabulary is not None and wording not in ("names", *vocabulary.wordings):
            raise UserError(f"the protocol's wording '{wording}' would be ignored: '{vocabulary.name}' has no such words.")
        protocol = Protocol.preset(self.protocol_name, None if vocabulary is None else vocabulary.name, **requested)
        return self._own(protocol, vocabulary, requested)

    def _own(self, protocol: Protocol, vocabulary: Vocabulary | None, requested: Mapping[str, Any] | None = None) -> Protocol:
        requested = requested or {}
        if vocabulary is not None and vocabulary.background is None:
            if ignored := sorted(rule for rule in requested if rule in BACKGROUND_RULES and requested[rule] not in ("none", 0)):
                raise UserError(f"the protocol's {ignored[0]} would be ignored: '{vocabulary.name}' has no background.")
            protocol = protocol.without_background()
        if protocol.decision.refine == "neighbours" and not self._has_patch_features:
            raise UserError(f"{type(self).__name__} has no features to find a patch's neighbours by; set refine none or pamr.")
        scored = {rule: value for rule, value in requested.items() if rule not in self.training_rules()}
        return protocol.followed_by(type(self).__name__, self.followed_rules(), scored)

    @property
    def _has_patch_features(self) -> bool:
        return type(self).patch_features is not Segmenter.patch_features

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Tensors kept as attributes, such as what the words became, go where the weights go."""
        super()._apply(fn, recurse)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                vars(self)[name] = fn(value)
            elif type(value) in (list, tuple) and all(isinstance(part, Tensor) for part in value):
                vars(self)[name] = type(value)(fn(part) for part in value)
        return self

    @property
    def inference(self) -> Inference:
        """The path from an image to its label map, as the method, its words and its protocol are now."""
        background = self.vocabulary.background
        own = (self.scores, self, self.score_with_best, self.score_with_features, self.window_batch, self.kept_scores)
        return Inference(self.protocol, self.class_of_word, background, *own)

    @evaluating
    def score_images(self, images: list[Tensor]) -> list[WindowScores]:
        """The scores of the windows of images (3, H, W), uint8 or in [0, 1]."""
        return self.inference.score_images(images)

    @evaluating
    def label_maps(self, images: list[Tensor], with_score: bool = False) -> list[LabelMap]:
        """Label maps, each at its image's size, of images (3, H, W), uint8 or in [0, 1], of any sizes."""
        return self.inference.label_maps(images, with_score)

    @overload
    def segment(self, images: ImageLike, with_score: bool = False) -> Segmentation: ...

    @overload
    def segment(self, images: list[Any], with_score: bool = False) -> list[Segmentation]: ...

    def segment(self, images: Any, with_score: bool = False) -> Segmentation | list[Segmentation]:
        """Segments one image, or several, of any sizes.

        Args:
            images: a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), uint8 or in [0, 1]; or a list of these, or
                a tensor (B, 3, H, W).
            with_score: also keep the probability of every pixel's class.

        Returns:
            A :class:`Segmentation` for one image, a list for several; each at its image's size.

        Raises:
            UserError: something that is no image, or no vocabulary yet.
        """
        tensors, single = as_images(images)
        on_device = [tensor.to(self.device) for tensor in tensors]
        found = [
            Segmentation(one.labels, one.score, one.segments, image=image, vocabulary=self.vocabulary)
            for one, image in zip(self.label_maps(on_device, with_score), tensors, strict=True)
        ]
        return found[0] if single else found

    def __repr__(self) -> str:
        """One line, where torch would list all layers."""
        asked = f", asked for {', '.join(self._vocabulary.names[:4])}" if self._vocabulary else ""
        more = f" and {self._vocabulary.num_classes - 4} more" if self._vocabulary and self._vocabulary.num_classes > 4 else ""
        return f"{type(self).__name__}(sees {self.sees_in_words}, protocol {self.protocol_name}{asked}{more})"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        vocabulary = getattr(data, "vocabulary", None)
        self.to(self.device)  # Lightning says before this where the model will be, and moves it there after it
        if vocabulary is not None:
            self.use_vocabulary(vocabulary)
        elif stage != "fit":
            raise UserError(f"{type(data).__name__} brings no vocabulary; give a benchmark or --classes.")
