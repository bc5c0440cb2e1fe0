"""Domain discriminators: AttnBN's, fully convolutional on up-sampled features, and one on pooled features."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Count, check_values

SMALLEST = 32  # pixels that five halvings leave one of


class DomainDiscriminator(nn.Module):
    """Five 4x4 convolutions of stride 2 on features enlarged five times; one logit per patch.

    The paper (Li et al., ICCV 2019) names a DCGAN-like, fully convolutional network on features
    up-sampled by 5; widths 64-128-256-512-1, LeakyReLU 0.2 and no batch norm are AdaptSegNet's (Tsai et
    al., CVPR 2018).

    Args:
        channels: channels of the features.
        width: channels of the first convolution; doubled three times.
        projection: channels of a 1x1 convolution before the up-sampling, which saves most of the cost;
            ``None`` is the paper's discriminator.
        upsample: factor of the up-sampling; features smaller than 7x7 are enlarged to 32x32.
        spectral: bound the Lipschitz constant of each convolution by spectral normalisation (Miyato et
            al., ICLR 2018).

    >>> import torch
    >>> DomainDiscriminator(16, width=8)(torch.zeros(2, 16, 14, 14)).shape
    torch.Size([2, 1, 2, 2])
    """

    def __init__(
        self,
        channels: Count,
        *,
        width: Count = 64,
        projection: Count | None = 32,
        upsample: Count = 5,
        spectral: bool = False,
    ) -> None:
        check_values(DomainDiscriminator.__init__, locals())
        super().__init__()
        self.channels, self.upsample = channels, upsample
        norm = spectral_norm if spectral else lambda layer: layer
        self.project = norm(nn.Conv2d(channels, projection, 1)) if projection else nn.Identity()
        widths = [projection or channels, width, width * 2, width * 4, width * 8]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, norm(nn.Conv2d(widths[-1], 1, 4, stride=2, padding=1)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of "source", ``(B, 1, h, w)``, from features ``(B, C, H, W)``; 14x14 gives 2x2."""
        check_tensors(empty=True, features=(features, f"B {self.channels} H W"))
        size = [max(SMALLEST, side * self.upsample) for side in features.shape[2:]]
        enlarged = F.interpolate(self.project(features), size, mode="bilinear", align_corners=False)
        return self.layers(enlarged)  # type: ignore[no-any-return]


class PooledDiscriminator(nn.Sequential):
    """Two layers on features averaged over their positions; one logit of "source" per image.

    Args:
        channels: of the features ``(B, channels)``.
        width: inside.
    """

    def __init__(self, channels: Count, width: Count = 256) -> None:
        check_values(PooledDiscriminator.__init__, locals())
        super().__init__(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, 1))
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """Logits of "source", ``(B, 1)``."""
        check_tensors(empty=True, features=(features, f"B {self.channels}"))
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits
