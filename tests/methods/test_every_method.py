"""Every method of the table, through the library: a whole run, a killed one, two processes, half precision, reading."""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnbridge import fit
from attnbridge.data.dataset import ImageDataset
from attnbridge.data.modules.source_target import SourceTargetDataModule
from attnbridge.data.transforms import eval_transform
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.building import build
from attnbridge.experiments.config import Experiment
from attnbridge.experiments.runs import Run
from attnbridge.methods import METHODS, load_method
from attnbridge.methods.base import Method
from attnbridge.models.teacher import Teacher
from tests.conftest import two_colours
from tests.runs import make_trainer, write_cues

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_cache")]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Places:
    """Folders of small data."""

    scenes: Path
    cues: Path
    images: Path
    domains: Path

    def bridge(self) -> dict[str, Any]:
        """A source with saliency, and a target."""
        parts = {"source": "source/train", "saliency": "saliency/train", "target": "target"}
        return {name: str(self.scenes / part) for name, part in parts.items()}


@dataclass(frozen=True)
class Entry:
    """How a method is tried.

    Attributes:
        data: options of its data.
        model: options of the method: all that has parameters or random numbers of its own.
        evaluation: how it is scored.
        many: options whose losses need the whole batch, set to 0 on two processes.
        per_process: options of the data, beside the batch size, that are counted for each process.
    """

    data: Callable[[Places], dict[str, Any]]
    model: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    whole_batch: dict[str, str] = field(default_factory=dict)
    per_process: tuple[str, ...] = ("batch_size",)


ENTRIES: dict[str, Entry] = {
    "attnbn": Entry(lambda p: p.bridge(), {"adversarial_weight": 0.1, "label_shift": True}),
    "gain": Entry(
        lambda p: {**p.bridge(), "guided": "val", "guided_batch": 4},
        {"attention_weight": 1.0, "source_weight": 1.0, "guidance_weight": 1.0, "mined_classes": "one"},
        per_process=("batch_size", "guided_batch"),
    ),
    "attention_transfer": Entry(
        lambda p: {"data": str(p.images), "val_share": 0.2},
        {
            **{"teacher": "resnet10t", "teacher_weights": "none", "lr": 0.01},
            **{"transfer_weight": 10.0, "distillation_weight": 0.5, "hint_weight": 0.1},
        },
    ),
    "fine_tuning": Entry(
        lambda p: {"data": str(p.images), "val_share": 0.2},
        {
            **{"alignment": "spatial", "alignment_weight": 0.1, "layers": ["layer1", "layer2"]},
            **{"forgetting_weight": 0.5, "start_weight": 0.1},
        },
    ),
    "segmentation": Entry(
        lambda p: {**p.bridge(), "cues": str(p.cues)},
        {"head_width": 16, "source_weight": 1.0, "expansion_weight": 0.1},
        {"scales": [1.0], "flip": False},
    ),
    "domain_adaptation": Entry(
        lambda p: {
            "data": str(p.domains),
            "sources": ["a"],
            "target": "c",
            "saliency": str(p.domains.parent / "saliency"),
        },
        {
            **{"attention_weight": 1.0, "adversarial_weight": 0.1, "reversal_weight": 0.1},
            **{"mmd_weight": 0.1, "coral_weight": 0.1},
        },
        whole_batch={
            "mmd_weight": "the median distance, and the mean kernel, of the images of a process are not the batch's",
            "coral_weight": "nor is their covariance",
        },
    ),
}
"""A method of the table without an entry here is not tested, and :func:`entry_of` says so."""


def entry_of(method: str) -> Entry:
    if method not in ENTRIES:
        pytest.fail(
            f"the method {method!r} of METHODS has no entry in ENTRIES of {__file__}; give it one to try it with"
        )
    return ENTRIES[method]


def test_every_method_of_the_table_has_an_entry() -> None:
    for method in METHODS:
        entry_of(method)
    assert not ENTRIES.keys() - METHODS.keys(), "entries of methods that are none"


