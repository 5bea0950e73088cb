"""What every method and every datamodule promises; a new one is covered for free."""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from commands.lightning import build
from common.errors import UserError
from datamodules import DATAMODULES, DataModule
from datamodules.base import TrainingData
from evaluation import Vocabulary
from evaluation.kept_scores import KeepScores
from evaluation.rules import RULES
from methods import METHODS, Segmenter
from methods.supervision import Supervision
from tests.data import DATA

SHAPES = {"pictures": 3, "train_pictures": 8, "train_batch_size": 4, "num_workers": 0}
VARIANTS = [("ifseg", "_self_training"), ("zeroseg", ""), ("freeseg", "")]
OF_TRAINING = {
    Supervision.CAPTIONS: "captions",
    Supervision.PICTURES: "pictures",
    Supervision.BOXES: "questions",
    Supervision.MASKS: "masks",
}


def shapes(method: type[Segmenter]) -> Any:
    data = DATAMODULES["Shapes"](**SHAPES, train=OF_TRAINING.get(method.sees, "pictures"))
    if method.sees is Supervision.NAMES:
        return DATAMODULES["WordMaps"](scored_on=data, maps=8, largest=6, train_batch_size=4, num_workers=0)
    return data


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(default_root_dir=folder, accelerator="cpu", **quiet | options)


def small(model: Any, side: int = 64) -> Any:
    """The method with pictures brought to few pixels, where its protocol can: few windows a picture."""
    if "short_side" in model.followed_rules():
        model.protocol_values = {"short_side": side}
    return model


def trains(method: type[Segmenter]) -> bool:
    return method.configure_optimizers is not lightning.LightningModule.configure_optimizers


def is_scored(data: DataModule) -> bool:
    return type(data).benchmark is not DataModule.benchmark


class WithoutGradient(lightning.Callback):
    """Names of the trained parameters that a step gave none."""

    names: list[str] | None = None

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.names = [name for name, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> type[Segmenter]:
    return METHODS[request.param]


@pytest.fixture(params=DATAMODULES)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DataModule:
    assert request.param in DATA, f"tests/data.py needs a tiny {request.param} in its original layout"
    return DATAMODULES[request.param](**DATA[request.param](tmp_path / "data") | {"num_workers": 0})


@pytest.mark.parametrize("vocabulary", ["shapes13", "voc21", "coco_stuff171"])
def test_scores_have_a_row_per_word_at_any_size(method: type[Segmenter], vocabulary: str) -> None:
    model = method()
    try:
        model.use_vocabulary(Vocabulary.load(vocabulary))
    except UserError as error:
        assert vocabulary != "shapes13", "every method can be asked for the shapes"
        queries = Vocabulary.load(vocabulary, model.protocol.prompt.wording).queries
        named = [word for words in queries for word in words if f"'{word}'" in str(error)]
        assert model.closed is not None or named, "an open head names the word that it does not know"
        return
    assert model.closed in (None, len(model.class_of_word))
    for size in ((64, 64), (40, 72)):
        scores = model(torch.rand(2, 3, *size))
        assert scores.shape[:2] == (2, len(model.class_of_word))
        assert scores.isfinite().all()
    assert model.class_of_word.max() < Vocabulary.load(vocabulary).num_classes


def test_all_it_holds_moves_to_another_device(method: type[Segmenter]) -> None:
    """Also what is no buffer: words are asked before ``model.cuda()`` as well as after."""
    model = method()
    model.use_vocabulary(Vocabulary.load("shapes13"))
    assert model.class_of_word.device.type == "cpu"
    model.to("meta")
    held = [(f"{path}.{name}", value) for path, part in model.named_modules() for name, value in vars(part).items()]
    left = {name for name, value in held for tensor in _tensors(value) if not tensor.is_meta}
    assert left <= {".before"}


def test_words_are_embedded_where_the_model_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before ``setup`` Lightning says that the model is on the GPU, and moves it there after it."""
    model, found = METHODS["IFSeg"](), []
    monkeypatch.setattr(model, "use_vocabulary", lambda _: found.append({p.device.type for p in model.parameters()}))
    model._device = torch.device("meta")
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(vocabulary=Vocabulary.load("shapes13")))
    model.setup("test")
    assert found == [{"meta"}]


def _tensors(value: Any) -> list[torch.Tensor]:
    """Those that a value holds, in whatever it keeps them, but for submodules."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _tensors(part)]
    if isinstance(value, list | tuple | set):
        return [tensor for part in value for tensor in _tensors(part)]
    own = type(value).__module__.split(".")[0] in ("methods", "backbones", "evaluation")
    return _tensors(vars(value)) if own and hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module) else []


