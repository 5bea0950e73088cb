"""A method for tests: it trains on pictures alone, and its evaluation does not depend on what it learnt."""

from typing import Any

import torch
from torch import Tensor, nn

from methods import METHODS
from methods.supervision import Supervision


class Learner(METHODS["TrainingFree"]):
    """A dense CLIP beside a colour average that is learnt."""

    sees = Supervision.PICTURES

    def __init__(self, rule: str = "sclip") -> None:
        super().__init__(rule)
        self.colour = nn.Parameter(torch.zeros(3))
        self.register_buffer("counted", torch.zeros(1))  # DDP broadcasts buffers, inside validation too
        self.seen: list[Any] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen.append({key: value for key, value in batch.items() if key in ("name", "index", "caption")})
        images = batch["image"]
        means = torch.stack([image.mean((-1, -2)) for image in images])
        return (means - self.colour).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.colour], lr=0.1)
