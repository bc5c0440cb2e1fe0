"""Mutated images: ``python -m benchmarks.fuzz``. Each is read, or refused with an error that names its file.

Small images of all formats that are read are cut off, spliced, and changed in bits, bytes and numbers. Anything but an
image or an :class:`~attnbridge.errors.AttnBridgeError`, more than ten seconds, or a process of more than 2 GB is a
failure: its file is kept, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attnbridge.data.images import image_size_of, load_image
from attnbridge.errors import AttnBridgeError
from benchmarks.memory import peak_memory

FORMATS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("L", "RGB"),
    "GIF": ("P",),
    "TIFF": ("1", "L", "RGB", "I;16"),
    "PPM": ("L", "RGB"),
}
NUMBERS = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x01\x00\x00", b"\x00\x00\x00\x01"]
SECONDS, MEGABYTES = 10, 2048


def seeds(rng: random.Random) -> list[tuple[str, bytes]]:
    """Whole files of each format and mode, with a tag that says how they are turned where they can have one."""
    noise = np.random.default_rng(rng.randrange(2**32))
    found = []
    for kind, modes in FORMATS.items():
        for mode in modes:
            if mode == "I;16":
                image = Image.fromarray(noise.integers(0, 2**16, (20, 24), np.uint16))
            else:
                image = Image.fromarray(noise.integers(0, 256, (20, 24, 3), np.uint8)).convert(mode)
            exif = Image.Exif()
            exif[274] = rng.randint(1, 8)
            buffer = io.BytesIO()
            image.save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
            found.append((kind, buffer.getvalue()))
    return found


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A file with one to four faults; ``other`` is where spliced pieces come from."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(changed)) if rng.random() < 0.6 else rng.randrange(min(len(changed), 64))
        how = rng.randrange(7)
        if how == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[place] = rng.randrange(256)
        elif how == 2:
            changed[place : place + 4] = rng.choice(NUMBERS)
        elif how == 3 and place:
            del changed[place:]
        elif how == 4:
            del changed[place : place + rng.randint(1, 40)]
        elif how == 5:
            start = rng.randrange(len(other))
            changed[place:place] = other[start : start + rng.randint(1, 400)]
        else:
            changed[place:place] = changed[place : place + rng.randint(1, 40)] * rng.randint(1, 20)
        if not changed:
            return b"\0"
    return bytes(changed)


def read(path: Path) -> str:
    """What becomes of a file: ``read``, ``refused``, or what is wrong with the answer."""
    start, answers = time.perf_counter(), []
    for look in (image_size_of, load_image, lambda p: load_image(p, "P"), lambda p: load_image(p, "L")):
        try:
            look(path)
            answers.append("read")
        except AttnBridgeError as error:
            answers.append("refused" if path.name in str(error) else f"an error that does not name the file: {error}")
        except Exception as error:  # what this looks for
            answers.append(f"{type(error).__name__}: {error}")
    if time.perf_counter() - start > SECONDS:
        return f"{time.perf_counter() - start:.0f} seconds"
    strange = [answer for answer in answers if answer not in ("read", "refused")]
    return strange[0] if strange else answers[1]


def fuzz(count: int, seed: int, keep: Path) -> tuple[Counter[str], list[str]]:
    """Counts of what became of the files, and a line for each failure; their files are kept."""
    rng = random.Random(seed)
    whole = seeds(rng)
    counts: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            kind, data = rng.choice(whole)
            changed = mutate(data, rng.choice(whole)[1], rng)
            path = Path(folder) / f"{number}.{kind.lower()}"
            path.write_bytes(changed)
            answer = read(path)
            counts[answer if answer in ("read", "refused") else "failed"] += 1
            if answer not in ("read", "refused"):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / path.name).write_bytes(changed)
                failures.append(f"{keep / path.name}: {answer}")
            path.unlink()
    return counts, failures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if something failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where files that failed go")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    found: list[tuple[Counter[str], list[str]]] = []
    memory = peak_memory(lambda: found.append(fuzz(options.count, options.seed, options.keep)))
    counts, failures = found[0]
    if memory > MEGABYTES:
        failures.append(f"the process took {memory:.0f} MB")
    print("\n".join(failures))
    print(
        f"{options.count:,} images, seed {options.seed}: {counts['read']:,} read, {counts['refused']:,} refused, "
        f"{len(failures)} failed; {time.perf_counter() - start:.0f} s, {memory:.0f} MB"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