def test_label_maps_have_the_pictures_size_and_known_classes(method: type[Segmenter]) -> None:
    model = small(method())
    model.use_vocabulary(Vocabulary.load("shapes13"))
    images = [torch.rand(3, 50, 70), torch.rand(3, 1, 5), torch.rand(3, 64, 64)]
    for image, result in zip(images, model.segment(images, with_score=True), strict=True):
        assert result.labels.shape == image.shape[1:]
        assert result.labels.dtype == torch.uint8
        assert result.labels.max() < 13
        assert result.score is not None
        assert result.score.min() >= 0
        assert result.score.max() <= 1.0001


def test_several_pictures_at_once_are_as_one_by_one(method: type[Segmenter]) -> None:
    model = small(method(), 96)
    model.use_vocabulary(Vocabulary.load("shapes13"))
    images = [torch.rand(3, 64, 96), torch.rand(3, 96, 64)]
    together = model.segment(images)
    alone = [model.segment([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        assert (a.labels != b.labels).float().mean() < 0.001  # rounding of ties only


def test_kept_scores_give_the_same_label_maps_under_other_thresholds(method: type[Segmenter], tmp_path: Path) -> None:
    """What :data:`evaluation.kept_scores.AFTER_SCORING` leaves out of the key must not change a score."""
    model, vocabulary = method(), Vocabulary.load("shapes13")
    images = [torch.rand(3, 64, 96), torch.rand(3, 96, 64)]
    numbers = {"background": "words", "background_value": 0.2, "temperature": 40.0, "short_side": 64, "templates": "plain"}
    other = {"background_value": 0.3, "temperature": 15.0, "area_threshold": 0.05, "refine": "pamr"}
    if model.scores == "probability":
        del other["temperature"]  # it is in the scores
    read = []
    for values in (numbers, numbers | other, numbers | {"short_side": 80}):
        model.protocol_values = {rule: value for rule, value in values.items() if rule in model.followed_rules()}
        model.use_vocabulary(vocabulary)
        plain = model.segment(images, with_score=True)
        KeepScores(str(tmp_path)).on_test_start(None, model)
        assert model.kept_scores is not None
        kept = model.segment(images, with_score=True)
        read.append(model.kept_scores.read)
        model.kept_scores = None
        for a, b in zip(plain, kept, strict=True):
            assert torch.equal(a.labels, b.labels)
            assert torch.equal(a.score, b.score)
    assert read == [0, 2, 0 if "short_side" in model.followed_rules() else 2]  # what no score depends on is not in the key


BASE = {"refine": "none", "background": "threshold", "background_value": 0.2, "short_side": 64, "crop": 48, "stride": 24}
CHANGES: dict[str, dict[str, Any]] = {  # a rule -> the values, that one's first, which must change a score
    "short_side": {"short_side": 80},
    "max_long_side": {"max_long_side": 70},
    "antialias": {"antialias": True},
    "crop": {"crop": 32},
    "stride": {"stride": 48},
    "position_resize": {"position_resize": "bilinear"},
    "templates": {"templates": "plain"},
    "ensemble": {"ensemble": "raw"},
    "wording": {"wording": "other"},
    "synonyms": {"synonyms": "mean"},
    "temperature": {"temperature": 3.0},
    "activation": {"activation": "sigmoid"},
    "logit_bias": {"logit_bias": 1.5},
    "upsampling": {"upsampling": "twice"},
    "background": {"background": "none", "background_value": None},
    "background_value": {"background_value": 0.999},
    "area_threshold": {"area_threshold": 0.4},
    "gate_classes": {"gate_classes": 2},
    "refine": {"refine": "pamr"},
    "pamr_dilations": {"pamr_dilations": [1, 3]},
    "pamr_iterations": {"pamr_iterations": 2},
    "neighbours": {"neighbours": 7},
    "neighbour_steps": {"neighbour_steps": 1},
}
ALSO: dict[str, dict[str, Any]] = {  # a rule -> what else must be set for it to do something
    "ensemble": {"templates": "openai80"},
    "logit_bias": {"activation": "sigmoid"},
    "upsampling": {"crop": None, "stride": None},
}
NEEDED = {"pamr": "pamr_", "neighbours": "neighbour"}  # refinement -> its rules
WORDS = ("background", "red striped square", "green dotted star", "blue plain triangle", "yellow plain star")
OTHER = {
    "names": {"blue plain triangle": ("blue plain triangle", "blue dotted disc"), "background": ("grass", "sand")},
    "other": {"red striped square": ("red dotted triangle", "grass"), "green dotted star": ("green striped disc",)},
}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_changes_the_result_or_is_refused(method: type[Segmenter], rule: str) -> None:
    """What the hash covers has an effect; what has none cannot be asked for."""
    base = BASE | {"refine": next((name for name, start in NEEDED.items() if rule.startswith(start)), "none")}
    base |= ALSO.get(rule, {})
    model = made(method)
    if rule in model.training_rules():
        assert rule not in model.followed_rules()
    elif rule not in model.followed_rules():
        with pytest.raises(UserError, match=rf"protocol's {rule}|no features"):
            ask(model, base | CHANGES[rule], rule)
    else:
        (hash_, results), (changed_hash, changed) = (segmented(method, json.dumps(v)) for v in (base, base | CHANGES[rule]))
        assert hash_ != changed_hash
        assert any(not torch.equal(a, b) for a, b in zip(results, changed, strict=True)), f"{rule} has no effect"


def ask(model: Any, values: dict[str, Any], also: str = "") -> None:
    """Some words, under those of the values that the method follows, and one that it may not."""
    unset = values.get("background") == "none" and "background_value"
    followed = model.followed_rules() | {also}
    model.protocol_values = {k: v for k, v in values.items() if k in followed and k != unset}
    names = WORDS if model.closed is None else tuple(f"class {k}" for k in range(model.closed))
    model.use_vocabulary(Vocabulary("own", names, 0, wordings=OTHER if model.closed is None else {}))


@cache
def made(method: type[Segmenter]) -> Segmenter:
    torch.manual_seed(0)
    return method()


@cache
def segmented(method: type[Segmenter], values: str) -> tuple[str, list[torch.Tensor]]:
    """The protocol's hash, and labels and scores of two pictures under values in JSON."""
    model = made(method)
    ask(model, json.loads(values))
    images = DATAMODULES["Shapes"](pictures=2).benchmark("test")
    found = model.segment([images[0]["image"], images[1]["image"]], with_score=True)
    return model.protocol.hash, [torch.stack([one.labels.float(), one.score]) for one in found]


def test_no_vocabulary_is_said_plainly(method: type[Segmenter]) -> None:
    with pytest.raises(UserError, match="use_vocabulary"):
        method().segment([torch.rand(3, 8, 8)])


def test_fit_test_and_checkpoint_round_trip(method: type[Segmenter], tmp_path: Path) -> None:
    model, benchmark = method(), shapes(method)
    if trains(method):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        run = trainer(tmp_path, max_steps=2, limit_val_batches=1)
        run.fit(model, benchmark)
        assert run.global_step == 2
        assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items() if k in before)
        run.save_checkpoint(tmp_path / "m.ckpt")
        again = method.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)  # plain hyper-parameters only
    else:
        again = method()
    results = []
    for tested in (model, again):
        trainer(tmp_path).test(small(tested), benchmark, verbose=False)
        assert tested.metric is not None
        results.append(tested.metric.result())
    assert results[0]["pictures"].tolist() == [0, 1, 2]
    assert torch.equal(results[0]["matrix"], results[1]["matrix"])
    assert results[0]["matrix"].sum() == sum((benchmark.benchmark("test")[i]["mask"] != 255).sum() for i in range(3))


def test_every_trained_parameter_gets_a_gradient(method: type[Segmenter], tmp_path: Path) -> None:
    """Else DDP, waiting for it, stops in the second step."""
    if not trains(method):
        pytest.skip("learns nothing")
    if "find_unused_parameters" in (method.__doc__ or ""):
        pytest.skip("trains in phases, and says which strategy that needs")
    look = WithoutGradient()
    trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[look]).fit(method(), shapes(method))
    assert look.names == []


