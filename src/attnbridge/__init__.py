"""attnbridge: see where a vision network looks, teach it where to look, carry that across datasets.

Importing this package is light; what it exports is loaded when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbridge.attention.class_maps import cam as cam
    from attnbridge.attention.class_maps import grad_cam as grad_cam
    from attnbridge.attention.explain import explain as explain
    from attnbridge.attention.observe import Observation as Observation
    from attnbridge.attention.observe import observe as observe
    from attnbridge.data.module import BridgeData as BridgeData
    from attnbridge.methods.attnbn import AttnBN as AttnBN

_EXPORTS = {
    "AttnBN": "attnbridge.methods.attnbn",
    "BridgeData": "attnbridge.data.module",
    "Observation": "attnbridge.attention.observe",
    "explain": "attnbridge.attention.explain",
    "cam": "attnbridge.attention.class_maps",
    "grad_cam": "attnbridge.attention.class_maps",
    "observe": "attnbridge.attention.observe",
}
__all__ = ["AttnBN", "BridgeData", "Observation", "cam", "explain", "grad_cam", "observe"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'attnbridge' has no attribute {name!r}")
