"""One run: a configuration becomes a folder with weights, scores, pictures and a report."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from attnbridge.cli.config import load_config
from attnbridge.data.module import BridgeData
from attnbridge.data.transforms import Shape
from attnbridge.errors import AttnBridgeError
from attnbridge.evaluation.gallery import PICTURES, AttentionGallery, look_at
from attnbridge.evaluation.pictures import to_uint8
from attnbridge.evaluation.record import run_record, write_json
from attnbridge.evaluation.scoring import Scores
from attnbridge.methods import load_method
from attnbridge.methods.base import Method

Config = dict[str, Any]
FIXED_THRESHOLD = 0.5


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.image_size", "model.image_size")


def build(config: Config, folder: Path | None = None) -> tuple[Method, BridgeData, L.Trainer]:
    """Method, data and trainer of a configuration; types are checked against the signatures.

    Args:
        config: checked by :func:`attnbridge.cli.config.load_config`.
        folder: where the trainer logs; ``None`` for a trainer that only evaluates.

    Raises:
        AttnBridgeError: for a value that does not fit its type, or anything the parts refuse.
    """
    trainer: Config = {"use_distributed_sampler": False, "enable_model_summary": False, "logger": False}
    if folder is not None:
        place = {"save_dir": str(folder.parent), "name": folder.name, "version": ""}
        trainer["logger"] = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": place}
    try:
        cli = _CLI(
            load_method(config["method"]),
            BridgeData,
            run=False,
            save_config_callback=None,
            seed_everything_default=config.get("seed", 0),
            trainer_defaults=trainer,
            parser_kwargs={"exit_on_error": False},
            args={
                "model": config.get("model") or {},
                "data": {"source": None, "seed": config.get("seed", 0), **(config.get("data") or {})},
                "trainer": config.get("trainer") or {},
            },
        )
    except ArgumentError as error:
        raise AttnBridgeError(f"the configuration is not valid: {error}") from None
    return cli.model, cli.datamodule, cli.trainer


def train(config: Config, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train and evaluate; returns the content of ``run.json``.

    Args:
        config: checked by :func:`attnbridge.cli.config.load_config`.
        folder: the run's folder; must not hold another run, unless it is to be resumed.
        resume: go on from ``checkpoints/last.ckpt``, if there is one.

    Raises:
        AttnBridgeError: if the folder holds a run already, or the configuration or data are not valid.
    """
    main = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if main and (folder / "config.yaml").exists() and not resume:
        raise AttnBridgeError(f"{folder}: holds a run already; name another folder, or add --resume")
    if resume and (folder / "config.yaml").is_file():
        _check_same(yaml.safe_load((folder / "config.yaml").read_text()), config, folder)
    keep_freed_memory()
    method, data, trainer = build(config, folder)
    if config.get("after"):
        _start_from(method, _first_stage(config, folder, resume))
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    scores, callbacks = _callbacks(config, method, data, folder)
    trainer.callbacks += callbacks  # type: ignore[attr-defined]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    earlier = _read_metrics(folder) if resume else []
    start = time.perf_counter()
    try:
        trainer.fit(method, data, ckpt_path=str(checkpoint) if resume and checkpoint.is_file() else None)
    except SystemExit:  # Lightning's answer to an interrupt, after it has cleaned up
        raise KeyboardInterrupt from None
    seconds = time.perf_counter() - start
    fixed = (config.get("evaluation") or {}).get("threshold", FIXED_THRESHOLD)
    result = evaluate(method, data, trainer, scores, fixed)
    content = {
        "name": config.get("name", config["method"]),
        "seed": config.get("seed", 0),
        "seconds": round(seconds, 1),
        "scores": result,
        "classes": list(method.classes),
        "protocol": protocol(config, data),
        **run_record(),
    }
    if main:
        _join_metrics(folder, earlier)
        save_examples(method, data, folder)
        write_json(folder / "run.json", content)
    return content


def _callbacks(config: Config, method: Method, data: BridgeData, folder: Path) -> tuple[Scores, list[Callback]]:
    """The scores, and all callbacks of a run."""
    scores = Scores(len(data.classes), (config.get("evaluation") or {}).get("score_threshold", 0.5))
    gallery = AttentionGallery(folder, data.samples("val", PICTURES), method.classes)
    saver = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0, save_on_train_epoch_end=True)
    return scores, [scores, gallery, saver]


def evaluate(method: Method, data: BridgeData, trainer: L.Trainer, scores: Scores, fixed: float) -> dict[str, Any]:
    """Choose the threshold on validation, score the test split; see :meth:`Scores.result`."""
    trainer.validate(method, data, verbose=False)
    if data.has_test():
        trainer.test(method, data, verbose=False)
    else:  # said in the protocol: the numbers are then those of the split that chose the threshold
        scores.iou["test"] = scores.iou["val"]
        scores.average_precision["test"] = scores.average_precision["val"]
        scores.others["test"] = scores.others["val"]
    return scores.result(fixed)


