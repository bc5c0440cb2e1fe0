"""A house that stays one: typed things go between the rooms, what is added goes into one place, and comes out of it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

import attnbridge

PACKAGE = Path(attnbridge.__file__).parent
ROOT = Path(__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIGURES = {"config", "configuration", "options", "settings", "section", "sections", "overrides"}
MAPPING = re.compile(r"\b(dict|Dict|Mapping|MutableMapping|Options)\b")
SMALL = [
    *("--model.backbone", "resnet10t", "--model.weights", "none", "--model.lr", "0.001"),
    *("--data.image_size", "48", "--data.batch_size", "8", "--data.workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
GUESSED = ["--model.frozen", "[]"]  # the packaged configurations freeze blocks of another network
Functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def functions(tree: ast.AST) -> Iterator[Functions]:
    return (node for node in ast.walk(tree) if isinstance(node, Functions))


def annotated(function: Functions) -> Iterator[tuple[str, str]]:
    """Names and annotations of arguments; of ``**options`` it is that of a value, and none of a mapping."""
    own = function.args
    named = [*own.posonlyargs, *own.args, *own.kwonlyargs, *([own.vararg] if own.vararg else [])]
    return ((a.arg, ast.unparse(a.annotation)) for a in named if a.annotation)


READ = ("experiments/config.py", "experiments/config_checks.py", "experiments/overrides.py")
"""Where configurations and command lines are read."""


def configuring(tree: ast.AST) -> list[str]:
    """Arguments that hand on a parsed command line, or options in a dictionary."""
    found = []
    for function in functions(tree):
        for name, annotation in annotated(function):
            if "Namespace" in annotation or (name in CONFIGURES and MAPPING.search(annotation)):
                found.append(f"line {function.lineno}: {name}: {annotation}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_dictionary_of_options_goes_between_rooms(path: Path) -> None:
    """Configurations are typed and checked once; the command line is read by the command line alone."""
    name = name_of(path)
    if name.startswith("cli/") or name in (
        "experiments/config.py",
        "experiments/config_checks.py",
        "experiments/overrides.py",
    ):
        pytest.skip("where they are read")
    assert configuring(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(options: argparse.Namespace): ...", True),
        ("def f(*, config: dict[str, Any]): ...", True),
        ("async def f(settings: Mapping[str, Any] | None = None): ...", True),
        ("def f(section: Options): ...", True),
        ("def f(overrides: Sequence[str], data: Any, **options: Any): ...", False),
        ("def f(settings: EvaluationSettings, sets: Mapping[str, ImageDataset]): ...", False),
    ],
)
def test_a_dictionary_of_options_would_be_seen(code: str, found: bool) -> None:
    assert bool(configuring(ast.parse(code))) == found


def asking(tree: ast.AST) -> list[str]:
    """Where code asks the keys of scores what run it has, the class of a task, or the trainer for what is in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            for other in node.comparators:
                text = ast.unparse(other).removesuffix(".keys()")
                if re.fullmatch(r"(.*\.)?scores|.*\[.scores.\]", text):
                    found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            kinds = ast.unparse(node.args[1])
            if re.search(r"Task\b", kinds):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Attribute) and node.attr in ("datamodule", "lightning_module"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nobody_asks_what_kind_of_run_it_is(path: Path) -> None:
    """A run's task knows its scores, and methods and data are given what they need."""
    assert asking(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('if "miou" in scores: ...', True),
        ('if "miou" not in run["scores"]: ...', True),
        ('if "miou" in record.scores.keys(): ...', True),
        ("isinstance(task, MapTask | MaskTask)", True),
        ("self.trainer.datamodule.frequencies", True),
        ("trainer.lightning_module", True),
        ('for name in run["scores"]["curve"]: ...', False),
        ('if "target" in streams: ...', False),
    ],
)
def test_asking_would_be_seen(code: str, found: bool) -> None:
    assert bool(asking(ast.parse(code))) == found


