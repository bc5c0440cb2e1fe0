"""The verb ``explain``; apart from the others, since a timm model is looked into without Lightning."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from attnbridge.attention.classifiers import Classifier, find_classes, load_classifier
from attnbridge.cli.preflight import report_skipped, run_folder
from attnbridge.evaluation.explain_pictures import Settings, explain_pictures


def explain(options: argparse.Namespace) -> int:
    """Where a network looks on a user's pictures; status 1 if some could not be read."""
    model = load_named(options.model, options.weights, options.device)
    wanted = find_classes(options.classes or [], model.classes)

    def choose(scores: Tensor) -> Tensor:
        indices = torch.tensor(wanted).expand(len(scores), -1) if wanted else scores.topk(top).indices.cpu()
        return torch.zeros(scores.shape, dtype=torch.bool).scatter(1, indices, True).to(scores.device)

    top = min(options.top, len(model.classes))
    words = ", ".join(model.classes[c] for c in wanted) or f"the {top} most probable"
    settings = Settings(options.method, options.layer, words)
    status = report_skipped(explain_pictures(model, options.pictures, options.out, choose, settings, options.batch))
    if (options.out / "sheet-1.jpg").is_file():
        print(options.out / "sheet-1.jpg")
    return status


def load_named(name: str, weights: str, device: str | None = None) -> Classifier:
    """The network of a run's folder, or a timm model by name, on a device.

    Raises:
        AttnBridgeError: for neither of them, weights that cannot be had, or a device that is not there.
    """
    folder = run_folder(name)
    if folder is None:
        return load_classifier(name, weights, device)
    from attnbridge.cli.run import load_run, shape_of
    from attnbridge.evaluation.predict import as_classifier

    config, method = load_run(folder)
    return as_classifier(method, folder, shape_of(config), device)
