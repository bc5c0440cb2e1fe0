"""attnbridge: see where a vision network looks, teach it where to look, carry that across datasets.

Importing this package is light; what it exports is loaded when it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from attnbridge.errors import AttnBridgeError as AttnBridgeError
from attnbridge.lazy import exporter

if TYPE_CHECKING:
    from attnbridge import data as data
    from attnbridge import losses as losses
    from attnbridge import methods as methods
    from attnbridge import metrics as metrics
    from attnbridge import models as models
    from attnbridge import segmentation as segmentation
    from attnbridge.attention.class_maps import cam as cam
    from attnbridge.attention.class_maps import grad_cam as grad_cam
    from attnbridge.attention.class_maps import grad_cam_pp as grad_cam_pp
    from attnbridge.attention.class_maps import layer_cam as layer_cam
    from attnbridge.attention.explain import explain as explain
    from attnbridge.attention.observe import Observation as Observation
    from attnbridge.attention.observe import observe as observe
    from attnbridge.evaluation.figures import overlay as overlay
    from attnbridge.evaluation.figures import show as show
    from attnbridge.experiments.fit import fit as fit
    from attnbridge.experiments.runs import Run as Run
    from attnbridge.experiments.runs import load_run as load_run

_NAMES = {
    "Observation": "attnbridge.attention.observe",
    "Run": "attnbridge.experiments.runs",
    "cam": "attnbridge.attention.class_maps",
    "explain": "attnbridge.attention.explain",
    "fit": "attnbridge.experiments.fit",
    "grad_cam": "attnbridge.attention.class_maps",
    "grad_cam_pp": "attnbridge.attention.class_maps",
    "layer_cam": "attnbridge.attention.class_maps",
    "load_run": "attnbridge.experiments.runs",
    "observe": "attnbridge.attention.observe",
    "overlay": "attnbridge.evaluation.figures",
    "show": "attnbridge.evaluation.figures",
}
_SUBMODULES = ("data", "losses", "methods", "metrics", "models", "segmentation")
__all__ = ["AttnBridgeError", "__version__", *sorted(_NAMES), *_SUBMODULES]
_load = exporter(__name__, _NAMES)

try:
    __version__ = version("attnbridge")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    return import_module(f"attnbridge.{name}") if name in _SUBMODULES else _load(name)


def __dir__() -> list[str]:
    return list(__all__)