# ---- Adding and taking out, in a copy of the package


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package, ``src/attnbridge`` under it."""
    folder = tmp_path / "house"
    shutil.copytree(PACKAGE, folder / "src/attnbridge", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def contents(house: Path) -> dict[str, bytes]:
    files = (path for path in (house / "src/attnbridge").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(house / "src/attnbridge").as_posix(): path.read_bytes() for path in files}


def touched(house: Path, change: Callable[[], object]) -> tuple[set[str], set[str]]:
    """The files that a change makes, and those that it changes; none goes."""
    before = contents(house)
    change()
    after = contents(house)
    assert before.keys() <= after.keys()
    return after.keys() - before.keys(), {name for name in before if after[name] != before[name]}


def in_house(house: Path, *arguments: str) -> str:
    """What Python prints where the copy is the package."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # copies are not counted
    env |= {"PYTHONPATH": str(house / "src"), "ATTNBRIDGE_CACHE": str(house / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_verbs(house: Path, *commands: list[str]) -> list[str]:
    """What commands print, one after the other in one process; each must do it."""
    code = """
        import json, sys
        import attnbridge
        from attnbridge.cli import main

        assert attnbridge.__file__.startswith(sys.argv[1]), attnbridge.__file__
        for words in json.loads(sys.argv[2]):
            print("\\f", end="")
            assert main(words) == 0, words
    """
    return in_house(house, "-c", dedent(code), str(house), json.dumps(commands)).split("\f")[1:]


def check_style(house: Path) -> None:
    in_house(house, "-m", "ruff", "check", "--quiet", "--no-cache", "src")
    in_house(house, "-m", "ruff", "format", "--quiet", "--no-cache", "--check", "src")


def on_scenes(scenes: Path) -> list[str]:
    parts = {"source": "source/train", "saliency": "saliency/train", "target": "target"}
    return [word for name, part in parts.items() for word in (f"--data.{name}", str(scenes / part))]


def written_changes() -> dict[str, str]:
    """The diffs of CONTRIBUTING.md by the heading that they stand under."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    found = {}
    for title, part in zip(parts[::2], parts[1::2], strict=True):
        diffs = re.findall(r"^```diff\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
        if diffs:
            assert len(diffs) == 1
            found[title] = diffs[0]
    return found


def apply(house: Path, diff: str) -> None:
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(house.parent)}  # git leaves files of a repository around it out
    command = ["git", "apply", "-"]
    done = subprocess.run(command, cwd=house, env=env, input=diff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"CONTRIBUTING.md is out of date: {done.stderr}"


METHOD, TABLE, VERB = "A new method", "A new table of results", "A new verb"
TOUCHED = {
    METHOD: ({"methods/toy.py", "configs/toy.yaml"}, {"methods/__init__.py"}),
    TABLE: (set(), {"experiments/tables.py"}),
    VERB: (set(), {"cli/looking.py"}),
}


def test_contributing_shows_all_kinds_of_additions() -> None:
    assert written_changes().keys() == TOUCHED.keys()


@pytest.mark.parametrize("title", TOUCHED)
def test_adding_touches_few_files(house: Path, title: str) -> None:
    """A method: a file, a row, a configuration; a table: a row; a verb: the file of its group."""
    assert touched(house, lambda: apply(house, written_changes()[title])) == TOUCHED[title]
    check_style(house)


@pytest.mark.slow
def test_what_is_added_works(house: Path, scenes: Path) -> None:
    """It is listed, it tells its options, it runs; a configuration may leave the source out."""
    for diff in written_changes().values():
        apply(house, diff)
    target = ["--data.target", str(scenes / "target")]
    listed, shown, described, fitted, known, table = run_verbs(
        house,
        ["list"],
        ["show", "toy"],
        ["--help"],
        ["fit", "toy", "--out", "run", *SMALL, *target],
        ["classes", "run"],
        ["benchmark", "toytable", "--images", "shapes", "--seeds", "0", "--out", "table", *SMALL, *GUESSED],
    )
    for line in ("toy ", "toytable "):
        assert re.search(rf"^  {line}", listed, re.MULTILINE)
    assert "Classification by features that are active in few positions" in listed
    assert "# --model.sparse_weight: float at least 0 = 0.1\n#       of the mean activation." in shown
    assert "# --model.backbone: " in shown
    assert "classes, names of the classes that a run knows" in described
    assert "mIoU" in fitted
    assert known.split() == sorted(path.name for path in (scenes / "source/train").iterdir())
    record = json.loads((house / "run/run.json").read_text())
    assert (record["method"], record["task"]) == ("toy", "attnbridge.evaluation.tasks.maps:MapTask")
    assert "loss/target/sparse" in (house / "run/metrics.csv").read_text().splitlines()[0]
    assert (house / "run/report.html").is_file()
    assert "| grad_cam | " in table
    assert "| attnbn | " in table


OWN = {
    "methods/toy.py": '''
        """Fine-tuning, as an example of a method with data and a task of its own."""

        from __future__ import annotations

        from attnbridge.methods.fine_tuning import FineTuning


        class Toy(FineTuning):
            """The same."""
    ''',
    "data/modules/toy.py": '''
        """Class folders, upside down."""

        from __future__ import annotations

        from typing import Any

        from torchvision.transforms import v2

        from attnbridge.data.modules.classification import ClassificationDataModule


        class ToyDataModule(ClassificationDataModule):
            """Images of one class each, upside down.

            Args:
                data: see :class:`ClassificationDataModule`.
                upright: leave them as they are.
                options: the others of :class:`ClassificationDataModule`.
            """

            def __init__(self, data: str, upright: bool = False, **options: Any) -> None:
                super().__init__(data, **options)
                self.upright = upright

            def _plain(self) -> v2.Transform:
                own = super()._plain()
                return own if self.upright else v2.Compose([own, v2.RandomVerticalFlip(1.0)])
    ''',
    "evaluation/tasks/toy.py": '''
        """Classification, by what is missed."""

        from __future__ import annotations

        from collections.abc import Sequence
        from pathlib import Path
        from typing import Any

        import lightning as L

        from attnbridge.evaluation.page import write_page
        from attnbridge.evaluation.record import RunRecord
        from attnbridge.evaluation.tasks.classification import ClassificationTask
        from attnbridge.methods.base import Method


        class ToyTask(ClassificationTask):
            """The share of images whose class is missed."""

            def evaluate(self, method: Method, trainer: L.Trainer) -> dict[str, Any]:
                scores = super().evaluate(method, trainer)
                return {**scores, "missed": 1 - scores["top1"]}

            @staticmethod
            def summary(record: RunRecord) -> list[str]:
                return [f"toys missed: {100 * record['scores']['missed']:.2f}"]

            @staticmethod
            def write_page(
                path: Path, title: str, introduction: str, runs: Sequence[RunRecord], folders: Sequence[Path]
            ) -> None:
                write_page(path, title, [f"<h1>Toys</h1><p>{len(runs)} of them</p>"])
    ''',
    "configs/toy.yaml": """
        # Toys, upside down
        method: toy
        model: {head_weight: 0.01}
        data: {data: toys, augment: none}
        trainer: {max_epochs: 4}
    """,
}
ROW = """\
    "toy": MethodEntry(
        "attnbridge.methods.toy:Toy",
        DataEntry(f"{MODULES}.toy:ToyDataModule", "attnbridge.data.checks:check_classification", "data"),
        f"{TASKS}.toy:ToyTask",
    ),
"""


@pytest.mark.slow
def test_a_method_may_bring_data_and_a_task(house: Path, images: Path) -> None:
    """Three files, a row, a configuration; what it finds and its page are its task's."""

    def add() -> None:
        package = house / "src/attnbridge"
        for name, text in OWN.items():
            (package / name).write_text(dedent(text).lstrip())
        table = package / "methods/__init__.py"
        text, end = table.read_text(), '}\n"""Name of a method, as configurations'
        assert text.count(end) == 1
        table.write_text(text.replace(end, ROW + end))

    assert touched(house, add) == ({*OWN}, {"methods/__init__.py"})
    check_style(house)
    own = [*SMALL, "--data.data", str(images), "--data.val_share", "0.2"]
    fit = ["fit", "toy", "--out", "run", *own, "--data.upright", "true"]
    table = [
        "benchmark",
        "finetune",
        "--rows",
        "toy",
        "--data",
        str(images),
        "--seeds",
        "0",
        "--out",
        "table",
        *SMALL,
    ]
    listed, shown, fitted, scored, _, ranked = run_verbs(
        house,
        ["list"],
        ["show", "toy"],
        fit,
        ["test", "run"],
        ["explain", str(images / "test/red"), "--model", "run", "--out", "maps"],
        table,
    )
    assert re.search(r"^  toy +attnbridge\.methods\.toy:Toy$", listed, re.MULTILINE)
    assert re.search(r"^  toy +Toys, upside down$", listed, re.MULTILINE)
    assert "# --data.upright: bool = False\n#       leave them as they are." in shown
    assert "# --data.val_share: " in shown
    assert "# --model.head_weight: " in shown
    for text in (fitted, scored):
        assert re.search(r"^toys missed: \d+\.\d\d$", text, re.MULTILINE)
    record = json.loads((house / "run/run.json").read_text())
    assert record["task"] == "attnbridge.evaluation.tasks.toy:ToyTask"
    assert record["scores"]["missed"] == pytest.approx(1 - record["scores"]["top1"])
    assert yaml.safe_load((house / "run/config.yaml").read_text())["data"]["upright"] is True
    assert "<h1>Toys</h1><p>1 of them</p>" in (house / "run/report.html").read_text()
    assert (house / "maps/scores.csv").is_file()
    assert "| toy | " in ranked
    assert "<h1>Toys</h1>" in (house / "table/report.html").read_text()


def cut(path: Path, found: Callable[[ast.Module], Iterable[tuple[ast.AST, ast.AST]]]) -> None:
    """Take whole lines out of a file, from one node's first to another's last."""
    lines = path.read_text().splitlines(keepends=True)
    spans = [(a.lineno, b.end_lineno) for a, b in found(ast.parse("".join(lines)))]  # type: ignore[attr-defined]
    assert spans, f"{path} has it not"
    for begin, end in sorted(spans, reverse=True):
        del lines[begin - 1 : end]
    path.write_text("".join(lines))


def cut_rows(path: Path, table: str, *names: str) -> None:
    """Take rows out of a dictionary."""

    def rows(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == table:
                assert isinstance(node.value, ast.Dict)
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value in names:
                        yield key, value

    cut(path, rows)


def cut_exports(path: Path, module: str) -> None:
    """Take what a module has out of the list of what its package exports."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(f"from .{module} import ")))


def cut_verb(path: Path, name: str) -> None:
    """Take a verb out of the file of its group: its function, its arguments, its row."""

    def parts(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in (name, f"_add_{name}"):
                yield node, node
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERBS":
                assert isinstance(node.value, ast.Tuple)
                for row in node.value.elts:
                    if isinstance(row, ast.Call) and ast.literal_eval(row.args[0]) == name:
                        yield row, row

    cut(path, parts)


def take_out(house: Path) -> set[str]:
    """GAIN, the table `adversary` and the verb `submit` go, with what is theirs alone; the files that went."""
    package = house / "src/attnbridge"
    code = """
        import json
        from attnbridge.experiments.config import config_names, load_experiment

        print(json.dumps([name for name in config_names() if load_experiment(name).method == "gain"]))
    """
    configs = json.loads(in_house(house, "-c", dedent(code)))
    assert {"gain", "gain_masks", "clothing/gain_10", "biased/gain_1"} <= {*configs}
    gone = {"methods/gain.py", "losses/mining.py", *(f"configs/{name}.yaml" for name in configs)}
    gone |= {f"configs/{path.relative_to(package / 'configs')}" for path in (package / "configs/adversary").iterdir()}
    cut_exports(package / "losses/__init__.pyi", "mining")
    cut_rows(package / "methods/__init__.py", "METHODS", "gain")
    cut_rows(package / "experiments/tables.py", "TABLES", "clothing_masks", "biased", "adversary", "gain")
    cut_verb(package / "cli/masks.py", "submit")
    for name in gone:
        (package / name).unlink()
    in_house(house, "-m", "ruff", "check", "--quiet", "--no-cache", "--fix", "--select", "F401", "src")
    in_house(house, "-m", "ruff", "format", "--quiet", "--no-cache", "src")
    return gone


ENGLISH = {"data/sample.py", "evaluation/summary.py"}
"""Files in which "gain" is the English word."""


def still_named(house: Path) -> list[str]:
    """Lines of the package that name GAIN, the table or the verb."""
    found = []
    for path in sorted((house / "src/attnbridge").rglob("*")):
        name = path.relative_to(house / "src/attnbridge").as_posix()
        if path.suffix not in (".py", ".pyi", ".yaml"):
            continue
        words = [
            r"\bGAIN",
            r"\bGain",
            r"methods[./]gain",
            r"losses[./]mining",
            r"^from \.mining",
            r"\badversary/",
            r"[\"']adversary[\"']",
        ]
        words += [r"[\"'`]submit\b", r"attnbridge submit"]
        words += [] if name in ENGLISH else [r"\bgain\b", r"\bgain_"]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search("|".join(words), line):
                found.append(f"{name}:{number}: {line.strip()}")
    return found


def test_names_that_stay_would_be_seen(house: Path) -> None:
    """GAIN is named before it goes, in its own files and rows and nowhere else."""
    files = {line.split(":")[0] for line in still_named(house)}
    own = {path for path in files if re.match(r"configs/(.*/)?gain|methods/gain|losses/mining", path)}
    rows = {"methods/__init__.py", "losses/__init__.pyi", "experiments/tables.py", "cli/masks.py"}
    assert {"methods/gain.py", "losses/mining.py", "configs/gain.yaml"} <= own
    assert files - own == rows


def test_taking_out_leaves_nothing_behind(house: Path) -> None:
    """Its files and its rows are all that a method, a table and a verb have."""
    before = contents(house)
    gone = take_out(house)
    after = contents(house)
    assert before.keys() - after.keys() == gone
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"methods/__init__.py", "losses/__init__.pyi", "experiments/tables.py", "cli/masks.py"}
    assert still_named(house) == []
    in_house(house, "-m", "ruff", "check", "--quiet", "--no-cache", "src")


@pytest.mark.slow
def test_what_is_left_works(house: Path, scenes: Path) -> None:
    """All of it lists, shows, loads; training and looking run; what went is unknown."""
    take_out(house)
    code = """
        import attnbridge
        from attnbridge.errors import AttnBridgeError
        from attnbridge.experiments.config import config_names, load_experiment
        from attnbridge.experiments.tables import TABLES
        from attnbridge.methods import METHODS, load_data, load_method, load_object

        for name in config_names():
            load_experiment(name)
        for row in (row for table in TABLES.values() for row in table.rows):
            load_experiment(row)
        for method, entry in METHODS.items():
            load_method(method), load_data(method), load_object(entry.task), load_object(entry.data.check)
        for place in ("data", "losses", "methods", "metrics", "models", "segmentation"):
            module = getattr(attnbridge, place)
            for name in module.__all__:
                getattr(module, name)
        try:
            load_experiment("gain")
        except AttnBridgeError as error:
            assert "unknown configuration 'gain'" in str(error), error
    """
    in_house(house, "-c", dedent(code))
    methods = ["attnbn", "attention_transfer", "fine_tuning", "segmentation", "domain_adaptation"]
    images = str(scenes / "target/test/images")
    listed, described, *_ = run_verbs(
        house,
        ["list"],
        ["--help"],
        *(["show", name] for name in methods),
        ["fit", "attnbn", "--out", "run", *SMALL, *GUESSED, *on_scenes(scenes)],
        ["explain", images, "--model", "run", "--out", "maps"],
    )
    assert not re.search(r"\bgain|^  adversary |submit", listed + described, re.IGNORECASE | re.MULTILINE)
    assert (house / "run/report.html").is_file()
    assert len(list((house / "maps").glob("*.npz"))) == len(list(Path(images).iterdir()))
