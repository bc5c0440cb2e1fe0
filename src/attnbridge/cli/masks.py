"""Verbs on the way from image labels to masks."""

from __future__ import annotations

import argparse
from pathlib import Path

from attnbridge.cli.common import (
    CODE,
    OVERRIDES,
    Verb,
    add_device,
    add_trust,
    number_of,
    out_for,
    path_of,
    report_skipped,
)
from attnbridge.data.folders import find_images
from attnbridge.data.images import is_whole
from attnbridge.data.mask_pairs import LIST, check_apart, mask_classes, pair_masks
from attnbridge.data.out_folders import owned
from attnbridge.data.saliency import check_device
from attnbridge.data.voc import list_names
from attnbridge.errors import AttnBridgeError
from attnbridge.experiments.checks import own_paths_told
from attnbridge.experiments.config import load_experiment
from attnbridge.experiments.memory import keep_freed_memory
from attnbridge.experiments.overrides import with_device
from attnbridge.experiments.runs import Run, load_run
from attnbridge.models.device import pick_device


def _add_cue_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=number_of("--threshold", "ShareOrNone"),
        default=0.3,
        help="of a map, relative to its maximum; default: 0.3",
    )
    parser.add_argument(
        "--background",
        type=number_of("--background", "UpToOne"),
        default=0.06,
        help="background where the saliency is below; default: 0.06",
    )
    parser.add_argument(
        "--rule",
        default="highest_score",
        help="of pixels that two classes claim: highest_score, smallest_region, ignore_conflicts, or "
        "package.module:function",
    )


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"{OVERRIDES} They hold for both networks; for one alone name a YAML file. {CODE}"
    parser.add_argument(
        "--source", type=path_of("--source"), required=True, help="class folders of simple images, CLASS/*.jpg"
    )
    parser.add_argument(
        "--target", type=path_of("--target"), required=True, help="train/, val/ (and test/), or VOC's layout; see docs/"
    )
    parser.add_argument("--saliency", default="u2net", help="of the source: a folder of maps, or a model")
    parser.add_argument("--target-saliency", default="u2net", help="of the target, for the background's seeds")
    parser.add_argument(
        "--out", type=out_for("pipeline.json"), default=Path("runs/pipeline"), help="folder of all stages"
    )
    parser.add_argument("--config", default="attnbn", help="of the first network: a name or a YAML file")
    parser.add_argument("--segmentation", default="segmentation/dsrg", help="of the second one")
    parser.add_argument(
        "--retrain", nargs="?", const="segmentation/retrain", help="train it again, on the masks of the first time"
    )
    parser.add_argument(
        "--replace", action="store_true", help="make stages again that were made with other options or images"
    )
    _add_cue_settings(parser)
    add_device(parser)


def pipeline(options: argparse.Namespace) -> int:
    """From two folders of images to masks."""
    overrides = tuple(with_device(options.overrides, options.device))
    for name in filter(None, (options.config, options.segmentation, options.retrain)):
        load_experiment(name, overrides, shared=True)
    pick_device(options.device)

    from attnbridge.experiments.pipeline import PipelineRequest, run_pipeline
    from attnbridge.segmentation.cues import CueSettings

    keep_freed_memory()
    page = run_pipeline(
        PipelineRequest(
            options.source,
            options.target,
            options.saliency,
            options.target_saliency,
            options.out,
            options.config,
            options.segmentation,
            options.retrain,
            CueSettings(options.threshold, options.background, options.rule),
            overrides,
            options.device,
            options.replace,
        )
    )
    print(f"masks in {options.out / 'masks'}; look at {page}")
    return 0


def _add_saliency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="images, folders, or globs in quotes")
    parser.add_argument(
        "--out", type=out_for("saliency.json"), required=True, help="folder to write, the tree of the images' folder"
    )
    parser.add_argument("--model", default="u2net", help="`attnbridge list` names them; or the path of an .onnx file")
    parser.add_argument("--refine", action="store_true", help="fit the maps to the images' edges with GrabCut")
    parser.add_argument("--preview", action="store_true", help="write sheet.jpg, images and maps side by side")
    parser.add_argument("--score", type=path_of("--score"), metavar="MASKS", help="folder of true masks: MAE, IoU, ...")
    add_device(parser)


