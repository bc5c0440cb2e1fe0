"""Names of a package that are loaded when they are used, so that importing the package stays light."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TRAIN = ("lightning", "torchmetrics", "jsonargparse", "matplotlib")
"""What the extra ``train`` brings."""

Attached = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]
"""A package's ``__getattr__``, ``__dir__`` and ``__all__``."""


def lacks_training(what: str, error: ModuleNotFoundError) -> str | None:
    """What to say where ``what`` needs a package of the extra ``train`` that is not there; none for other packages.

    >>> lacks_training("fit", ModuleNotFoundError(name="lightning.pytorch"))
    "fit needs lightning: pip install 'attnbridge[train]'"
    """
    package = (error.name or "").split(".")[0]
    return f"{what} needs {package}: pip install 'attnbridge[train]'" if package in TRAIN else None


def exports(package: str, attached: Attached) -> Attached:
    """What lazy_loader attaches to a package, where a missing package of ``train`` is answered with what to install.

    Args:
        package: its name.
        attached: of ``lazy_loader.attach`` or ``attach_stub``.
    """
    load, names, exported = attached

    def load_or_tell(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            words = lacks_training(f"{package}.{name}", error)
            if words is None:
                raise
            raise ImportError(words) from None

    return load_or_tell, names, exported
