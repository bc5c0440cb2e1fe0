"""Class maps of a folder of pictures: overlays to look at, arrays to go on with, scores as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torchvision.transforms.v2 import functional as TF

from attnbridge.data.folders import list_images
from attnbridge.data.pictures import load_picture
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.pictures import overlay
from attnbridge.segmentation.combine import enlarge_maps


def predict_folder(method: Any, pictures: Path, out: Path, size: int, threshold: float) -> list[str]:
    """Write ``NAME.CLASS.png`` overlays, ``NAME.npz`` arrays and ``scores.csv``.

    Args:
        method: a trained :class:`~attnbridge.methods.base.Method`.
        pictures: one picture, or a folder of them.
        out: folder to write.
        size: side of the network's input, pixels.
        threshold: probability from which on a class gets an overlay; the most probable class always does.

    Returns:
        One message for each picture that could not be read.
    """
    paths = [pictures] if pictures.is_file() else list_images(pictures)
    if not paths:
        raise AttnBridgeError(f"{pictures}: holds no pictures")
    out.mkdir(parents=True, exist_ok=True)
    transform = eval_transform(size)
    bad = []
    partial = out / "scores.csv.partial"
    with partial.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["id", *method.classes])
        for path in track(paths, description="maps", transient=True):
            try:
                image = load_picture(path)
            except AttnBridgeError as error:
                bad.append(str(error))
                continue
            tensor = transform(TF.pil_to_tensor(image))[None].to(method.device)
            prediction = method.predict_batch(tensor)
            scores = prediction["scores"][0].cpu()
            _write_one(out, path, image, scores, prediction["maps"].cpu(), method.classes, threshold)
            rows.writerow([path.name, *(f"{float(s):.4f}" for s in scores)])
    partial.replace(out / "scores.csv")
    return bad


def _write_one(
    out: Path,
    path: Path,
    image: Image.Image,
    scores: torch.Tensor,
    maps: torch.Tensor,
    classes: tuple[str, ...],
    threshold: float,
) -> None:
    shown = {int(scores.argmax()), *torch.nonzero(scores > threshold).flatten().tolist()}
    enlarged = enlarge_maps(maps, (image.height, image.width))[0].numpy()
    for index in sorted(shown):
        picture = overlay(np.asarray(image), enlarged[index])
        Image.fromarray(picture).save(out / f"{path.stem}.{classes[index]}.png")
    np.savez_compressed(
        out / f"{path.stem}.npz", maps=maps[0].numpy(), scores=scores.numpy(), classes=np.array(classes)
    )