def experiment(method: str, places: Places, **changes: dict[str, Any]) -> Experiment:
    """A method on its small data, two epochs of two batches."""
    entry = entry_of(method)
    side = 48 if "target" in entry.data(places) and "sources" not in entry.data(places) else 32
    sections: dict[str, dict[str, Any]] = {
        "model": {"backbone": "test_resnet", "weights": "none", "lr": 1e-3, **entry.model},
        "data": {"image_size": side, "batch_size": 8, "workers": 0, **entry.data(places)},
        "trainer": {
            **{"max_epochs": 2, "limit_train_batches": 2, "accelerator": "cpu", "enable_progress_bar": False},
        },
        "evaluation": entry.evaluation,
    }
    for name, own in changes.items():
        sections[name] = {**sections[name], **own}
    return Experiment.from_mapping({"method": method, "seed": 3, **sections})


@pytest.fixture(scope="module")
def places(scenes: Path, images: Path, tmp_path_factory: pytest.TempPathFactory, module_cache: None) -> Places:
    root = tmp_path_factory.mktemp("places")
    for name in ("cues", "domains"):
        (root / name).mkdir()
    write_cues(scenes, root / "cues")
    domains = two_colours(root / "domains/set", {"a": 12, "c": 12}, 32)
    for path in domains.rglob("*.png"):
        saliency = root / "domains/saliency" / path.relative_to(domains)
        saliency.parent.mkdir(parents=True, exist_ok=True)
        left = np.zeros((32, 32), np.uint8)
        left[:, :16] = 255
        Image.fromarray(left).save(saliency)
    return Places(scenes, root / "cues", images, domains)