def saliency(options: argparse.Namespace) -> int:
    """Make what is missing, then the preview and the scores; status 1 if some images could not be read."""
    check_device(options.model, options.device)

    from attnbridge.data.files import output_paths
    from attnbridge.data.saliency import make_saliency

    images = find_images(options.images, options.out)
    targets, page = output_paths(images, options.out), options.out / "sheet.jpg"
    pages = [page] if options.preview else []
    with owned(options.out) as own:
        own.check([*targets.values(), options.out / "saliency.json", *pages])
        own.check_unchanged(pages)
        status = report_skipped(make_saliency(images, options.out, options.model, options.refine, options.device))
        maps = {name: path for name, path in targets.items() if path.is_file() and is_whole(images[name])}
        if options.preview and maps:
            from attnbridge.evaluation.folders.saliency import write_preview

            write_preview([(images[name], path) for name, path in maps.items()], page)
            print(page)
    if options.score:
        from attnbridge.evaluation.folders.saliency import score_saliency

        result = score_saliency(maps, options.score)
        print(
            f"{len(maps)} maps: MAE {result.mae:.4f}, max F-beta {result.max_f:.4f} at threshold "
            f"{result.threshold:.2f}, IoU there {result.iou:.4f}"
        )
    return status


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=path_of("run"), help="folder of a run: a segmentation network, or a classifier for its maps"
    )
    parser.add_argument("images", help="an image, a folder of images, or a glob in quotes")
    parser.add_argument(
        "--out", type=out_for("masks.json"), required=True, help="folder to write, the tree of the images' folder"
    )
    parser.add_argument(
        "--threshold",
        type=number_of("--threshold", "ShareOrNone"),
        help="of a classifier's maps; default: the one that the run chose",
    )
    parser.add_argument(
        "--workers",
        type=number_of("--workers", "Workers"),
        help="processes for the CRF; default: as many as cores, 0 beside a GPU",
    )
    add_trust(parser)
    add_device(parser)


def segment(options: argparse.Namespace) -> int:
    """Masks of a folder of images; status 1 if some could not be read."""
    images = find_images([options.images], options.out)
    run = Run(options.run, trust=options.trust).check()

    from attnbridge.data.files import output_paths
    from attnbridge.evaluation.folders.cues import write_sheet
    from attnbridge.evaluation.folders.segment import default_workers, write_masks

    segmenter = run.segmenter(options.threshold, options.device)
    workers = default_workers(segmenter.device) if options.workers is None else options.workers
    targets, page = output_paths(images, options.out), options.out / "sheet.jpg"
    with owned(options.out) as own:
        own.check([*targets.values(), options.out / "masks.json", page])
        own.check_unchanged([page])
        bad = write_masks(segmenter, images, options.out, workers=workers)
        shown = {path: targets[name] for name, path in images.items() if is_whole(path)}
        write_sheet(shown, options.out, len(segmenter.classes))
    return report_skipped(bad)


def _add_cues(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=path_of("--checkpoint"), required=True, help="folder of a run, or its checkpoint"
    )
    parser.add_argument(
        "--data", type=path_of("--data"), help="the target domain, its images' labels known; default: the run's own"
    )
    parser.add_argument(
        "--split", default="train", help="folder of the target, or list of VOC's layout; default: train"
    )
    parser.add_argument("--saliency", help="folder with ID.png of each image, or a saliency model: background seeds")
    parser.add_argument(
        "--out", type=out_for("cues.json"), required=True, help="folder to write: ID.png, sheet.jpg, scores.csv"
    )
    _add_cue_settings(parser)
    parser.add_argument(
        "--scales",
        type=number_of("--scales", "Scale"),
        nargs="+",
        default=[0.75, 1.0, 1.25],
        help="of the images; default: 0.75 1 1.25",
    )
    parser.add_argument("--no-flip", action="store_true", help="without the mirrored images")
    add_trust(parser)
    add_device(parser)


