"""Networks: any backbone that can be observed, classifiers of any origin, teachers, discriminators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbridge.lazy import exporter

if TYPE_CHECKING:
    from attnbridge.models.backbones import Backbone as Backbone
    from attnbridge.models.backbones import build_backbone as build_backbone
    from attnbridge.models.classifiers import Classifier as Classifier
    from attnbridge.models.classifiers import load_classifier as load_classifier
    from attnbridge.models.device import pick_device as pick_device
    from attnbridge.models.discriminator import DomainDiscriminator as DomainDiscriminator
    from attnbridge.models.discriminator import PooledDiscriminator as PooledDiscriminator
    from attnbridge.models.frozen_stem import FrozenStem as FrozenStem
    from attnbridge.models.frozen_stem import find_frozen_stem as find_frozen_stem
    from attnbridge.models.large_fov import LargeFOV as LargeFOV
    from attnbridge.models.teacher import Teacher as Teacher

_NAMES = {
    "Backbone": "attnbridge.models.backbones",
    "Classifier": "attnbridge.models.classifiers",
    "DomainDiscriminator": "attnbridge.models.discriminator",
    "FrozenStem": "attnbridge.models.frozen_stem",
    "LargeFOV": "attnbridge.models.large_fov",
    "PooledDiscriminator": "attnbridge.models.discriminator",
    "Teacher": "attnbridge.models.teacher",
    "build_backbone": "attnbridge.models.backbones",
    "find_frozen_stem": "attnbridge.models.frozen_stem",
    "load_classifier": "attnbridge.models.classifiers",
    "pick_device": "attnbridge.models.device",
}
__all__ = [
    "Backbone",
    "Classifier",
    "DomainDiscriminator",
    "FrozenStem",
    "LargeFOV",
    "PooledDiscriminator",
    "Teacher",
    "build_backbone",
    "find_frozen_stem",
    "load_classifier",
    "pick_device",
]
__getattr__ = exporter(__name__, _NAMES)
