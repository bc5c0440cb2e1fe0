"""Scores of label masks beside true ones: pixels in one confusion matrix, IoU, boundaries. Values are 0 for the
background, 1 to N for the classes, 255 for what is not known."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from attnbridge.arguments import check_tensors
from attnbridge.bounds import Bounds, UpToOne, check_number
from attnbridge.data.masks import IGNORED
from attnbridge.errors import AttnBridgeError

TOLERANCE = 0.0075
"""Share of the diagonal within which a boundary is found."""
MaskClasses = Annotated[int, Bounds(least=1, most=IGNORED - 1)]
Mask = NDArray[np.bool_]


def mask_confusion(found: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Pixels of an image by their true and their predicted label; the sum over a set is the matrix of the set.

    Args:
        found: predicted mask, long ``(H, W)``; 255 is no label, so it is wrong wherever the truth is known.
        truth: true mask, long ``(H, W)``; its 255 are not counted.
        num_classes: number N of classes without background.

    Returns:
        Long ``(N + 1, N + 2)``: truth by prediction, its last column the pixels without a label.

    Raises:
        AttnBridgeError: for other shapes, or values that are neither a class nor 255.

    >>> mask_confusion(torch.tensor([[0, 1, 255]]), torch.tensor([[1, 1, 1]]), 1)
    tensor([[0, 0, 0],
            [1, 1, 1]])
    """
    _check_masks(found, truth, num_classes)
    side = num_classes + 1
    label = found.masked_fill(found == IGNORED, side)
    known = truth != IGNORED
    cell = truth[known] * (side + 1) + label[known]
    return torch.bincount(cell, minlength=side * (side + 1)).view(side, side + 1)


def _check_masks(found: Any, truth: Any, num_classes: Any) -> None:
    check_number("num_classes", num_classes, MaskClasses)
    check_tensors(found=(found, "H W", "long"), truth=(truth, "H W", "long"))
    for name, mask in (("found", found), ("truth", truth)):
        wrong = mask[(mask < 0) | ((mask > num_classes) & (mask != IGNORED))]
        if len(wrong):
            raise AttnBridgeError(
                f"{name} holds the value {int(wrong[0])}; expected 0 (background), 1 to {num_classes} (classes) or 255"
            )


def label_iou(confusion: Tensor) -> Tensor:
    """IoU of each label from a confusion matrix, NaN for one that neither is there nor is said to be.

    Args:
        confusion: long, truth by prediction: ``(L, L)``, or ``(L, L + 1)`` with a last column of pixels without a
            label, see :func:`mask_confusion`.

    Returns:
        ``(L,)`` in [0, 1], float64.

    Raises:
        AttnBridgeError: for another shape or type.

    >>> label_iou(torch.tensor([[2, 1, 0], [0, 1, 0], [0, 0, 0]])).tolist()
    [0.6666666666666666, 0.5, nan]
    """
    check_tensors(confusion=(confusion, "L K", "long"))
    side = len(confusion)
    if confusion.shape[1] - side not in (0, 1):
        raise AttnBridgeError(f"confusion must be (L, L) or (L, L + 1), but is of shape {tuple(confusion.shape)}")
    hit = confusion.diagonal().double()
    union = confusion[:, :side].sum(0) + confusion.sum(1) - hit
    return torch.where(union > 0, hit / union, torch.nan).cpu()


def boundary_f_score(found: Tensor, truth: Tensor, num_classes: int, tolerance: float = TOLERANCE) -> Tensor:
    r"""Boundary F-score of each class in an image (Csurka et al., BMVC 2013).

    .. math:: F_c = \frac{2 P_c R_c}{P_c + R_c}

    with precision :math:`P_c`, the share of the predicted class's boundary pixels that have a true one within the
    tolerance, and recall :math:`R_c`, the share of the true ones that have a predicted one. A boundary pixel of a class
    is one of the class beside (above, below, left, right) one of something else; the edge of the image is no boundary.
    Where the class has no boundary in one of the masks, its score is 0, and 1 where it fills both. (DAVIS's
    :math:`\mathcal{F}`, Perazzi et al., CVPR 2016, is the same of one object within 0.8% of the diagonal, rounded up.)

    Pixels that the truth ignores get the label of the nearest pixel that it does not ignore, in both masks: what is
    predicted there changes nothing, and the boundary of an object with an ignored band around it is the band's middle.

    Args:
        found: predicted mask, long ``(H, W)``; 255 is no label, so it belongs to no class.
        truth: true mask, long ``(H, W)``; 255 is ignored.
        num_classes: number N of classes; the background, 0, has no score.
        tolerance: share of the image's diagonal, in [0, 1]; the distance of two pixels is Euclidean and at most that.

    Returns:
        ``(N,)`` in [0, 1], float64; NaN for a class in neither mask.

    Raises:
        AttnBridgeError: for other shapes, values that are neither a class nor 255, or such a tolerance.

    >>> truth = torch.zeros(100, 100, dtype=torch.long)
    >>> truth[20:60, 20:60] = 1
    >>> boundary_f_score(truth.roll(1, 0), truth, 2).tolist()
    [1.0, nan]
    """
    _check_masks(found, truth, num_classes)
    check_number("tolerance", tolerance, UpToOne)
    scores = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    ours, theirs = (mask.detach().cpu().numpy() for mask in (found, truth))
    ignored = theirs == IGNORED
    if ignored.all():
        return scores
    if ignored.any():
        nearest = tuple(distance_transform_edt(ignored, return_distances=False, return_indices=True))
        ours, theirs = ours[nearest], theirs[nearest]
    reach = tolerance * math.hypot(*theirs.shape)
    for value in {*np.unique(ours).tolist(), *np.unique(theirs).tolist()} - {0, IGNORED}:
        scores[value - 1] = _boundary_f(ours == value, theirs == value, reach)
    return scores


def _boundary_f(found: Mask, truth: Mask, reach: float) -> float:
    """Of one class, within so many pixels."""
    lines = [mask & ~binary_erosion(mask, border_value=True) for mask in (found, truth)]
    if not (lines[0].any() and lines[1].any()):
        return float(found.all() and truth.all())
    rows, columns = (np.flatnonzero((lines[0] | lines[1]).any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    ours, theirs = (line[box] for line in lines)
    precision, recall = _near(ours, theirs, reach), _near(theirs, ours, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(pixels: Mask, others: Mask, reach: float) -> float:
    """Share of some pixels that have one of others within so many pixels."""
    return float((distance_transform_edt(~others)[pixels] <= reach).mean())