def state() -> dict[str, Any]:
    """What belongs to the process and not to a run."""
    loggers = [logging.getLogger(n) for n in sorted(logging.root.manager.loggerDict) if "lightning" in n]
    return {
        "threads": torch.get_num_threads(),
        "random numbers of random": random.getstate(),
        "random numbers of numpy": np.random.get_state()[1].tobytes().hex(),  # type: ignore[index]
        "random numbers of torch": torch.get_rng_state().numpy().tobytes().hex(),
        "levels of loggers": {each.name: (each.level, len(each.handlers), each.disabled) for each in loggers},
        "filters of warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "handlers of signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "gradients": (torch.is_grad_enabled(), torch.get_default_dtype()),
        "folder": Path.cwd(),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    """What belongs to the process is afterwards as it was."""
    before = state()
    yield
    after = state()
    for name, value in before.items():
        assert after[name] == value, f"{name}: {str(value)[:500]} before, {str(after[name])[:500]} afterwards"


def fitted(known: Experiment | str, out: Path, **options: Any) -> Run:
    """A run; what belongs to the process is as it was."""
    with unchanged():
        return fit(known, out=out, **options)


def weights_of(run: Run) -> dict[str, Tensor]:
    """All weights in a run's checkpoint."""
    found: dict[str, Tensor] = torch.load(run.checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return found


def assert_same_weights(one: Run, other: Run) -> None:
    """The weights of two runs are equal bit for bit."""
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def table_of(run: Run) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv``."""
    with (run.folder / "metrics.csv").open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, places: Places, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of each method, one after another, so that tests of one share it."""
    torch.manual_seed(0)
    return fitted(experiment(request.param, places), tmp_path_factory.mktemp(request.param) / "run")


def test_a_run_is_a_whole_folder(run: Run) -> None:
    assert run.done
    assert run.begun
    for path in (run.checkpoint, run.report):
        assert path.is_file()
    assert run.config.method == Run(run.folder).config.method
    assert json.loads((run.folder / "run.json").read_text())["task"] == run.record["task"]
    assert run.record["task"] == METHODS[run.config.method].task
    assert run.scores
    assert [row["epoch"] for row in table_of(run)] == ["0", "1"]
    losses = [name for name in table_of(run)[0] if name.startswith("loss")]
    assert len(losses) > 2
    assert all(math.isfinite(float(row[name])) for row in table_of(run) for name in losses)
    page = run.report.read_text()
    assert "<table>" in page
    assert "<img" in page
    assert repr(str(run.folder)) in repr(run)
    method = run.method()
    assert type(method) is load_method(run.config.method)
    assert not method.training
    assert method.classes == tuple(run.record["classes"])


def test_a_run_is_a_classifier_to_look_into(run: Run) -> None:
    method = run.method()
    images = images_for(method)
    if run.config.method == "segmentation":
        with pytest.raises(AttnBridgeError, match="whose classifier was not trained"):
            run.classifier("cpu")
        return
    classifier = run.classifier("cpu")
    with torch.no_grad():
        logits = classifier.network(classifier.normalise(images))
    assert logits.shape == (3, len(method.classes))
    torch.testing.assert_close(classifier.scores(logits), method.predict_batch(images)["scores"])


def images_for(method: Method) -> Tensor:
    side: Any = method.image_size
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(5))


def test_a_trained_method_says_what_it_is_documented_to_say(run: Run) -> None:
    """Of a trainer's loader, or of images at once: shapes, eval mode, and no graph left."""
    method = run.method()
    images, before = images_for(method), copy.deepcopy(method.state_dict())
    batches = DataLoader([{"image": image} for image in images], batch_size=2)  # type: ignore[arg-type, var-annotated]
    answers: Any = make_trainer().predict(method, batches)
    assert [len(answer["scores"]) for answer in answers] == [2, 1]
    classes = len(method.classes)
    for answer in (*answers, method.predict_batch(images[:2])):
        count = len(answer["scores"])
        height, width = answer["maps"].shape[2:]
        assert height > 1
        shapes = {"scores": (count, classes), "maps": (count, classes, height, width)}
        shapes |= {"logits": (count, classes)} if "logits" in answer else {}
        shapes |= {"probabilities": (count, classes + 1, height, width)} if "probabilities" in answer else {}
        assert {name: tuple(value.shape) for name, value in answer.items()} == shapes
        for value in answer.values():
            assert value.dtype == torch.float32
            assert not value.requires_grad
            assert torch.isfinite(value).all()
        assert (answer["maps"] >= 0).all()
        assert ((answer["scores"] >= 0) & (answer["scores"] <= 1)).all()
    torch.testing.assert_close(method.predict_batch(images[:2])["scores"], answers[0]["scores"])
    assert not any(module.training for module in method.modules())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_a_checkpoint_is_all_that_lightning_needs_to_load(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hub, no teacher, no package of an extra, and no random number."""
    wanted = run.method()
    create = timm.create_model

    def without_hub(*names: Any, pretrained: bool = False, **options: Any) -> nn.Module:
        assert not pretrained, "weights are asked for"
        network: nn.Module = create(*names, **options)
        return network

    def no_teacher(*_: Any) -> None:
        raise AssertionError("a teacher is asked for")

    monkeypatch.setattr(timm, "create_model", without_hub)
    monkeypatch.setattr(Teacher, "__init__", no_teacher)
    for package in ("skada", "skada.deep", "skada.deep.losses", "pytorch_metric_learning"):
        monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    alone = Path(shutil.copy(run.checkpoint, tmp_path / "alone.ckpt"))
    images = images_for(wanted)
    with unchanged():
        method = load_method(run.config.method).load_from_checkpoint(alone)
    with unchanged():
        again = run.method()
    for other in (method.eval(), again):
        assert other.classes == wanted.classes
        answer, known = (dict(each.predict_batch(images)) for each in (other, wanted))
        assert answer.keys() == known.keys()
        for name, value in known.items():
            assert torch.equal(answer[name], value), name


class Precision(L.Callback):
    """Keeps in which precision the network answers, and the scores of validation are."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.network: set[torch.dtype] = set()
        self.scores: set[torch.dtype] = set()
        first: Any = next(m for m in pl_module.network.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
        first.register_forward_hook(lambda _module, _inputs, output: self.network.add(output.dtype))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.scores |= {value.dtype for name, value in outputs.items() if name != "maps"}


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_trains_and_scores(method: str, places: Places, tmp_path: Path) -> None:
    known = experiment(method, places, trainer={"max_epochs": 1, "precision": "bf16-mixed"})
    seen = Precision()
    run = fitted(known, tmp_path / "run", callbacks=[seen])
    assert torch.bfloat16 in seen.network
    assert seen.scores == {torch.float32}
    (row,) = table_of(run)
    assert row["step"] == "2"
    assert all(math.isfinite(float(value)) for name, value in row.items() if name.startswith(("loss", "weighted")))
    assert all(value.dtype == torch.float32 for value in weights_of(run).values() if value.is_floating_point())


class Epochs(L.Callback):
    """Writes the epochs that begin to a file, and kills the process in the middle of one.

    Args:
        path: the file.
        last: the epoch in whose second batch the process gets SIGKILL; ``None``: none.
    """

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path, self.last = path, last

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with self.path.open("a") as handle:
            handle.write(f"{trainer.current_epoch}\n")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.last and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def fit_in_child(known: Experiment, out: Path, log: Path, last: int | None, threads: int) -> None:
    """What a child process does."""
    torch.set_num_threads(threads)
    try:
        fit(known, out=out, callbacks=[Epochs(log, last)], resume=last is None)
    except BaseException:
        log.with_suffix(".error").write_text(traceback.format_exc())
        raise


@pytest.fixture(scope="module")
def child(module_cache: None) -> Callable[..., int | None]:
    """Runs :func:`fit_in_child` in a process of its own; returns its exit code.

    Such a process is a fork of one that has imported what takes long, and done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["attnbridge.experiments.fit", "timm", "skada.deep.losses", "matplotlib.figure", "torchmetrics.classification"]
    )

    def run_child(*arguments: Any) -> int | None:
        process = context.Process(target=fit_in_child, args=(*arguments, torch.get_num_threads()))
        process.start()
        process.join()
        return process.exitcode

    return run_child


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    run: Run, child: Callable[..., int | None], tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "epochs"
    assert child(run.config, out, log, 1) == -signal.SIGKILL, log.with_suffix(".error").read_text()
    assert log.read_text().split() == ["0", "1"]
    assert not Run(out).done
    log.unlink()
    assert child(run.config, out, log, None) == 0, log.with_suffix(".error").read_text()
    assert log.read_text().split() == ["1"]
    assert_same_weights(Run(out), run)
    assert [row["epoch"] for row in table_of(Run(out))] == ["0", "1"]
    assert table_of(Run(out)) == table_of(run)
    assert Run(out).scores == run.scores


COMPARABLE: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant", "lr": 0.02, "batch_norm": "frozen"}
"""A step is then linear in the gradient, and no image's depends on the others."""
PARALLEL: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, {}) for method in METHODS},
    "fine_tuning-delta": ("fine_tuning", {"alignment": "delta"}),  # weighs channels before it trains
}
"""What two processes try: every method, and other options of some."""
SCRIPT = """
import json, sys
from pathlib import Path
from attnbridge import fit
from attnbridge.errors import warn_once
from attnbridge.experiments.config import Experiment
from tests.methods.test_every_method import NoDropout, own_draws

own_draws()
warn_once("of what both processes see")
for name, config in json.loads(Path(sys.argv[1]).read_text()).items():
    fit(Experiment.from_mapping(config), out=Path(sys.argv[2]) / name, callbacks=[NoDropout()])
"""