def protocol(config: Config, data: BridgeData) -> dict[str, Any]:
    """How the numbers were made, in words, to stand beside them."""
    settings = config.get("evaluation") or {}
    split = "test" if data.has_test() else "val"
    return {
        "score": "mIoU over one confusion matrix of the whole split, background a class, 255 ignored",
        "split": split,
        "threshold": "relative to each map's maximum; chosen on val" + (" (the same split)" if split == "val" else ""),
        "fixed_threshold": settings.get("threshold", FIXED_THRESHOLD),
        "predicted": f"a class is predicted where its probability exceeds {settings.get('score_threshold', 0.5)}",
        "resolution": f"pictures and masks at {data.image_size} pixels, one scale, no flip, no post-processing",
        "overlap": "where maps of several classes exceed the threshold the class with the larger score wins",
    }


def save_examples(method: Method, data: BridgeData, folder: Path) -> None:
    """Keep the pictures, truth, scores and maps of eight test pictures, for reports."""
    samples = data.samples("test" if data.has_test() else "val", PICTURES)
    np.savez_compressed(
        folder / "examples.npz",
        images=np.stack([to_uint8(sample["image"]) for sample in samples]),
        masks=np.stack([sample["mask"].numpy().astype(np.uint8) for sample in samples]),
        labels=np.stack([sample["labels"].numpy() for sample in samples]),
        **look_at(method, samples),
    )


def load_run(folder: Path) -> tuple[Config, Method]:
    """The configuration and the trained method of a run's folder.

    Raises:
        AttnBridgeError: if it is no run, or has no checkpoint.
    """
    path, checkpoint = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    for needed in (path, checkpoint):
        if not needed.is_file():
            raise AttnBridgeError(f"{needed}: no such file; expected the folder of a run made by `attnbridge fit`")
    try:
        config: Config = yaml.safe_load(path.read_text())
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        wanted = config["method"], state["classes"], state["image_size"], state["state_dict"]
    except Exception as error:  # YAML's, pickle's and zip's errors have no common class
        words = f"{type(error).__name__} {error}".splitlines()[0]
        raise AttnBridgeError(f"{folder}: its configuration or checkpoint cannot be read ({words})") from None
    options = {**(config.get("model") or {}), "weights": "none"}
    name, classes, image_size, weights = wanted
    method = load_method(name)(classes, image_size=image_size, **options)
    method.load_state_dict(weights)
    return config, method.eval()


def shape_of(config: Config) -> Shape:
    """In which shape a run's network is given its pictures."""
    shape: Shape = (config.get("data") or {}).get("shape", "stretch")
    return shape


def _check_same(before: Config, now: Config, folder: Path) -> None:
    """A run goes on with the configuration that it began with; the schedule depends on it."""
    for section in sorted({*before, *now}):
        old, new = before.get(section), now.get(section)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(n for n in [*old, *new] if old.get(n) != new.get(n))
            section, old, new = f"{section}.{name}", old.get(name), new.get(name)
        raise AttnBridgeError(
            f"{folder}: was begun with {section} = {old!r}, not {new!r}; resume it with its own configuration "
            f"({folder / 'config.yaml'}), or name another folder"
        )


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks: it gives large ones back at once, and PyTorch asks for them at each step.

    On two cores a step of AttnBN takes four fifths of the time at 128 pixels, less than half at 240 x 160; other C
    libraries are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _read_metrics(folder: Path) -> list[dict[str, str]]:
    """The metrics of the epochs before a run was resumed: Lightning's logger starts its file anew."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def _join_metrics(folder: Path, earlier: list[dict[str, str]]) -> None:
    if earlier:
        rows = earlier + _read_metrics(folder)
        with (folder / "metrics.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def _first_stage(config: Config, folder: Path, resume: bool) -> Path:
    """Train the configuration that this one comes after, in ``folder/first``, unless it is done."""
    done = Path(config["after"])
    first = done if (done / "run.json").is_file() else folder / "first"
    if not (first / "run.json").is_file():
        earlier = load_config(config["after"])
        earlier |= {
            "data": config["data"],
            "seed": config.get("seed", 0),
            "trainer": config.get("trainer") or {},
        }
        earlier["model"] = {**(earlier.get("model") or {}), **_shared(config.get("model") or {})}
        train(earlier, first, resume=resume or first.exists())
    return first / "checkpoints" / "last.ckpt"


def _shared(model: Config) -> Config:
    """What both stages have in common: all but the weights of the losses."""
    return {name: value for name, value in model.items() if not name.endswith("_weight")}


def _start_from(method: Method, checkpoint: Path) -> None:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    method.load_state_dict({k: v for k, v in state.items() if not k.startswith("discriminator.")}, strict=False)
