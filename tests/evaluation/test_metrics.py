import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from common.errors import UserError
from evaluation import ConfusionMatrix


def naive(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> tuple[np.ndarray, float]:
    """mmsegmentation's rule in words: drop ignored pixels, sum areas over pictures, then divide."""
    inside, predicted, actual = (np.zeros(classes, np.int64) for _ in range(3))
    for prediction, target in pairs:
        kept = target != 255
        for k in range(classes):
            inside[k] += ((prediction == k) & (target == k) & kept).sum()
            predicted[k] += ((prediction == k) & kept).sum()
            actual[k] += ((target == k) & kept).sum()
    union = predicted + actual - inside
    iou = np.array([i / u if u else np.nan for i, u in zip(inside, union, strict=True)])
    return iou, inside.sum() / actual.sum() if actual.sum() else np.nan


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.int64, np.int32]))
def test_equals_counting_by_hand(classes: int, pictures: int, seed: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(pictures):
        shape = rng.integers(1, 12, 2)
        target = rng.integers(0, classes, shape).astype(kind)
        target[rng.random(shape) < 0.3] = 255
        pairs.append((rng.integers(0, classes, shape).astype(kind), target))
    metric = ConfusionMatrix(classes)
    for prediction, target in pairs:
        metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    result = metric.result()
    iou, accuracy = naive(pairs, classes)
    np.testing.assert_allclose(result["iou"].numpy(), iou)
    np.testing.assert_allclose(result["pixel_accuracy"], accuracy)
    if not np.isnan(iou).all():
        np.testing.assert_allclose(result["miou"], np.nanmean(iou))
    assert result["matrix"].dtype == torch.int64
    areas = result["areas"].sum(0)
    assert areas[0].tolist() == result["matrix"].diagonal().tolist()
    kept = [(p[t != 255], t[t != 255]) for p, t in pairs]
    for row, which in ((1, 0), (2, 1)):  # predicted, target
        assert areas[row].tolist() == [sum(int((pair[which] == k).sum()) for pair in kept) for k in range(classes)]


@pytest.mark.parametrize("classes", [21, 171, 254])
def test_agrees_with_torchmetrics(classes: int) -> None:
    """254 classes need codes beyond int16: the narrow and the wide path give the same counts."""
    prediction, target = torch.randint(classes, (2, 64, 80)), torch.randint(classes, (2, 64, 80))
    target[torch.rand(target.shape) < 0.1] = 255
    ours = ConfusionMatrix(classes)
    ours.update(prediction.to(torch.uint8), target.to(torch.uint8))
    theirs = MulticlassJaccardIndex(classes, ignore_index=255, average=None)
    theirs.update(prediction, target)
    torch.testing.assert_close(ours.compute()["iou"].nan_to_num().float(), theirs.compute())


def test_dataset_miou_is_not_the_mean_of_pictures() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 0, 0]]))
    metric.update(torch.tensor([[0]]), torch.tensor([[1]]))
    assert metric.compute()["iou"].tolist() == [3 / 5, 0.0]


def test_an_absent_class_does_not_count() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    result = metric.compute()
    assert result["miou"] == 1
    assert result["iou"][2].isnan()


def test_frequency_weighted_iou() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1]]))
    assert metric.compute()["frequency_weighted_iou"].item() == pytest.approx(3 / 4 * 2 / 3 + 1 / 4 * 1 / 2)


def test_pictures_come_back_in_their_own_order() -> None:
    metric = ConfusionMatrix(2)
    for picture in (2, 0, 1):
        metric.update(torch.zeros(1, picture + 1, dtype=torch.uint8), torch.zeros(1, picture + 1, dtype=torch.uint8), picture)
    result = metric.compute()
    assert result["pictures"].tolist() == [0, 1, 2]
    assert result["areas"][:, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_counted_gives_nan_not_an_error() -> None:
    assert ConfusionMatrix(2).compute()["miou"].isnan()


def test_one_picture_and_one_class_keep_their_shapes() -> None:
    metric = ConfusionMatrix(1)
    metric.update(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8))
    shapes = {key: tuple(metric.result()[key].shape) for key in ("iou", "pictures", "matrix", "areas")}
    assert shapes == {"iou": (1,), "pictures": (1,), "matrix": (1, 1), "areas": (1, 3, 1)}


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[0, 1]], [[0, 7]], "mask value 7 is outside the 3 classes"),
        ([[0, 3]], [[0, 1]], "predicted value 3 is outside the 3 classes"),
        ([[0, 1]], [[0], [1]], "differ in size"),
    ],
)
def test_wrong_maps_are_refused(prediction: list, target: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConfusionMatrix(3).update(torch.tensor(prediction, dtype=torch.uint8), torch.tensor(target, dtype=torch.uint8))


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[-1, 1]], [[0, 1]], "predicted value -1 is outside the 3 classes"),
        ([[0, 1]], [[2, -1]], "mask value -1 is outside the 3 classes"),
        ([[0, -7]], [[0, 2]], "predicted value -7 is outside the 3 classes"),
        ([[0, -1]], [[0, 100]], "predicted value -1 is outside the 3 classes"),  # where nothing is counted, either
    ],
)
def test_a_negative_value_is_not_another_class(prediction: list, target: list, message: str, kind: torch.dtype) -> None:
    """-1 beside target 2 once counted as (1, 2)."""
    metric = ConfusionMatrix(3, ignore_index=100)
    with pytest.raises(UserError, match=message):
        metric.update(torch.tensor(prediction, dtype=kind), torch.tensor(target, dtype=kind))
    assert metric.matrix.sum() == 0


def test_only_whole_numbers_are_ids() -> None:
    with pytest.raises(UserError, match=r"predicted values are torch\.float32; they must be whole train ids"):
        ConfusionMatrix(3).update(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.uint8))
    metric = ConfusionMatrix(3, ignore_index=-1)  # another mark of "not counted"
    metric.update(torch.tensor([[0, 1]]), torch.tensor([[-1, 1]]))
    assert metric.matrix.sum() == 1