def cues(options: argparse.Namespace) -> int:
    """Make what is missing, then the sheet and, where there are masks, the scores."""
    run = load_run(options.checkpoint, trust=options.trust).check()

    from attnbridge.data.cues import MADE_OF, cue_path
    from attnbridge.data.folders import SourceTarget
    from attnbridge.evaluation.folders import cues as folder
    from attnbridge.methods import SOURCE_TARGET
    from attnbridge.segmentation.cues import CueSettings, find_rule

    settings, out = CueSettings(options.threshold, options.background, options.rule), options.out
    find_rule(settings.rule)
    data = run.config.data
    if run.config.entry.data != SOURCE_TARGET:
        raise AttnBridgeError(
            f"{run.folder}: is no classifier of images with several classes; cues are made of the maps of one"
        )
    pair = SourceTarget.of(data.get("source"), str(options.data or data["target"]), data.get("lists"))
    model = run.classifier(options.device)
    given = run.config.with_options(data={"target": str(pair.target)})
    with own_paths_told(run, given):
        records = folder.target_records(pair, options.split, model.classes)
    masked = folder.masked_records(pair, options.split)
    scores, page = out / "scores.csv", out / "sheet.jpg"
    with owned(out) as own:
        own.check([*(cue_path(out, record) for record in records), out / MADE_OF, scores, page])
        own.check_unchanged([scores, page])
        maps = folder.target_saliency(records, options.saliency) if options.saliency else None
        folder.CueMaker(model, maps, settings, tuple(options.scales), not options.no_flip).write(records, out)
        own.remove([scores])
        if masked:
            folder.write_scores(folder.score_cues(masked, out, len(model.classes)), model.classes, scores)
        folder.write_sheet({record.image: cue_path(out, record) for record in records}, out, len(model.classes))
    return 0


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path_of("run"), help="folder of a run")
    parser.add_argument("kit", type=path_of("kit"), help="VOC2012, the development kit with the test images")
    parser.add_argument("--list", dest="names", default="test", help="name of the list in ImageSets; default: test")
    parser.add_argument(
        "--out", type=out_for("results.tgz"), required=True, help="folder to write results/ and results.tgz"
    )
    parser.add_argument(
        "--threshold",
        type=number_of("--threshold", "ShareOrNone"),
        help="of the background; default: the one that the run chose",
    )
    add_trust(parser)
    add_device(parser)


def submit(options: argparse.Namespace) -> int:
    """Segmentations for VOC's test server."""
    list_names(options.kit, options.names)
    run = Run(options.run, trust=options.trust).check()

    from attnbridge.evaluation.folders.submission import write_submission

    segmenter = run.segmenter(options.threshold, options.device)
    print(write_submission(segmenter, options.kit, options.names, options.out))
    return 0


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("masks", type=path_of("masks"), help="folder of predicted masks, PNG, made by any tool")
    parser.add_argument(
        "--truth",
        type=path_of("--truth"),
        required=True,
        help="folder of true masks of the same names, or VOC2012, the development kit",
    )
    parser.add_argument("--list", dest="names", help=f"of the kit: name of the list in ImageSets; default: {LIST}")
    parser.add_argument(
        "--classes", help="names of the values from 1 on, as cat,dog; default: those of labels.csv, or the kit's"
    )
    parser.add_argument(
        "--out",
        type=out_for("scores.json"),
        help="folder to write: scores.json, scores.csv, confusion.png, worst.png; default: only print",
    )


def score(options: argparse.Namespace) -> int:
    """Print the scores of a folder of masks, and write them where that is asked for."""
    names = None if options.classes is None else [name.strip() for name in options.classes.split(",")]
    classes = mask_classes(options.truth, names)
    pairs = pair_masks(options.masks, options.truth, options.names)
    if options.out is not None:
        check_apart(options.out, options.masks, options.truth)

    from attnbridge.evaluation.folders.masks import MATRIX, print_scores, score_masks, write_mask_scores

    if options.out is None:
        print_scores(score_masks(pairs, classes))
        return 0
    made_of = {"masks": str(options.masks), "truth": str(options.truth)}
    print_scores(write_mask_scores(pairs, options.out, classes, **made_of))
    print(options.out / MATRIX)
    return 0


VERBS = (
    Verb("pipeline", "masks", "from two folders to masks: AttnBN, cues, segmentation, page", _add_pipeline, pipeline,
         overrides=True),
    Verb("saliency", "masks", "saliency maps of your images, one PNG each; resumes", _add_saliency, saliency),
    Verb("segment", "masks", "masks of your images as palette PNGs; resumes", _add_segment, segment),
    Verb("score", "masks", "IoU and boundary F of masks, made by any tool", _add_score, score),
    Verb("cues", "masks", "seeds for a segmentation network from a run's maps", _add_cues, cues, rare=True),
    Verb("submit", "masks", "segmentations packed for VOC's test server", _add_submit, submit, rare=True),
)  # fmt: skip
