"""Networks: any backbone that can be observed, classifiers of any origin, teachers, discriminators."""

from lazy_loader import attach_stub

from attnbridge.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, attach_stub(__name__, __file__))