class NoDropout(L.Callback):
    """Which units are dropped cannot be shared between processes either."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0


def own_draws() -> None:
    """Each image's random numbers follow from its labels, as those of a batch cannot be shared between processes."""

    def rand_like(labels: Tensor) -> Tensor:
        return (12.9898 * (labels.cumsum(1) + torch.arange(labels.shape[1]) / 7 + 1)).sin().abs()

    torch.rand_like = rand_like  # type: ignore[assignment]


def comparable(name: str, places: Places, processes: int) -> Experiment:
    """A method whose steps on two processes are those of one."""
    method, model = PARALLEL[name]
    entry = entry_of(method)
    known = experiment(method, places, model={**COMPARABLE, **model, **dict.fromkeys(entry.whole_batch, 0.0)})
    data = {option: known.option(f"data.{option}") // processes for option in entry.per_process}
    trainer = {"max_epochs": 1, "limit_val_batches": 1, "limit_test_batches": 1, "num_sanity_val_steps": 0}
    two = {"devices": 2, "strategy": "ddp"} if processes == 2 else {}
    return known.with_options(data=data, trainer={**trainer, **two})


@pytest.fixture(scope="module")
def parallel(places: Places, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run of each on two processes, one after another in one script, and what the script said."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "script.py").write_text(SCRIPT)
    configs = {name: comparable(name, places, 2).to_mapping() for name in PARALLEL}
    (folder / "configs.json").write_text(json.dumps(configs))
    command = [sys.executable, str(folder / "script.py"), str(folder / "configs.json"), str(folder)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True) as script,
    ):
        try:
            script.wait(200)
        finally:  # with the processes that it has started
            os.killpg(script.pid, signal.SIGKILL)
    return folder, (folder / "said").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_end_with_the_weights_of_one(
    name: str,
    parallel: tuple[Path, str],
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process with the doubled batch, in float tolerance of how far training moves the weights."""
    monkeypatch.setattr(torch, "rand_like", torch.rand_like)  # put back afterwards
    own_draws()
    known, both = comparable(name, places, 1), Run(parallel[0] / name)
    assert both.done, parallel[1][-3000:]
    start = build(known)[0].state_dict()
    one, two = weights_of(fitted(known, tmp_path / "run", callbacks=[NoDropout()])), weights_of(both)
    assert one.keys() == two.keys()
    moved = {key for key, value in one.items() if not torch.equal(value, start[key])}
    assert {key.split(".")[0] for key in moved} == {key.split(".")[0] for key in one}
    for key in sorted(moved):
        difference, way = (two[key] - one[key]).abs().amax(), (one[key] - start[key]).abs().amax()
        assert difference <= 1e-2 * way + 1e-6, key


@pytest.mark.slow
def test_one_of_two_processes_warns(parallel: tuple[Path, str]) -> None:
    assert "MEMBER: 2/2" in parallel[1]
    assert parallel[1].count("warning: of what both processes see\n") == 1


@pytest.fixture(scope="module")
def bridge(places: Places) -> Experiment:
    """AttnBN, one epoch."""
    trainer = {"max_epochs": 1, "limit_val_batches": 1, "limit_test_batches": 1, "num_sanity_val_steps": 0}
    return experiment("attnbn", places, trainer=trainer, model={"label_shift": False})


@pytest.fixture(scope="module")
def bridged(bridge: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its run."""
    return fitted(bridge, tmp_path_factory.mktemp("bridged") / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"lr": -1}}, "option model.lr must be above 0, not -1"),
        ({"model": {"layer": "layr4"}}, "unknown layer 'layr4'; did you mean 'layer4'"),
        ({"model": {"frozen": 3}}, "option model.frozen must be a list of names, but is 3"),
        ({"model": {"frozen": "layer1"}}, "option model.frozen must be a list of names, but is 'layer1'"),
        ({"trainer": {"accelerator": "quantum"}}, "is not valid: trainer"),
        ({"trainer": {"precision": "8-bit"}}, "unknown value of trainer.precision: '8-bit'"),
        ({"trainer": {"strategy": "none_such"}}, "is not valid: trainer"),
        ({"trainer": {"devices": "many"}}, "option trainer.devices must be a count of devices"),
        ({"trainer": {"callbacks": [{"class_path": "nowhere.Nothing"}]}}, "is not valid: trainer"),
        ({"trainer": {"limit_train_batches": -1}}, "option trainer.limit_train_batches must be float above 0"),
        ({"method": "attnbm"}, "did you mean 'attnbn'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_an_error_and_no_exit(
    changes: dict[str, Any], words: str, bridge: Experiment, tmp_path: Path
) -> None:
    with unchanged(), pytest.raises(AttnBridgeError, match=words):
        fit(bridge, out=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_found_when_training_begins_is_an_error_and_not_in_the_way(bridge: Experiment, tmp_path: Path) -> None:
    diverging = {"model": {"lr": 1e30, "schedule": "constant"}, "trainer": {"limit_train_batches": 4}}
    for changes, words in (
        ({"data": {"batch_size": 1000}}, r"data.batch_size is 1000 on 1 process"),
        (diverging, "is not finite; lower the learning rate"),
        (diverging, "is not finite; lower the learning rate"),  # the folder takes another run
    ):
        with unchanged(), pytest.raises(AttnBridgeError, match=words):
            fit(bridge, out=tmp_path / "run", **changes)
        assert not Run(tmp_path / "run").begun


class Raises(L.Callback):
    """Raises an error in a hook."""

    def __init__(self, hook: str, error: BaseException) -> None:
        def raises(*_: Any, **__: Any) -> None:
            os.environ["LEFT_BEHIND"] = "1"
            torch.rand(1)
            random.random()
            np.random.rand()
            torch.set_num_threads(torch.get_num_threads() + 1)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            warnings.simplefilter("error")
            logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.DEBUG)
            raise error

        setattr(self, hook, raises)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_test_batch_end"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("of the user"), AttnBridgeError("of ours")])
