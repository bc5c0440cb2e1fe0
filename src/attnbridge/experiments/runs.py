"""A finished run: a folder with a configuration, a checkpoint, a record and a page."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbridge.data.files import given_path
from attnbridge.data.text import read_object, read_yaml
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.config_checks import check_names_no_class
from attnbridge.experiments.options import check_value
from attnbridge.methods import CUES, SOURCE_TARGET, load_method, load_object
from attnbridge.models.names import is_folder_name, is_library_name

if TYPE_CHECKING:
    from torch import nn

    from attnbridge.data.transforms import Shape
    from attnbridge.evaluation.folders.segment import Segmenter
    from attnbridge.evaluation.record import RunRecord
    from attnbridge.methods.base import Method
    from attnbridge.models.classifiers import Classifier

FIELDS: dict[str, Any] = {
    "name": str, "method": str, "task": str, "seed": int, "seconds": int | float, "scores": dict, "classes": list,
    "protocol": dict, "date": str, "versions": dict, "git": dict | None, "hardware": dict,
}  # fmt: skip
"""Kinds of what a record holds."""
TASKS = "attnbridge.evaluation.tasks."
CONFIG, RECORD, REPORT, CHECKPOINT = "config.yaml", "run.json", "report.html", "checkpoints/last.ckpt"
NETWORK = "network"
"""Folder of what describes a backbone that is in a Hugging Face folder, so that a run is loaded without that one."""
NETWORK_FILES = ("config.json", "preprocessor_config.json")


class Run:
    """The folder of a run; nothing of it is read before it is asked for.

    Args:
        folder: made by :func:`~attnbridge.experiments.fit.fit`.
        trust: whether its configuration may name classes, whose code may run. That of others may not.

    >>> run = Run("no/run")
    >>> run.done, run.report.as_posix()
    (False, 'no/run/report.html')
    """

    def __init__(self, folder: Path | str, *, trust: bool = False) -> None:
        self.folder, self.trust = Path(folder), trust

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def begun(self) -> bool:
        """Whether there is anything of it."""
        return (self.folder / CONFIG).is_file()

    @property
    def done(self) -> bool:
        """Whether it was trained and scored to its end."""
        return (self.folder / RECORD).is_file()

    @property
    def checkpoint(self) -> Path:
        """Its weights after the last whole epoch."""
        return self.folder / CHECKPOINT

    @property
    def report(self) -> Path:
        """Its page."""
        return self.folder / REPORT

    def check(self) -> Run:
        """Itself, once its configuration is read; free of torch.

        Raises:
            AttnBridgeError: see :attr:`config`.
        """
        _ = self.config
        return self

    @cached_property
    def config(self) -> Experiment:
        """What was trained.

        Raises:
            AttnBridgeError: if it is no run, was made with names that are others now, or names a class and is not
                trusted.
        """
        path = self._existing(CONFIG)
        config = read_yaml(path)
        if not isinstance(config, dict):
            raise AttnBridgeError(f"{path}: holds no sections such as `model:`; expected what `attnbridge fit` wrote")
        if not self.trust:
            check_names_no_class(config, str(path))
        return Experiment.from_mapping(config, str(path))

    @cached_property
    def record(self) -> RunRecord:
        """Scores, protocol, versions, hardware: ``run.json``.

        Raises:
            AttnBridgeError: if it was not finished, or the file is no record of a run.
        """
        path = self._existing(RECORD)
        found: Any = read_object(path)
        for name, kind in FIELDS.items():
            if not isinstance(found.get(name), kind):
                raise AttnBridgeError(
                    f"{path}: is no record of a run: its {name!r} is {found.get(name)!r:.80}, not as `attnbridge fit` "
                    "wrote it; put the file back, or train again"
                )
        if not all(isinstance(name, str) for name in found["classes"]):
            raise AttnBridgeError(f"{path}: expected 'classes' to be a list of names, not {found['classes']!r:.80}")
        task: Any = load_object(found["task"]) if found["task"].startswith(TASKS) else None
        if not hasattr(task, "check"):
            raise AttnBridgeError(f"{path}: its task {found['task']!r} is none; put the file back, or train again")
        task.check(found, path)
        record: RunRecord = found
        return record

    @property
    def scores(self) -> dict[str, Any]:
        """What its task found."""
        return self.record["scores"]

    @property
    def shape(self) -> Shape:
        """In which shape its network is given its images."""
        shape: Shape = self.config.data.get("shape", "stretch")
        return shape

    def method(self, network: nn.Module | None = None) -> Method:
        """The trained method, in eval mode, on the CPU.

        Args:
            network: of a run with a network of one's own: one of the same structure.

        Raises:
            AttnBridgeError: if there is no checkpoint, it cannot be read, or the network is missing.
        """
        import torch

        from attnbridge.methods.base import no_network, read_checkpoint

        kind, state = load_method(self.config.method), read_checkpoint(self._existing(CHECKPOINT))
        options = state["hyper_parameters"]
        check_value("image_size", options.get("image_size", 224), "Side | tuple[Side, Side]")
        if state["own_network"] and network is None:
            raise no_network()
        if (self.folder / NETWORK / NETWORK_FILES[0]).is_file() and is_folder_name(options.get("backbone")):
            options = {**options, "backbone": f"hf/{self.folder / NETWORK}"}
        try:
            with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
                method: Method = kind(**options, network=network)
            method.on_load_checkpoint(state)
            method.load_state_dict(state["state_dict"])
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:  # of options of any type
            raise self._unreadable(error) from None
        return method.eval()

    def classifier(self, device: str | None = None) -> Classifier:
        """Its network, to look into.

        Args:
            device: where it is to be, see :func:`~attnbridge.models.device.pick_device`.

        Raises:
            AttnBridgeError: for a segmentation network, whose classifier was not trained.
        """
        from attnbridge.data.files import sha256
        from attnbridge.models.classifiers import Classifier
        from attnbridge.models.device import pick_device

        if self.config.entry.data == CUES:
            raise AttnBridgeError(
                f"{self.folder}: is a segmentation network, whose classifier was not trained, so there are no maps to "
                "make of it; make masks with `attnbridge segment`, or name a run of another method"
            )
        method = self.method()
        mean, std = (tuple(v.flatten().tolist()) for v in (method.mean, method.std))
        return Classifier(
            name=str(self.folder),
            network=method.network.to(pick_device(device)),
            classes=method.classes,
            size=method.image_size,
            mean=mean,
            std=std,
            layer=method.layer,
            activation=method.activation,
            checksum=sha256(self.checkpoint),
            shape=self.shape,
        )

    def segmenter(self, threshold: float | None = None, device: str | None = None) -> Segmenter:
        """What makes masks of it: its segmentation network, or its class maps.

        Args:
            threshold: of the background of class maps; ``None``: the one that the run chose on validation.
            device: where it runs, see :func:`~attnbridge.models.device.pick_device`.

        Raises:
            AttnBridgeError: for a run that has neither, a threshold that cannot be, or a device that is not there.
        """
        from attnbridge.data.files import sha256
        from attnbridge.evaluation.folders.segment import MapSegmenter, NetworkSegmenter
        from attnbridge.evaluation.tasks.maps import MapTask
        from attnbridge.evaluation.tasks.masks import inference_of
        from attnbridge.evaluation.views import Views
        from attnbridge.models.device import pick_device

        settings, kind = self.config.evaluation, self.config.entry.data
        if kind == CUES:
            if threshold is not None:
                raise AttnBridgeError(
                    "--threshold belongs to class maps; a segmentation network says itself what is background"
                )
            network: Any = self.method().to(pick_device(device))
            return NetworkSegmenter(network, self.shape, inference_of(settings), sha256(self.checkpoint))
        if kind != SOURCE_TARGET:
            raise AttnBridgeError(f"{self.folder}: its images have one class each and no masks; it cannot segment")
        found = self.chosen_threshold() if threshold is None else threshold
        if not 0 <= found < 1:
            raise AttnBridgeError(f"--threshold is relative to a map's maximum: from 0 to below 1, not {found}")
        settings = settings.resolved(**MapTask.defaults)
        views = Views(tuple(settings.scales or ()), bool(settings.flip))
        return MapSegmenter(self.classifier(device), found, settings.score_threshold, views, bool(settings.crf))

    def chosen_threshold(self) -> float:
        """The background threshold that was chosen on validation.

        Raises:
            AttnBridgeError: if the run was not finished, or not scored.
        """
        if not self.done:
            raise AttnBridgeError(
                f"{self.folder / RECORD}: no such file, so no threshold was chosen; give one with --threshold"
            )
        if not self.scores:
            raise AttnBridgeError(
                f"{self.folder}: was not scored, so no threshold was chosen; give one with --threshold"
            )
        return float(self.scores["predicted"]["threshold"])

    def rescore(self, *, device: str = "auto", **settings: Any) -> Run:
        """Score it again with other settings of the evaluation, without training; see
        :func:`~attnbridge.experiments.score.rescore`.

        Args:
            device: where it is scored.
            settings: of :class:`~attnbridge.evaluation.settings.EvaluationSettings`, as ``threshold=0.3``.

        Returns:
            The run with its new record and page.

        Raises:
            AttnBridgeError: for a setting that cannot be, or data that is not there any more.

        >>> Run("runs/attnbn").rescore(threshold=0.3).scores["predicted"]["miou_fixed"]  # doctest: +SKIP
        0.41
        """
        from attnbridge.experiments.score import rescore

        rescore(self, device, **settings)
        return Run(self.folder)

    def write_report(self) -> Path:
        """Write its page; returns it."""
        record = self.record
        words = f"One run, seed {record['seed']}, {record['seconds']:.0f} seconds of training."
        task = load_object(record["task"])
        task.write_page(self.report, f"attnbridge: {record['name']}", words, [record], [self.folder])
        return self.report

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise AttnBridgeError(f"{path}: no such file; expected the folder of a run made by `attnbridge fit`")
        return path

    def _unreadable(self, error: Exception) -> AttnBridgeError:
        words = f"{type(error).__name__} {error}".splitlines()[0]
        return AttnBridgeError(f"{self.folder}: its configuration or checkpoint cannot be read ({words})")


def load_run(folder: Path | str, *, trust: bool = False) -> Run:
    """A run by its folder, or by its checkpoint.

    Args:
        folder: of the run, or its ``last.ckpt``.
        trust: whether its configuration may name classes (``class_path``), whose code may run.

    Raises:
        AttnBridgeError: for a path that is no run.

    >>> load_run("no/run")
    Traceback (most recent call last):
    attnbridge.errors.AttnBridgeError: no/run/config.yaml: no such file; expected the folder of a run made by ...
    """
    found = Run(_named_folder(given_path(folder, "the run's folder")), trust=trust)
    found._existing(CONFIG)
    return found


def run_folder(model: str) -> Path | None:
    """The folder of a run that ``model`` names, by itself or by its checkpoint; ``None`` for the name of a network.

    Raises:
        AttnBridgeError: for a path that is no run.
    """
    path = given_path(model, "the model")
    folder = _named_folder(path)
    if (folder / CONFIG).is_file():
        return folder
    if is_library_name(model):
        return None
    if len(path.parts) > 1 or path.suffix in (".ckpt", ".pth", ".pt", ".safetensors"):
        raise AttnBridgeError(
            f"{model}: is no run made by `attnbridge fit` (no {folder / CONFIG}); for weights of a network by "
            "name write --model NAME --weights FILE"
        )
    return None


def _named_folder(path: Path) -> Path:
    """The folder of the run that a path names, by itself or by its checkpoint."""
    return path.absolute().parents[1] if path.name == "last.ckpt" and path.is_file() else path
