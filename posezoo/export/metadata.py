"""What a TFLite file says about itself: key-point names, preprocessing, codec, licence.

Two entries of the file's `metadata`: `TFLITE_METADATA`, a flatbuffer of TensorFlow's public metadata schema (identifier
M001), which code generators and other tools read, and `POSEZOO_METADATA`, JSON with everything that decoding takes.
Key-point names are also an associated file, in a zip archive behind the flatbuffer as the schema's documentation
says. Runtimes ignore all of it. Nothing in it changes from one run to the next: equal networks give equal files.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.codecs import CODECS, make_codec
from posezoo.export.flatbuffer import FileError, packed, schema, unpacked

if TYPE_CHECKING:
    from posezoo.cards.card import Card, InputSpec

#: Names of the entries; the first is the schema's own.
STANDARD, OURS = "TFLITE_METADATA", "POSEZOO_METADATA"
IDENTIFIER = b"M001"
#: The oldest parser that knows everything used here.
MIN_PARSER = "1.0.0"
KEYPOINTS_FILE = "keypoints.txt"
#: `TENSOR_AXIS_LABELS`: line i names channel i.
AXIS_LABELS = 2
#: Of the schema's unions and enumerations.
FEATURE_PROPERTIES, IMAGE_PROPERTIES, NORMALIZATION = 1, 2, 1
RGB, GRAYSCALE = 1, 2
#: The zip format's first moment: archives of equal content are equal.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def input_facts(spec: InputSpec) -> dict[str, Any]:
    """Size and scaling of a network's input, as sidecars tell them."""
    return {
        "name": spec.name, "shape": [1, *spec.shape], "height": spec.shape[0], "width": spec.shape[1],
        "colour": spec.colour, "mean": [float(v) for v in spec.mean], "std": [float(v) for v in spec.std],
        **({"farthest_m": spec.farthest_m} if spec.depth else {}),
    }  # fmt: skip


def facts(card: Card) -> dict[str, Any]:
    """What a program needs to use a file of a model: preprocessing, key-points, decoding, licences."""
    codec = dict(card.codec)
    if codec["type"] in CODECS and card.skeleton.num_keypoints:
        made = make_codec(input_wh=card.input.wh, **card.codec)
        codec |= {f.name: _plain(getattr(made, f.name)) for f in dataclasses.fields(made) if f.init}
    return {
        "model": card.name,
        "title": card.title,
        "input": {**input_facts(card.input), "crop": dict(card.crop)},
        "skeleton": card.skeleton.name,
        "keypoints": list(card.skeleton.keypoints),
        "limbs": [list(limb) for limb in card.skeleton.limbs],
        "codec": codec,
        "score_threshold": card.score_threshold,
        "person_threshold": card.person_threshold,
        "licences": dict(card.licences),
    }


def _plain(value: Any) -> Any:
    """A codec's parameter as JSON holds it."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def with_metadata(content: bytes, card: Card) -> bytes:
    """Return a TFLite file with a card's facts in it, in the place of any that it has.

    Args:
        content: The file, whose input and outputs are named by its signature.
        card: The network's card.

    Raises:
        FileError: The bytes are no TFLite file.
    """
    model = unpacked(without_archive(content))
    graph = model.subgraphs[0]
    names = {i: _text(graph.tensors[i].name) for i in (*graph.inputs, *graph.outputs)}
    shapes = {names[i]: [int(n) for n in graph.tensors[i].shape] for i in graph.outputs}
    entries = {
        STANDARD: _standard(card, [names[i] for i in graph.inputs], shapes),
        OURS: json.dumps(facts(card), separators=(",", ":"), ensure_ascii=False).encode(),
    }
    kept = [entry for entry in model.metadata or [] if _text(entry.name) not in entries]
    for name, data in entries.items():
        buffer = schema().BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        model.buffers.append(buffer)
        entry = schema().MetadataT()
        entry.name, entry.buffer = name, len(model.buffers) - 1
        kept.append(entry)
    model.metadata = kept
    names_file = {KEYPOINTS_FILE: "".join(f"{name}\n" for name in card.skeleton.keypoints)}
    return _with_archive(packed(_without_idle_buffers(model)), names_file if card.skeleton.keypoints else {})


def _without_idle_buffers(model: Any) -> Any:
    """Drop the buffers that nothing names any more, such as replaced metadata; buffer 0, always empty, stays."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    holders = [*tensors, *(model.metadata or [])]
    used = sorted({0, *(holder.buffer for holder in holders)})
    place = {old: new for new, old in enumerate(used)}
    for holder in holders:
        holder.buffer = place[holder.buffer]
    model.buffers, model.metadataBuffer = [model.buffers[i] for i in used], None
    return model