def test_a_run_that_fails_leaves_the_process_alone(
    hook: str, error: BaseException, bridge: Experiment, tmp_path: Path
) -> None:
    """An interrupt is one, too, and not Lightning's exit."""
    with unchanged(), pytest.raises(type(error)) as caught:
        fit(bridge, out=tmp_path / "run", callbacks=[Raises(hook, error)])
    assert str(caught.value) == str(error)
    assert not Run(tmp_path / "run").done


@pytest.mark.slow
def test_two_runs_in_one_process_are_the_same(bridge: Experiment, bridged: Run, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.rand(7)
    again = fitted(bridge, tmp_path / "run", trainer={"deterministic": True})
    assert_same_weights(again, bridged)
    assert again.scores == bridged.scores
    assert table_of(again) == table_of(bridged)


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_gone_on_with_if_asked(bridge: Experiment, bridged: Run, tmp_path: Path) -> None:
    out = Path(shutil.copytree(bridged.folder, tmp_path / "run"))
    with unchanged(), pytest.raises(AttnBridgeError, match="holds a run already"):
        fit(bridge, out=out)
    with unchanged(), pytest.raises(AttnBridgeError, match=r"was begun with model.lr = 0.001, not 0.01"):
        fit(bridge, out=out, resume=True, model={"lr": 0.01})
    again = fitted(bridge, out, resume=True)
    fresh = fitted(bridge, tmp_path / "fresh", resume=True)  # nothing to go on with
    for run in (again, fresh):
        assert_same_weights(run, bridged)
        assert run.scores == bridged.scores
        assert table_of(run) == table_of(bridged)


def test_callbacks_and_loggers_of_the_user_are_used(bridge: Experiment, tmp_path: Path) -> None:
    saver, epochs = ModelCheckpoint(tmp_path / "saved", filename="mine"), Epochs(tmp_path / "epochs")
    logger = CSVLogger(tmp_path, "logs")
    run = fitted(bridge, tmp_path / "run", callbacks=[saver, epochs], logger=logger)
    assert (tmp_path / "epochs").read_text().split() == ["0"]
    assert (tmp_path / "saved/mine.ckpt").is_file()
    with (Path(logger.log_dir) / "metrics.csv").open() as handle:
        (row,) = [row for row in csv.DictReader(handle) if row["loss"]]
    assert float(row["loss"]) == pytest.approx(float(table_of(run)[0]["loss"]))
    assert run.checkpoint.is_file()


def test_lightnings_loggers_may_be_named_in_a_configuration(bridge: Experiment, tmp_path: Path) -> None:
    named = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "logs")}}
    timer = {"class_path": "lightning.pytorch.callbacks.Timer"}
    run = fitted(bridge, tmp_path / "run", trainer={"logger": named, "callbacks": [timer]})
    assert list((tmp_path / "logs").rglob("metrics.csv"))
    assert Run(run.folder, trust=True).config.trainer["logger"] == named
    with pytest.raises(
        AttnBridgeError, match=r"names the class lightning\.pytorch\.loggers\.CSVLogger, whose code would run"
    ):
        _ = Run(run.folder).config


