"""The verb ``verify``: do two pictures show one person, by a network's own features."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attnbridge.cli.look import load_named
from attnbridge.data.pairs import draw_pairs, read_pairs
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.evaluation.verification import mistakes_sheet, roc_figure, similarities, verify


def faces(options: argparse.Namespace) -> int:
    """Score pairs of pictures; writes ``verification.json``, ``roc.png``, ``mistakes.jpg``, and the pairs if drawn."""
    pictures, out = Path(options.pictures), Path(options.out)
    listed = options.pairs
    if listed is None:
        listed = out / "pairs.txt"
        draw_pairs(pictures, listed, options.each)
    pairs = read_pairs(listed, pictures)
    model = load_named(options.model, options.weights, options.device)
    similarity = similarities(model, pairs)
    same = torch.tensor([pair.same for pair in pairs])
    scores = verify(similarity, same, torch.tensor([pair.fold for pair in pairs]))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "verification.json", {**scores, "model": options.model, "list": str(listed), **run_record()})
    roc_figure(similarity, same, scores).savefig(out / "roc.png", dpi=120)
    mistakes_sheet(pairs, similarity, scores["thresholds"]).save(out / "mistakes.jpg")
    accuracy = f"accuracy {100 * scores['accuracy']:.2f} ± {100 * scores['deviation']:.2f}%"
    print(f"{accuracy} over {len(scores['folds'])} folds, AUC {100 * scores['auc']:.2f}%, {scores['pairs']} pairs")
    print(out / "roc.png")
    return 0