def read_metadata(content: bytes) -> dict[str, Any]:
    """Return what a file says about itself.

    Returns:
        `posezoo`: the facts of `facts`, if it has them; `standard`: `name`, `description`, `license`, and for each of
        `inputs` and `outputs` `name`, `description`, `dimension_names`, `mean`, `std`, `min`, `max`, `colour`, `width`,
        `height`, `associated_files`; `associated_files`: name -> text.

    Raises:
        FileError: The bytes are no TFLite file, or its metadata is damaged.
    """
    model = unpacked(content)
    found: dict[str, Any] = {"associated_files": _files(content)}
    for entry in model.metadata or []:
        data = bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8))
        name = _text(entry.name)
        try:
            if name == OURS:
                found["posezoo"] = json.loads(data)
            elif name == STANDARD:
                found["standard"] = _read_standard(data)
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            raise FileError(f"the metadata '{name}' is damaged ({error}); export the file again") from error
    return found


# -------------------------------------------------------------------------------------------- flatbuffers


class _Builder:
    """Builds tables of the metadata schema: field number -> value, in the order of the schema's file."""

    def __init__(self) -> None:
        import flatbuffers

        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return self._builder.CreateString(value)

    def floats(self, values: Sequence[float]) -> int:
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependFloat32(float(value))
        return self._builder.EndVector()

    def vector(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def table(self, offsets: dict[int, int], *, small: dict[int, int] | None = None, numbers=None) -> int:
        """A table of strings, vectors and tables, of bytes (`small`) and of unsigned numbers."""
        small, numbers = small or {}, numbers or {}
        self._builder.StartObject(1 + max((*offsets, *small, *numbers), default=-1))
        for field, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, value in numbers.items():
            self._builder.PrependUint32Slot(field, value, 0)
        for field, value in small.items():
            self._builder.PrependInt8Slot(field, value, 0)
        return self._builder.EndObject()

    def finished(self, root: int) -> bytes:
        self._builder.Finish(root, IDENTIFIER)
        return bytes(self._builder.Output())


def _standard(card: Card, inputs: list[str], outputs: dict[str, list[int]]) -> bytes:
    """`TFLITE_METADATA`: tables ModelMetadata, SubGraphMetadata, TensorMetadata and what they hold."""
    b = _Builder()
    tensors_in = [_input_tensor(b, card, name) for name in inputs]
    tensors_out = [_output_tensor(b, card, name, shape) for name, shape in outputs.items()]
    graph = b.table({0: b.text(card.name), 2: b.vector(tensors_in), 3: b.vector(tensors_out)})
    licence = "; ".join(f"{part}: {told}" for part, told in card.licences.items())
    return b.finished(
        b.table({
            0: b.text(card.name), 1: b.text(f"{card.title}. {card.limits}".strip()), 3: b.vector([graph]),
            4: b.text("posezoo"), 5: b.text(licence), 7: b.text(MIN_PARSER),
        })
    )  # fmt: skip


def _input_tensor(b: _Builder, card: Card, name: str) -> int:
    spec = card.input
    width, height = spec.wh
    size = b.table({}, numbers={0: width, 1: height})
    image = b.table({1: size}, small={0: RGB if spec.colour == "RGB" else GRAYSCALE})
    content = b.table({1: image}, small={0: IMAGE_PROPERTIES})
    scaling = b.table({0: b.floats(spec.mean), 1: b.floats(spec.std)})
    unit = b.table({1: scaling}, small={0: NORMALIZATION})
    mean, std = np.array(spec.mean), np.array(spec.std)
    stats = b.table({0: b.floats((255 - mean) / std), 1: b.floats((0 - mean) / std)})
    told = {"RGB": "RGB picture", "amplitude": "amplitude of active infrared"}.get(
        spec.colour, f"depth in metres up to {spec.farthest_m:g}, 0 where nothing was measured"
    )
    fields = {0: b.text(name), 1: b.text(told), 3: content, 4: b.vector([unit])}
    # Only bytes have a range that is the network's to say.
    return b.table({**fields, 5: stats} if spec.colour == "RGB" else fields)


def _output_tensor(b: _Builder, card: Card, name: str, shape: list[int]) -> int:
    content = b.table({1: b.table({})}, small={0: FEATURE_PROPERTIES})
    fields = {0: b.text(name), 1: b.text(_told(card, name)), 3: content}
    if len(shape) == 4:
        axes = ("batch", "height", "width", "channel")
        fields[2] = b.vector([b.text(axis) for axis in axes])
    keypoints = card.skeleton.num_keypoints
    if keypoints and shape[-1:] in ([keypoints], [keypoints + 1]):
        meaning = "line i names channel i" + ("; the last channel is what is none" if shape[-1] > keypoints else "")
        labels = b.table({0: b.text(KEYPOINTS_FILE), 1: b.text(meaning)}, small={2: AXIS_LABELS})
        fields[6] = b.vector([labels])
    return b.table(fields)


def _told(card: Card, output: str) -> str:
    """What an output of a network means."""
    told = {
        "heatmaps": "a map per key-point, its peak where the key-point is",
        "heatmaps_low": "a map per key-point at half the size of 'heatmaps'",
        "tags": "a map per key-point that groups key-points of one person",
        "pafs": "x and y maps per limb, unit vectors along it",
        "coordinates": "x, y of every key-point as fractions of the input's sides",
    }
    return told.get(output, f"'{output}' of {card.name}")


def _read_standard(data: bytes) -> dict[str, Any]:
    from flatbuffers import encode, number_types, packer
    from flatbuffers.table import Table

    if data[4:8] != IDENTIFIER:
        raise ValueError("its identifier is not M001")

    def at(table: Any, field: int) -> int:
        return table.Offset(4 + 2 * field)

    def text(table: Any, field: int) -> str | None:
        offset = at(table, field)
        return table.String(offset + table.Pos).decode() if offset else None

    def child(table: Any, field: int) -> Any:
        offset = at(table, field)
        return Table(data, table.Indirect(offset + table.Pos)) if offset else None

    def children(table: Any, field: int) -> list:
        offset = at(table, field) if table else 0
        if not offset:
            return []
        start = table.Vector(offset)
        return [Table(data, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(offset))]

    def texts(table: Any, field: int) -> list[str]:
        offset = at(table, field)
        start = table.Vector(offset) if offset else 0
        return [table.String(start + 4 * i).decode() for i in range(table.VectorLen(offset) if offset else 0)]

    def floats(table: Any, field: int) -> list[float]:
        offset = at(table, field) if table else 0
        if not offset:
            return []
        start = table.Vector(offset)
        return [table.Get(number_types.Float32Flags, start + 4 * i) for i in range(table.VectorLen(offset))]

    def number(table: Any, field: int, kind: Any) -> int:
        offset = at(table, field) if table else 0
        return table.Get(kind, offset + table.Pos) if offset else 0

    def tensor(table: Any) -> dict[str, Any]:
        units = [u for u in children(table, 4) if number(u, 0, number_types.Uint8Flags) == NORMALIZATION]
        scaling = child(units[0], 1) if units else None
        content = child(table, 3)
        is_image = content and number(content, 0, number_types.Uint8Flags) == IMAGE_PROPERTIES
        image = child(content, 1) if is_image else None
        size = child(image, 1) if image else None
        return {
            "name": text(table, 0),
            "description": text(table, 1),
            "dimension_names": texts(table, 2),
            "mean": floats(scaling, 0),
            "std": floats(scaling, 1),
            "max": floats(child(table, 5), 0),
            "min": floats(child(table, 5), 1),
            "colour": {RGB: "RGB", GRAYSCALE: "grey"}.get(number(image, 0, number_types.Int8Flags)) if image else None,
            "width": number(size, 0, number_types.Uint32Flags),
            "height": number(size, 1, number_types.Uint32Flags),
            "associated_files": [text(file, 0) for file in children(table, 6)],
        }

    root = Table(data, encode.Get(packer.uoffset, data, 0))
    (graph,) = children(root, 3)
    return {
        "name": text(root, 0),
        "description": text(root, 1),
        "license": text(root, 5),
        "inputs": [tensor(t) for t in children(graph, 2)],
        "outputs": [tensor(t) for t in children(graph, 3)],
    }


# ---------------------------------------------------------------------------------------- associated files


def _with_archive(content: bytes, files: dict[str, str]) -> bytes:
    """A flatbuffer with a zip archive of texts behind it."""
    if not files:
        return content
    memory = io.BytesIO(content)
    with zipfile.ZipFile(memory, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), text)
    return memory.getvalue()


def _files(content: bytes) -> dict[str, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def without_archive(content: bytes) -> bytes:
    """Return a file without the associated files behind its flatbuffer."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return content[: min(info.header_offset for info in archive.infolist())]
    except (zipfile.BadZipFile, ValueError):
        return content


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
