"""Images, labels, saliency maps and masks in: folders, data modules, batches."""

from lazy_loader import attach_stub

from attnbridge.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, attach_stub(__name__, __file__))
