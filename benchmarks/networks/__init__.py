"""The list of networks on which the finder of layers is judged: ``NETWORKS``, each with a layer chosen by hand.

The layer is the last one with positions through which all passes that the score depends on: what pooling reads; in a
network that reads a class token, the input of the last attention, because after it the patches no longer matter. The
list was written, and is checked by ``python -m benchmarks.networks --check``, without attnbridge.
"""

from __future__ import annotations

from benchmarks.networks.network import Also, Grid, Network, build, images, independent_map
from benchmarks.networks.of_timm import TIMM
from benchmarks.networks.of_torchvision import TORCHVISION
from benchmarks.networks.of_transformers import TRANSFORMERS
from benchmarks.networks.of_users import USERS

NETWORKS: tuple[Network, ...] = TIMM + TORCHVISION + TRANSFORMERS + USERS

__all__ = ["NETWORKS", "Also", "Grid", "Network", "build", "images", "independent_map"]
