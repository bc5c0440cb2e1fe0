"""Class maps averaged over several views of an image, for cues, masks and scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from attnbridge.attention.explain import explain
from attnbridge.errors import AttnBridgeError


@dataclass(frozen=True)
class Views:
    """The views of an image that its class maps are averaged over.

    Attributes:
        scales: multiples of the size of the network's images.
        flip: mirrored images too.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def single(self) -> bool:
        """Whether there is only the image as it is."""
        return self.scales == (1.0,) and not self.flip

    def __str__(self) -> str:
        """In words.

        >>> str(Views()), str(Views((0.5, 1.0), True))
        ('one scale, not flipped', 'the mean of the scales 0.5, 1.0 and their mirror images')
        """
        if self.single:
            return "one scale, not flipped"
        what = f"scale{'s' if len(self.scales) > 1 else ''} {', '.join(map(str, self.scales))}"
        return f"the mean of the {what} and their mirror images" if self.flip else f"the mean of the {what}"

    def maps(self, network: nn.Module, images: Tensor, present: Tensor, layer: str | None, option: str) -> Tensor:
        """The mean over the views, each map to its own maximum first; see
        :func:`~attnbridge.attention.explain.explain`.

        Args:
            network: from normalised images to logits ``(B, N)``.
            images: ``(B, 3, H, W)``, normalised.
            present: bool ``(B, N)``, the classes that are wanted; the maps of the others are 0.
            layer: to look at.
            option: what the scales are called in messages.

        Returns:
            ``(B, N, h, w)`` at the layer's resolution at scale 1.

        Raises:
            AttnBridgeError: for a scale at which the network takes no images.
        """
        try:
            return explain(network, images, present, layer, scales=self.scales, flip=self.flip, differentiable=False)
        except AssertionError as error:  # timm's transformers take one size
            raise AttnBridgeError(f"the network does not take images at all of {option} ({error}); give 1") from None


ONE_VIEW = Views()
"""The image as it is."""
