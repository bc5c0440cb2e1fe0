"""Names of a package that are loaded when they are used, so that importing the package stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

TRAIN = ("lightning", "torchmetrics", "jsonargparse", "matplotlib")
"""What the extra ``train`` brings."""


def lacks_training(what: str, error: ModuleNotFoundError) -> str | None:
    """What to say where ``what`` needs a package of the extra ``train`` that is not there; none for other packages.

    >>> lacks_training("fit", ModuleNotFoundError(name="lightning.pytorch"))
    "fit needs lightning: pip install 'attnbridge[train]'"
    """
    package = (error.name or "").split(".")[0]
    return f"{what} needs {package}: pip install 'attnbridge[train]'" if package in TRAIN else None


def exporter(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``.

    Args:
        package: its name.
        names: of what it exports, to the module that has it.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(names[name]), name)
        except ModuleNotFoundError as error:
            words = lacks_training(f"{package}.{name}", error)
            if words is None:
                raise
            raise ImportError(words) from None

    return load
