"""Files that somebody made to do harm: what they would run leaves a mark."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from PIL import Image


class Payload:
    """What makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int = 4, height: int = 4, depth: int = 8, colour: int = 2, extra: bytes = b"", rows: bool = True
) -> bytes:
    """A black PNG; without ``rows`` there is nothing to decode."""
    row = (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8 + 1
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(row)) for _ in range(height if rows else 0)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"", order: str = "<", big: bool = False) -> bytes:
    """A TIFF of these entries: tag, type, number and value, as a whole number."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(entries))
        body = b"".join(struct.pack(f"{order}HHQQ", *entry) for entry in entries)
    else:
        head = mark + struct.pack(f"{order}HLH", 42, 8, len(entries))
        body = b"".join(struct.pack(f"{order}HHLL", *entry) for entry in entries)
    return head + body + bytes(8) + tail


def many_tags(count: int = 3000, held: int = 400_000, **form: Any) -> bytes:
    """Tags that all stand for the same bytes: a gigabyte in half a megabyte."""
    return tiff([(1000 + tag, 7, held, 100) for tag in range(count)], bytes(held), **form)


def jpeg(segments: bytes = b"", **options: Any) -> bytes:
    """A small JPEG, with segments after its first two bytes."""
    handle = io.BytesIO()
    Image.new("RGB", (8, 8)).save(handle, "JPEG", **options)
    whole = handle.getvalue()
    return whole[:2] + segments + whole[2:]


def exif_segments(data: bytes) -> bytes:
    """Exif in as many segments as it takes."""
    parts = [b"Exif\0\0" + data[place : place + 65_000] for place in range(0, len(data), 65_000)]
    return b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)


def encoded(kind: str, **options: Any) -> bytes:
    """A small image with an edge in it."""
    image = Image.new("RGB", (16, 12), (200, 30, 30))
    image.paste((10, 10, 220), (0, 0, 8, 12))
    handle = io.BytesIO()
    (image.convert("L") if kind in ("XBM",) else image).save(handle, kind, **options)
    return handle.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive."""
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w", method) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return handle.getvalue()


def inflating(path: Path) -> None:
    """A file of torch with a tensor of 64 MB, compressed to 64 kB."""
    torch.save({"weight": torch.zeros(16_000_000)}, path)
    with zipfile.ZipFile(path) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    path.write_bytes(zipped(files, zipfile.ZIP_DEFLATED))


def weights_file(path: Path, form: str, mark: Path) -> None:
    """A file of weights that runs something where it is unpickled as it stands, or takes memory.

    Args:
        path: to write.
        form: which.
        mark: what the payload makes.
    """
    payload = {"weight": Payload(mark)}
    if form == "zip":
        torch.save(payload, path)
    elif form == "old":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif form == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    elif form == "inflating":
        inflating(path)
    elif form == "bytearray":
        torch.save({"weight": torch.zeros(1), "more": bytearray(5)}, path)
    elif form == "bytearray, old":
        torch.save({"more": bytearray(5)}, path, _use_new_zipfile_serialization=False)
    else:
        raise ValueError(form)


def onnx_network(path: Path, shape: tuple[int, ...] = (1, 3, 32, 32), kind: str = "mean") -> None:
    """A network of ONNX that takes an image of a shape."""
    import onnx
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    kept = []
    if kind == "mean":
        nodes = [helper.make_node("ReduceMean", ["x"], ["o"], axes=[1], keepdims=1)]
    elif kind == "colours":
        nodes = [helper.make_node("Identity", ["x"], ["o"])]
    elif kind == "scalar":
        nodes = [helper.make_node("ReduceMean", ["x"], ["o"], keepdims=0)]
    elif kind == "nan":
        nodes = [
            helper.make_node("Sub", ["x", "x"], ["zero"]),
            helper.make_node("Div", ["zero", "zero"], ["nan"]),
            helper.make_node("ReduceMean", ["nan"], ["o"], axes=[1], keepdims=1),
        ]
    elif kind == "memory":
        kept = [helper.make_tensor("s", TensorProto.INT64, [3], [1500, 1000, 1000])]
        one = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
        nodes = [
            helper.make_node("ConstantOfShape", ["s"], ["c"], value=one),
            helper.make_node("ReduceMean", ["c"], ["m"], keepdims=0),
            helper.make_node("Mul", ["x", "m"], ["t"]),
            helper.make_node("ReduceMean", ["t"], ["o"], axes=[1], keepdims=1),
        ]
    else:  # weights in a file outside the network's folder
        outside = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
        outside.data_location = onnx.TensorProto.EXTERNAL
        outside.external_data.add(key="location", value="../outside.bin")
        kept = [outside]
        nodes = [helper.make_node("Mul", ["x", "w"], ["o"])]
    graph = helper.make_graph(nodes, "g", [image], [out], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