@pytest.mark.parametrize("config", [f"{m}/shapes{v}" for m, v in VARIANTS], ids=str)
def test_nor_is_one_without_in_a_shipped_config(config: str) -> None:
    options = ["max_steps=1", "limit_val_batches=0", "logger=false", "enable_checkpointing=false", "enable_progress_bar=false"]
    made = build(["--config", f"configs/{config}.yaml", *(f"--trainer.{o}" for o in options)])
    data: Any = made.datamodule
    for part in (data, data.scored_on, data.pictures) if hasattr(data, "maps") else (data,):
        if part is not None:
            part.train_pictures, part.maps, part.train_batch_size, part.num_workers = 8, 8, 4, 0
    look = WithoutGradient()
    made.trainer.callbacks.append(look)
    made.trainer.fit(made.model, data)
    assert look.names == []


def test_nothing_to_ask_is_an_error(method: type[Segmenter]) -> None:
    model = method(protocol_values={"background": "threshold"})
    with pytest.raises(UserError, match="nothing but background"):
        model.use_vocabulary("background")


def test_a_mask_in_a_training_batch_is_an_error(method: type[Segmenter]) -> None:
    batch = {"image": torch.rand(1, 3, 8, 8), "mask": torch.zeros(1, 8, 8)}
    if method.sees is Supervision.MASKS:
        method().on_train_batch_start(batch, 0)
    else:
        with pytest.raises(UserError, match=f"training batch of {method.__name__} holds a mask"):
            method().on_train_batch_start(batch, 0)


