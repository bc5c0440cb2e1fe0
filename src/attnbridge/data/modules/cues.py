"""Images whose training split has cues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnbridge.data.cues import with_cues
from attnbridge.data.images import ImageRecord
from attnbridge.data.modules.source_target import SourceTargetDataModule


class CueDataModule(SourceTargetDataModule):
    """The target domain with cues of its training images, which lie where masks would.

    Args:
        cues: folder with ``ID.png`` of each training image, as ``attnbridge cues`` or ``attnbridge segment`` writes
            them: 0 background, 1 to N the classes, 255 nothing known. Images without one are left out.
        options: everything of :class:`~attnbridge.data.modules.source_target.SourceTargetDataModule`.
    """

    def __init__(self, cues: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.cues = Path(cues) if cues else None

    def records(self, split: str) -> list[ImageRecord]:
        records = super().records(split)
        return with_cues(records, self.cues, self.classes) if split == "train" else records
