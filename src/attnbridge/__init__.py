"""attnbridge: see where a vision network looks, teach it where to look, carry that across datasets.

Importing this package is light; what it exports, see ``__init__.pyi``, is loaded when it is used.
"""

from importlib.metadata import PackageNotFoundError, version

from lazy_loader import attach_stub

from attnbridge.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, attach_stub(__name__, __file__))
__all__ += ["__version__"]

try:
    __version__ = version("attnbridge")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"