class Plain(nn.Module):
    """Convolution, ReLU, pooling, linear layer: a network as its user writes it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.pool(self.relu(self.convolution(images))).flatten(1))
        return logits


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("attnbn", {"head": "linear"}),
        ("gain", {}),
        ("fine_tuning", {"layers": ["convolution"]}),
        ("attention_transfer", {}),
        ("domain_adaptation", {"mmd_weight": 0.0, "coral_weight": 0.0}),
    ],
)
def test_a_network_of_ones_own_is_trained(method: str, model: dict[str, Any], places: Places, tmp_path: Path) -> None:
    classes = 8 if method in ("attnbn", "gain") else 2
    network = Plain(classes)
    before = copy.deepcopy(network.state_dict())
    known = experiment(method, places, model=model, trainer={"max_epochs": 1})
    run = fitted(known, tmp_path / "run", network=network)
    assert run.scores
    assert run.report.is_file()
    state = weights_of(run)
    for name, value in before.items():
        assert not torch.equal(value, state[f"network.{name}"]), f"{name} was not trained"
    same = run.method(network=Plain(classes))
    images = images_for(same)
    with torch.no_grad():
        torch.testing.assert_close(same.predict_batch(images)["logits"], network.eval()(same.normalised(images)))
    assert same.layer == "relu"
    if method == "fine_tuning":  # what it starts from is the network itself, whatever `weights` says
        built: Any = build(known.with_options(model={"weights": "imagenet"}), network=Plain(classes))[0]
        for name, value in built.network.state_dict().items():
            assert torch.equal(value, built.source.network.state_dict()[name])
    for loads in (run.method, run.classifier):
        with pytest.raises(AttnBridgeError, match="is of a network of your own"):
            loads()
    with pytest.raises(AttnBridgeError, match="gives 3 logits, but there are"):
        fit(known, out=tmp_path / "other", network=Plain(3))


def loader(data: SourceTargetDataModule, split: str, domain: str) -> DataLoader[Any]:
    """A loader as its user writes it: samples of floats, stacked by PyTorch."""
    samples = ImageDataset(data.records(split), len(data.classes), domain, eval_transform(48))
    return DataLoader(samples, batch_size=8, shuffle=split in ("source", "train"), drop_last=True)


def test_loaders_of_ones_own_are_trained_on(bridge: Experiment, places: Places, tmp_path: Path) -> None:
    data = SourceTargetDataModule(**places.bridge(), image_size=48)
    val = loader(data, "val", "target")
    train = {"source": loader(data, "source", "source"), "target": loader(data, "train", "target")}
    given: dict[str, Any] = {"train": train, "val": val, "classes": data.classes, "image_size": 48}
    plain = Experiment.from_mapping({**bridge.to_mapping(), "data": {}})
    run = fitted(plain, tmp_path / "run", data=given)
    assert run.scores["map"] > 0
    assert run.record["protocol"]["split"] == "val"
    assert run.record["classes"] == data.classes
    assert run.report.is_file()
    assert {"loss/source/attention", "loss/target/adversarial"} <= set(table_of(run)[0])
    unscored = {name: value for name, value in given.items() if name != "val"}
    assert fitted(plain, tmp_path / "unscored", data=unscored).scores == {}
    for wrong, words in (
        ({**given, "classes": data.classes[:3]}, r"of shape \(8, 8\), but there are 3 classes"),
        ({name: value for name, value in given.items() if name != "image_size"}, "loaders are given as"),
        ({**given, "train": {"target": train["target"]}}, "learns from the stream 'source'"),
    ):
        with unchanged(), pytest.raises(AttnBridgeError, match=words):
            fit(plain, out=tmp_path / "wrong", data=wrong)


@pytest.mark.slow
def test_a_folder_or_a_data_module_are_data(bridge: Experiment, bridged: Run, places: Places, tmp_path: Path) -> None:
    """Both give the weights of the options that they stand for."""
    (tmp_path / "data").mkdir()
    for name, path in places.bridge().items():
        (tmp_path / "data" / name).symlink_to(path)
    options = {name: value for name, value in bridge.data.items() if name not in places.bridge()}
    plain = Experiment.from_mapping({**bridge.to_mapping(), "data": options})
    folder = fitted(plain, tmp_path / "folder", data=tmp_path / "data")
    assert {name: folder.config.data[name] for name in places.bridge()} == {
        name: str(tmp_path / "data" / name) for name in places.bridge()
    }
    module = SourceTargetDataModule(**{**bridge.data, "seed": bridge.seed})
    for run in (folder, fitted(plain, tmp_path / "module", data=module)):
        assert run.scores == bridged.scores
        assert_same_weights(run, bridged)
