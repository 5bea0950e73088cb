"""OFA's image trunk: the first three stages of a ResNet of torchvision's bottlenecks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d


class Trunk(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> features (B, C, h, w), h = ceil(H / stride).

    Args:
        blocks: bottlenecks per stage.
        width: channels of the first stage's bottlenecks; C = 16 times as many.
        pool: max pooling after the first convolution.
        frozen: batch norm as a fixed affine map, as IFSeg uses it; off to pretrain a trunk.
    """

    def __init__(self, blocks: tuple[int, int, int], width: int, pool: bool, frozen: bool = True) -> None:
        super().__init__()
        norm: Callable[..., nn.Module] = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        self.layer1 = _stage(width, width, 1, blocks[0], norm)
        self.layer2 = _stage(4 * width, 2 * width, 2, blocks[1], norm)
        self.layer3 = _stage(8 * width, 4 * width, 2, blocks[2], norm)
        self.channels = 16 * width

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)  # where a CPU's convolutions of one pixel are matrix products
        x = self.maxpool(self.relu(normed(x, self.conv1, self.bn1)))
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return features


class Block(Bottleneck):
    """torchvision's bottleneck, its frozen norms as parts of the convolutions before them."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(normed(x, self.conv1, self.bn1))
        out = self.relu(normed(out, self.conv2, self.bn2))
        out = normed(out, self.conv3, self.bn3)
        out += x if self.downsample is None else normed(x, *self.downsample)
        return self.relu(out)


def normed(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))``; a frozen norm is multiplied into the weights, which saves two passes over the features."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def _stage(channels: int, planes: int, stride: int, count: int, norm: Callable[..., nn.Module]) -> nn.Sequential:
    down = nn.Sequential(nn.Conv2d(channels, 4 * planes, 1, stride, bias=False), norm(4 * planes))
    first = Block(channels, planes, stride, down, norm_layer=norm)
    return nn.Sequential(first, *(Block(4 * planes, planes, norm_layer=norm) for _ in range(count - 1)))
