"""DeepLab-LargeFOV's head: a label for each position from a wide field of view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Count, ShareOrNone, check_value, check_values


class LargeFOV(nn.Sequential):
    """A dilated 3x3 convolution in the place of VGG's first fully connected layer, two 1x1 convolutions after it.

    (Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015; TPAMI 2018.) The layers begin anew; the last one small.

    Several rates make as many branches whose logits are summed: DeepLab's, which DSRG takes with 6, 12, 18 and 24
    (speedinghzl/DSRG, 91efdf7, train-s.prototxt:395-744). With one rate the layers are numbered from 0; with several so
    are the branches, and the layers in each.

    Args:
        channels: of the features ``(B, channels, h, w)``.
        labels: number L of labels, background first; the answer is ``(B, L, h, w)``, logits.
        width: channels inside; the published 1024.
        rate: of the dilation; the published 12 belongs to a stride of 8. Or that of each branch.
        dropout: after each of the two inner layers.

    Attributes:
        rates: of the branches, one or several.

    Raises:
        AttnBridgeError: for a number out of range, or no rate at all.

    >>> LargeFOV(8, 3, 4, rate=(6, 12))(torch.rand(1, 8, 5, 5)).shape
    torch.Size([1, 3, 5, 5])
    """

    def __init__(
        self,
        channels: Count,
        labels: Count,
        width: Count = 1024,
        rate: Count | Sequence[Count] = 12,
        dropout: ShareOrNone = 0.5,
    ) -> None:
        check_values(LargeFOV.__init__, locals())
        if isinstance(rate, Sequence):
            check_value("rate", rate, Sequence[Count])
        rates = tuple(rate) if isinstance(rate, Sequence) else (rate,)
        branches = [_branch(channels, labels, width, each, dropout) for each in rates]
        super().__init__(*(branches if len(branches) > 1 else branches[0]))
        self.channels, self.rates = channels, rates

    @property
    def last(self) -> list[nn.Module]:
        """The layers that give the logits, one of each branch."""
        branches = list(self.children()) if len(self.rates) > 1 else [self]
        return [list(branch.children())[-1] for branch in branches]

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, L, h, w)``."""
        check_tensors(empty=True, features=(features, f"B {self.channels} h w"))
        if len(self.rates) > 1:
            return torch.stack([branch(features) for branch in self]).sum(0)
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits


def _branch(channels: int, labels: int, width: int, rate: int, dropout: float) -> nn.Sequential:
    last = nn.Conv2d(width, labels, 1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=rate, dilation=rate),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        nn.Dropout(dropout),
        last,
    )
