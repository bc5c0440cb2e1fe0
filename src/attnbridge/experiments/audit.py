"""Does a network look at the object? One call from a network and images to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbridge.errors import AttnBridgeError, shown
from attnbridge.experiments.runs import Run, run_folder

if TYPE_CHECKING:
    from torch import nn

    from attnbridge.data.preparation import Preparation
    from attnbridge.evaluation.audit.masks import Boxes, Masks
    from attnbridge.evaluation.audit.result import Audit
    from attnbridge.evaluation.audit.sources import Images, Labels
    from attnbridge.models.classifiers import Classifier


def audit(
    model: Classifier | Run | nn.Module | str | Path,
    images: Images,
    *,
    labels: Labels | None = None,
    masks: Masks | None = None,
    boxes: Boxes | None = None,
    saliency: str | Path | Sequence[str | Path] = "u2netp",
    classes: Sequence[str] | None = None,
    preparation: Preparation | None = None,
    layer: str | None = None,
    batch: int = 8,
    out: Path | str | None = None,
    device: str | None = None,
    seed: int = 0,
) -> Audit:
    """Does a network look at the object, or at what is around it?

    Of each image, for one class, its label or else the prediction: the share of Grad-CAM's attention inside the object,
    over what the object's area would give by chance; and what the network says without the object, without as much of
    the background, and before the background of another image. Four forward passes an image. Of each class: means with
    bootstrap intervals, a verdict, and its reason in words. Where saliency means nothing, or there are too few images,
    the verdict is that nothing can be said.

    The thresholds of verdicts (:mod:`attnbridge.evaluation.audit.thresholds`) are provisional: they have not been held
    to networks whose bias is known.

    Args:
        model: a :class:`~attnbridge.models.Classifier`, a :class:`~attnbridge.Run` or its folder, the name of a network
            (:func:`~attnbridge.models.load_classifier`), or a network.
        images: a folder, flat or of class folders; a list of files and folders; a CSV of paths and labels; or COCO's
            ``annotations/instances_SPLIT.json``.
        labels: a CSV, or labels by the image's path below the common folder; default: the folders that are called as
            classes of the network; of other images the prediction is looked at.
        masks: a folder of masks, or masks by image; see :func:`~attnbridge.evaluation.audit.masks.find_objects`.
        boxes: ``boxes.csv``, or boxes by image, in the place of masks. Images without are in no verdict.
        saliency: what finds the objects where neither is given: a model (:data:`attnbridge.data.saliency.MODELS`), a
            folder of maps, or two of these, whose agreement is measured.
        classes: names of the classes of a network or name.
        preparation: how the images of a network are prepared, where it does not say so itself.
        layer: to look at; default: the last spatial features.
        batch: images in one forward pass.
        out: folder for the tables; rows are added as they come, and a second call goes on where the first one stopped.
        device: where the network runs; of a network or classifier: where it is.
        seed: of bootstrap and contexts.

    Raises:
        AttnBridgeError: if there are no images or none can be read, a label is no class of the network, the folder
            holds an audit of something else, or the network cannot be looked into.

    >>> audit("resnet50", "photos", labels="labels.csv").classes[0].reason  # doctest: +SKIP
    'boat: 71% of its attention lies outside; without the boat the network still says boat in 64% of images; ...'
    """
    from attnbridge.data.out_folders import check_out
    from attnbridge.evaluation.audit.masks import find_objects
    from attnbridge.evaluation.audit.result import TABLES
    from attnbridge.evaluation.audit.run import audit_images
    from attnbridge.evaluation.audit.sources import list_audited

    folder = None if out is None else check_out(out, TABLES)
    own = as_classifier(model, classes, preparation, device)
    listed = list_audited(images, labels, own.classes, folder)
    objects = find_objects(listed, own.classes, masks, boxes, saliency)
    return audit_images(own, listed, objects, layer=layer, batch=batch, out=folder, seed=seed)


def as_classifier(
    model: Any, classes: Sequence[str] | None, preparation: Preparation | None, device: str | None
) -> Classifier:
    """What a user calls a model, with what is needed to feed and read it.

    Raises:
        AttnBridgeError: for something that is none, or options that it has itself.
    """
    from torch import nn

    from attnbridge.models.classifiers import Classifier, load_classifier, of_network

    if isinstance(model, nn.Module):
        _refuse("a network", device=device)
        return of_network(model, classes, preparation)
    if isinstance(model, Classifier):
        _refuse("a Classifier", classes=classes, preparation=preparation, device=device)
        return model
    if not isinstance(model, Run | str | Path):
        raise AttnBridgeError(f"model must be a Classifier, a Run, a name or a network, not {shown(model)}")
    folder = None if isinstance(model, Run) else run_folder(str(model))
    run = model if isinstance(model, Run) else None if folder is None else Run(folder)
    if run is not None:
        _refuse("a run", classes=classes, preparation=preparation)
        return run.classifier(device)
    if preparation is None:
        return load_classifier(str(model), device=device, classes=classes)
    how: dict[str, Any] = {"size": preparation.size, "mean": preparation.mean, "std": preparation.std}
    return load_classifier(str(model), device=device, classes=classes, **how)


def _refuse(what: str, **given: Any) -> None:
    """Raise for an option that a model has itself."""
    for name, value in given.items():
        if value is not None:
            raise AttnBridgeError(f"{name} is given, but {what} has its own; leave {name} out")
