"""TF Object Detection API datasets: TFRecord files of `tf.train.Example`, read without TensorFlow.

The container is the length, its checksum, the record and its checksum (tensorflow/core/lib/io/record_writer.h); the
features are those of the API's `tf_example_decoder.py`.
"""

import io
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft.errors import CheckpointError, DataError, Finding
from maskgraft.families.pipeline_config import read_label_map
from maskgraft.faults import Faults
from maskgraft.files import protobuf
from maskgraft.formats.photos import Instance, Photo, Source, run_lengths

Values = list[bytes] | list[float] | list[int]


def read(files: Sequence[Path], label_map: Path | None) -> Source:
    """The examples of all shards, in their order; images keep the names that the records give them.

    Classes are named by `label_map` (a .pbtxt), or by the records' own `class/text`.
    """
    faults, photos, used = Faults(files[0].parent), list[Photo](), set[str]()
    names = {}
    if label_map is not None:
        try:
            names = read_label_map(label_map)
        except CheckpointError as error:
            raise DataError(error.findings) from None
    for file in files:
        try:
            for number, record in enumerate(records(file)):
                where = f"{file}: record {number}"
                photo = _photo(record, names, used, where, faults)
                if photo is not None:
                    photos.append(photo)
        except (CheckpointError, DataError) as error:
            faults.add("data.record", "error", "TFRecord files are damaged", f"{file}: {error.findings[0].message}")
    return Source(photos, [name for _, name in sorted(names.items())], faults)


def records(path: Path) -> Iterator[memoryview]:
    """The records of one file. Raises `DataError` (`data.record`) where the file is cut or is no TFRecord file."""
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    at = 0
    while at < len(view):
        size = int.from_bytes(view[at : at + 8], "little")
        if at + 16 + size > len(view):
            left = max(len(view) - at - 12, 0)
            message = f"the record at byte {at:,} claims {size:,} bytes, {left:,} are left"
            raise DataError(Finding("data.record", "error", message, fix="write or download the file again"))
        yield view[at + 12 : at + 12 + size]
        at += 16 + size


def features(record: memoryview) -> dict[str, Values]:
    """The features of one `tf.train.Example` by name."""
    found: dict[str, Values] = {}
    for number, _, every in protobuf.fields(record):
        if number != 1:
            continue
        for _, _, entry in protobuf.fields(protobuf.view(every)):
            name, values = "", list[bytes]()
            result: Values = values
            for place, _, value in protobuf.fields(protobuf.view(entry)):
                if place == 1:
                    name = protobuf.text(value)
                elif place == 2:
                    result = _values(protobuf.view(value))
            found[name] = result
    return found


def _values(feature: memoryview) -> Values:
    for kind, _, inside in protobuf.fields(feature):
        listed = protobuf.fields(protobuf.view(inside))
        if kind == 1:
            return [bytes(protobuf.view(value)) for _, _, value in listed]
        if kind == 2:
            raw = b"".join(bytes(protobuf.floats(value, wire, 4)) for _, wire, value in listed)
            floats: list[float] = np.frombuffer(raw, "<f4").astype(float).tolist()
            return floats
        if kind == 3:
            numbers = [one for _, _, value in listed for one in protobuf.integers(value)]
            return [one - (1 << 64) if one >= 1 << 63 else one for one in numbers]
    return []


def _photo(record: memoryview, names: Mapping[int, str], used: set[str], where: str, faults: Faults) -> Photo | None:
    found = features(record)
    encoded = found.get("image/encoded") or []
    if not encoded or not isinstance(encoded[0], bytes):
        faults.add("data.image-missing", "error", "records hold no image/encoded", where)
        return None
    try:
        with Image.open(io.BytesIO(encoded[0])) as image:
            width, height = image.size
            suffix = f".{(image.format or 'jpeg').lower().replace('jpeg', 'jpg')}"
    except (OSError, ValueError) as error:
        faults.add("data.image-unreadable", "error", "images of records cannot be read", f"{where}: {error}")
        return None
    photo = Photo(_named(found, suffix, used), width, height, encoded=encoded[0])
    texts, labels = found.get("image/object/class/text") or [], found.get("image/object/class/label") or []
    sides = [found.get(f"image/object/bbox/{side}") or [] for side in ("xmin", "ymin", "xmax", "ymax")]
    crowds = found.get("image/object/is_crowd") or []
    count = max(len(sides[0]), len(labels), len(texts))
    if any(isinstance(one, bytes) for one in (*labels, *crowds, *(value for side in sides for value in side))):
        faults.add("data.record", "error", "records have text for boxes, class numbers or crowds", where)
        return None
    masks = _masks(found.get("image/object/mask") or [], count, (height, width), where, faults)
    if masks is None:
        return photo
    for index in range(count):
        name = names.get(int(labels[index])) if index < len(labels) else None
        text = texts[index] if index < len(texts) else None
        if name is None and isinstance(text, bytes):
            name = text.decode("utf-8", "replace")
        if name is None:
            told = (
                f"{where}: object {index}, class {labels[index]!r}"
                if index < len(labels)
                else f"{where}: object {index}"
            )
            fix = "name it in the label map" if names else "give --label-map"
            faults.add("data.category-unknown", "error", "objects have a class without a name", told, fix)
            continue
        box = None
        if all(len(side) == count for side in sides):
            x1, y1, x2, y2 = (float(side[index]) for side in sides)
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
        crowd = index < len(crowds) and bool(crowds[index])
        photo.instances.append(Instance(name, run_lengths(masks[index]), crowd, box))
    return photo


def _named(found: Mapping[str, Values], suffix: str, used: set[str]) -> Path:
    """The name that a record gives its image, made one of its own; never a path that leaves the folder."""
    given = next((one[0] for one in (found.get("image/filename"), found.get("image/source_id")) if one), b"")
    text = given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)
    stem = Path(text.replace("\\", "/")).stem or "image"
    name, number = f"{stem}{suffix}", 1
    while name in used:
        number += 1
        name = f"{stem}-{number}{suffix}"
    used.add(name)
    return Path(name)


def _masks(
    values: Values, count: int, size: tuple[int, int], where: str, faults: Faults
) -> list[npt.NDArray[np.bool_]] | None:
    """PNG masks, or numbers [N, H, W] in one list; None with a finding where they are not the objects'."""
    if count and not values:
        faults.add("data.mask-empty", "error", "records hold boxes and no image/object/mask", where)
        return None
    if values and not isinstance(values[0], bytes):
        if len(values) != count * size[0] * size[1]:
            text, told = "masks are not as many numbers as objects × height × width", f"{where}: {len(values)} numbers"
            faults.add("data.mask-size", "error", text, told)
            return None
        return list(np.array(values).reshape(count, *size) > 0)
    masks = []
    for index, value in enumerate(one for one in values if isinstance(one, bytes)):
        try:
            with Image.open(io.BytesIO(value)) as image:
                mask = np.asarray(image.convert("L") if image.mode != "1" else image) > 0
        except (OSError, ValueError) as error:
            faults.add("data.mask", "error", "masks of records are no PNGs", f"{where}: object {index}: {error}")
            return None
        if mask.shape != size:
            told = f"{where}: object {index}: {mask.shape[::-1]} for {size[::-1]}"
            faults.add("data.mask-size", "error", "masks have another size than their image", told)
            return None
        masks.append(mask)
    if len(masks) != count:
        faults.add("data.mask", "error", "records have not one mask an object", f"{where}: {len(masks)} for {count}")
        return None
    return masks