def test_methods_document_themselves(method: type[Segmenter]) -> None:
    assert method.__doc__
    for parameter in method.__init__.__annotations__:
        if parameter != "return":
            assert any(f"{parameter}:" in (cls.__doc__ or "") for cls in method.__mro__), f"{method.__name__}: {parameter}"


def test_benchmark_items_fit_together(data: DataModule) -> None:
    if not is_scored(data):
        pytest.skip("has no labelled pictures")
    dataset: Any = data.benchmark("test")
    assert len(dataset) == 3
    for index in range(3):
        item = dataset[index]
        assert item["index"] == index
        assert item["image"].shape[1:] == item["mask"].shape
        assert item["image"].dtype == torch.uint8
        assert item["mask"].dtype == torch.uint8
        inside = item["mask"][item["mask"] != 255]
        assert inside.max() < data.vocabulary.num_classes
        assert torch.equal(dataset[index]["image"], item["image"])


def test_every_datamodule_is_scored_or_predicted_once_per_picture(data: DataModule, tmp_path: Path) -> None:
    model = METHODS["TrainingFree"]("sclip")
    if is_scored(data):
        trainer(tmp_path).test(model, data, verbose=False)
        assert model.metric.result()["pictures"].tolist() == [0, 1, 2]
    else:
        outputs: Any = trainer(tmp_path).predict(model, data)
        assert len([result for batch in outputs for result in batch]) == 3


def test_the_limit_takes_the_first_pictures(data: DataModule) -> None:
    if isinstance(data, TrainingData) or not is_scored(data):
        pytest.skip("has no limit of its own")
    data.limit = 2
    names = [name for batch in data.test_dataloader() for name in batch["name"]]  # type: ignore[call-overload]
    assert names == [data.benchmark("test")[i]["name"] for i in range(2)]
