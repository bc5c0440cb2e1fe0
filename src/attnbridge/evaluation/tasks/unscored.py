"""A target without masks: maps to look at, and no score."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch import Callback
from PIL import Image

from attnbridge.data.arrays import read_arrays
from attnbridge.evaluation.figures import data_uri, overlay, sheet
from attnbridge.evaluation.gallery import IMAGES, AttentionGallery
from attnbridge.evaluation.page import format_protocol, write_run_page
from attnbridge.evaluation.record import RunRecord
from attnbridge.evaluation.tasks.base import Task, save_examples
from attnbridge.methods.base import Method


class UnscoredTask(Task):
    """A target without images for validation, so without masks."""

    def callbacks(self, method: Method, folder: Path) -> list[Callback]:
        """The attention of the same training images after each epoch."""
        return [AttentionGallery(folder, self.data.samples("train", IMAGES), method.classes)]

    def evaluate(self, _method: Method, _trainer: L.Trainer) -> dict[str, Any]:
        """No scores."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """Why there are no numbers."""
        return {"score": "none, since the target has no val split"}

    def save_examples(self, method: Method, folder: Path) -> None:
        """Keep eight training images with scores and maps, for pages."""
        save_examples(folder, method, self.data.samples("train", IMAGES))

    @staticmethod
    def summary(record: RunRecord) -> list[str]:
        return ["nothing was scored: the target has no val/ with masks"]

    @staticmethod
    def write_page(
        path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
    ) -> None:
        words = "Training images and the map of each of their classes."
        parts = [
            image_sheet(run, folder, f"{words} {format_protocol(run['protocol'])}")
            for run, folder in zip(runs, folders, strict=True)
        ]
        write_run_page(path, title, introduction, parts, runs)


def image_sheet(run: RunRecord, folder: Path, words: str) -> str:
    """A run's images, each beside the map of each of its classes, with a caption, as HTML."""
    return (
        f'<h2>{html.escape(run["name"])}</h2><figure><img alt="images and maps" src="{data_uri(map_sheet([folder]))}">'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )


def map_sheet(folders: Sequence[Path]) -> Image.Image:
    """The images that runs kept, each beside the map of each of its classes under each of the runs."""
    rows: list[list[Any]] = []
    for number, folder in enumerate(folders):
        data = read_arrays(folder / "examples.npz", "images", "labels", "maps")
        for place, (image, labels, maps) in enumerate(zip(data["images"], data["labels"], data["maps"], strict=True)):
            heat = [maps[c] / max(float(maps[c].max()), 1e-8) for c in np.flatnonzero(labels)]
            if number == 0:
                rows.append([image])
            rows[place] += [overlay(rows[place][0], each) for each in heat]
    return sheet(rows)
