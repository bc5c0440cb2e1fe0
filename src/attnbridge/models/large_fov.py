"""DeepLab-LargeFOV's head: a label for each position from a wide field of view."""

from __future__ import annotations

from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Count, ShareOrNone, check_values


class LargeFOV(nn.Sequential):
    """A dilated 3x3 convolution in the place of VGG's first fully connected layer, two 1x1 convolutions after it.

    (Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015; TPAMI 2018.) The layers begin anew; the last one small.

    Args:
        channels: of the features ``(B, channels, h, w)``.
        labels: number L of labels, background first; the answer is ``(B, L, h, w)``, logits.
        width: channels inside; the published 1024.
        rate: of the dilation; the published 12 belongs to a stride of 8.
        dropout: after each of the two inner layers.
    """

    def __init__(
        self, channels: Count, labels: Count, width: Count = 1024, rate: Count = 12, dropout: ShareOrNone = 0.5
    ) -> None:
        check_values(LargeFOV.__init__, locals())
        last = nn.Conv2d(width, labels, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=rate, dilation=rate),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            last,
        )
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, L, h, w)``."""
        check_tensors(empty=True, features=(features, f"B {self.channels} h w"))
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits
