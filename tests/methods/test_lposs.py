"""LPOSS against its formulas written out with dense matrices, and what its whole path does with a picture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import methods.lposs
from evaluation.windows import WindowScores
from methods.lposs import LPOSS, centres, lab, patch_graph, pixel_graph, propagated


def dense_normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    np.fill_diagonal(weights, 0)
    degree = weights.sum(1)
    degree[degree == 0] = 1
    return weights / np.sqrt(degree[:, None] * degree)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_patches_are_joined_to_those_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods.lposs, "NEIGHBOURS", 15)
    values, places = F.normalize(drawn(60, 8) + 0.5, dim=1), 200 * drawn(60, 2).abs()
    alike, distance = (values @ values.T).double().numpy(), torch.cdist(places, places).double().numpy()
    expected = np.zeros((60, 60))
    for i in range(60):
        for j in np.argsort(-alike[i])[:15]:
            expected[i, j] = max(alike[i, j], 0) ** 3 * np.exp(-0.01 * distance[i, j])
    found = patch_graph(values, places).to_dense().numpy()
    np.testing.assert_allclose(found, dense_normalised(expected + expected.T), atol=1e-5)


def test_pixels_are_joined_to_those_of_like_colour_in_a_square() -> None:
    image = 0.5 + 0.01 * drawn(3, 9, 12)
    colours = (lab(image) / torch.tensor([100.0, 128, 128])[:, None, None]).flatten(1).T.double().numpy()
    rows, columns = np.divmod(np.arange(108), 12)
    near = (abs(rows[:, None] - rows) <= 6) & (abs(columns[:, None] - columns) <= 6)
    expected = near * np.exp(-np.linalg.norm(colours[:, None] - colours, axis=-1) / 0.01)
    found = pixel_graph(image).to_dense().numpy()
    np.testing.assert_allclose(found, dense_normalised(expected), atol=1e-5)
    assert np.median(found[near & (found > 0)]) > 1e-4
    assert pixel_graph(torch.rand(3, 1, 1)).to_dense().tolist() == [[0.0]]


def test_colours_are_cielab() -> None:
    image = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.5, 0.0]])[:, None]
    known = torch.tensor([[100.0, 53.24, 53.39, 0.0], [0.0, 80.09, 0.0, 0.0], [0.0, 67.20, 0.0, 0.0]])[:, None]
    torch.testing.assert_close(lab(image), known, atol=0.03, rtol=0)


def test_the_tenth_step_is_the_answer() -> None:
    graph, y = patch_graph(F.normalize(drawn(80, 4), dim=1), drawn(80, 2)), drawn(80, 3).double()
    matrix = torch.eye(80).double() - 0.95 * graph.to_dense().double()
    z, r = torch.zeros_like(y), y.clone()
    p = r.clone()
    for _ in range(10):
        a = r.square().sum(0) / (p * (matrix @ p)).sum(0)
        z, before, r = z + a * p, r, r - a * (matrix @ p)
        p = r + r.square().sum(0) / before.square().sum(0) * p
    torch.testing.assert_close(propagated(graph, y.float()).double(), z, atol=1e-4, rtol=1e-4)
    empty = torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), (80, 80))
    torch.testing.assert_close(propagated(empty, y.float()), y.float())  # solved after one step, and then left alone
    assert not propagated(graph, torch.zeros(80, 1)).any()


def test_places_are_those_of_the_whole_picture() -> None:
    windows = WindowScores(torch.zeros(2, 1, 2, 3), [(0, 0, 8, 12), (4, 20, 12, 32)], torch.zeros(3, 12, 32))
    assert centres(windows, 4).tolist()[:3] == [[2, 2], [2, 6], [2, 10]]
    assert centres(windows, 4).tolist()[-1] == [4 + 6, 20 + 10]


@pytest.mark.parametrize("pixels", [False, True])
def test_windows_of_a_picture_share_one_graph(pixels: bool) -> None:
    """Its scores are those of all windows propagated together, not those of each alone."""
    model = LPOSS(pixels=pixels, protocol_values={"short_side": 64, "crop": 64, "stride": 32})
    model.use_vocabulary("red striped square; grass; sand")
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    boxes = [(0, 0, 64, 64), (0, 32, 64, 96)]
    with torch.no_grad():
        read = model.read(torch.stack([image[:, t:b, le:r] for t, le, b, r in boxes]))
        together = model.together(WindowScores(read, boxes, image))
    (found,) = model.score_images([image])
    torch.testing.assert_close(found.scores, together.scores)
    alone = torch.stack([model(image[None, :, t:b, le:r])[0] for t, le, b, r in boxes])
    assert (found.scores - alone).abs().max() > 1e-3
    expected = model.class_of_word[together.merge(slice(0, 3), (64, 96)).argmax(0)]
    assert (model.segment(image).labels == expected).all()
