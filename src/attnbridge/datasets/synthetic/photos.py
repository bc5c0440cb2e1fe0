"""Real photographs for the demo: cut-outs and places from Debian packages, fetched with apt's own client.

Nothing is installed and no root is needed: package lists and packages go to the user's cache, and are
unpacked there. ``photos.json`` beside this file is the curated list: photographs only, class to files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from attnbridge.data.files import cache_dir, run_program
from attnbridge.data.images import load_image
from attnbridge.errors import AttnBridgeError

CATALOGUE = Path(__file__).with_name("photos.json")


def apt_available() -> bool:
    """Whether apt's client and dpkg are there to fetch packages with."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def prepare_photos(cache: Path | None = None) -> tuple[Path, Path]:
    """Fetch, unpack and sort the photographs; later calls find them in the cache.

    Args:
        cache: folder to keep them in; default: the user's cache.

    Returns:
        The folder of cut-outs (``CLASS/*.png`` with alpha) and the folder of places (``*.jpg``).

    Raises:
        AttnBridgeError: if apt or the package registry cannot be reached, or a listed file is missing.
    """
    cache = cache or cache_dir("photos")
    catalogue = json.loads(CATALOGUE.read_text())
    done = cache / "catalogue.json"
    if not (done.is_file() and json.loads(done.read_text()) == catalogue):
        packages = fetch_packages(catalogue["packages"], cache / "apt")
        _sort(catalogue, packages, cache)
        done.write_text(json.dumps(catalogue))
        shutil.rmtree(cache / "apt")
    return cache / "cutouts", cache / "places"


def fetch_packages(names: list[str], folder: Path) -> dict[str, Path]:
    """Download Debian packages and unpack each into a folder of its own, without root.

    Returns:
        For each package the folder that stands for the file system's root.
    """
    lists, partial = folder / "lists", folder / "archives"
    for path in (lists / "partial", partial / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    apt = [
        "apt-get",
        "-qq",
        f"-oDir::State::Lists={lists.resolve()}",
        f"-oDir::Cache={partial.resolve()}",
        "-oAPT::Sandbox::User=",
        "-oDebug::NoLocking=1",
    ]
    run_program([*apt, "update"], "fetching the package lists")
    unpacked = {}
    for name in names:
        run_program([*apt, "download", name], f"fetching the package {name}", cwd=folder)
        (archive,) = folder.glob(f"{name}_*.deb")
        unpacked[name] = folder / name
        run_program(["dpkg-deb", "-x", str(archive), str(unpacked[name])], f"unpacking {archive.name}")
        archive.unlink()
    return unpacked


def _sort(catalogue: dict[str, dict[str, list[str]]], packages: dict[str, Path], cache: Path) -> None:
    """Copy the listed files; places are shrunk to what scenes need."""
    for kind in ("cutouts", "places"):
        shutil.rmtree(cache / kind, ignore_errors=True)
    for label, files in catalogue["cutouts"].items():
        (cache / "cutouts" / label).mkdir(parents=True)
        for file in files:
            source = _find(packages, "usr/share/tuxpaint/stamps/" + file)
            shutil.copyfile(source, cache / "cutouts" / label / source.name)
    (cache / "places").mkdir()
    for file in catalogue["places"]["files"]:
        source = _find(packages, "usr/share/" + file)
        image = load_image(source)
        image.thumbnail((1600, 1600), Image.Resampling.LANCZOS)
        image.save(cache / "places" / f"{_place_name(file)}.jpg", quality=92)


def _place_name(file: str) -> str:
    """``wallpapers/Path/contents/images/2560x1600.jpg`` is called Path, ``.../Dune.jpg`` Dune."""
    path = Path(file)
    return path.parts[1] if path.parts[0] == "wallpapers" else path.stem.split("_by_")[0]


def _find(packages: dict[str, Path], inside: str) -> Path:
    for root in packages.values():
        if (root / inside).is_file():
            return root / inside
    raise AttnBridgeError(
        f"{inside}: in none of the packages {', '.join(packages)}; this release of the distribution ships "
        "other files; use the drawn shapes instead (`attnbridge demo --images shapes`)"
    )
