"""What a file is that holds no weights which can be read here: its name, and what to do instead."""

from difflib import get_close_matches
from pathlib import Path

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import protobuf, zips

_CHECKPOINTS = (
    ".pth", ".pt", ".pkl", ".ckpt", ".bin", ".th", ".safetensors", ".npz", ".npy", ".h5", ".hdf5", ".keras", ".pb",
    ".onnx", ".index", ".pdparams", ".params", ".caffemodel", ".tar", ".pt2",
)  # fmt: skip
_UNPACK = "unpack it and open the checkpoint inside"
_EXPORTED = "open the checkpoint that it was made from"

# First byte, what stands there, what the file is, what to do.
_MAGICS: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model, whose weights were folded and often quantised", _EXPORTED),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (0, b"(\xb5/\xfd", "a zstd archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"%PDF", "a PDF document", ""),
    (0, b"GGUF", "a GGUF file (llama.cpp)", ""),
    (0, b"ftrt", "a TensorRT engine, which is compiled for one GPU", _EXPORTED),
    (0, b"ptrt", "a TensorRT engine, which is compiled for one GPU", _EXPORTED),
    (0, b"7767517\n", "an ncnn network description", _EXPORTED),
    (0, b"RKNN", "a Rockchip RKNN model", _EXPORTED),
    (0, b"MNN", "an MNN model", _EXPORTED),
    (0, b"\x7fELF", "a program or library", ""),
    (0, b"SQLite format 3", "an SQLite database", ""),
    (0, b"\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00", "a Darknet weights file, which names no tensor", ""),
)  # fmt: skip


def told(path: Path, data: memoryview) -> Finding:
    """The finding that names a file which no reader takes.

    told(path, memoryview(b"version https://git-lfs.github.com/spec/v1\\noid …")).code    # "file.lfs-pointer"
    """
    if len(data) == 0:
        return Finding(
            "file.truncated", "error", f"{path.name} is empty", evidence={"bytes": 0}, fix="download it again"
        )
    head = bytes(data[:4096])
    return (
        _lfs_pointer(path, head)
        or _by_magic(path, head)
        or _archive(path, data)
        or _text(path, data, head)
        or _core_ml(path, data)
        or _openvino(path)
        or _paddle_export(path, data)
        or _zeros(path, data, head)
        or _unknown(path, data, "bytes of no known format", "")
    )


def _unknown(path: Path, data: memoryview, what: str, fix: str) -> Finding:
    evidence = {"bytes": len(data), "begins": bytes(data[:16]).hex(" "), "is": what}
    return Finding(
        "file.unknown-format", "error", f"{path.name} is {what}, {len(data):,} bytes", evidence=evidence, fix=fix
    )


def _lfs_pointer(path: Path, head: bytes) -> Finding | None:
    if not head.startswith((b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")):
        return None
    entries = dict(line.split(" ", 1) for line in head.decode("utf-8", "replace").splitlines() if " " in line)
    digits = entries.get("size", "")
    size = int(digits) if digits.isdigit() and len(digits) < 20 else None
    meant = f"a file of {size:,} bytes" if size is not None else "a file"
    return Finding(
        "file.lfs-pointer",
        "error",
        f"{path.name} is a Git LFS pointer of {len(head)} bytes to {meant} that was not downloaded",
        evidence={"expected": size, "oid": entries.get("oid", "")[:80]},
        fix=f"git lfs pull --include '{path.name}' in the repository that it comes from",
    )


def _by_magic(path: Path, head: bytes) -> Finding | None:
    for at, magic, what, fix in _MAGICS:
        if head[at : at + len(magic)] == magic:
            evidence = {"is": what}
            return Finding("file.unknown-format", "error", f"{path.name} is {what}", evidence=evidence, fix=fix)
    return None


def _archive(path: Path, data: memoryview) -> Finding | None:
    if not zips.is_zip(data):
        return None
    if not zips.is_whole(data):
        evidence = {"bytes": len(data), "expected": None}
        message = f"{path.name} is a zip archive that ends too early, after {len(data):,} bytes"
        return Finding("file.truncated", "error", message, evidence=evidence, fix="download it again")
    names = list(zips.members(data))
    if any(name.endswith(("Manifest.json", ".mlmodel")) for name in names):
        return _unknown(path, data, "a packed Core ML model", _EXPORTED)
    inside = [name for name in names if name.endswith(_CHECKPOINTS)]
    held = f"a zip archive of {len(names):,} files" + (f", with {', '.join(inside[:4])}" if inside else "")
    return _unknown(path, data, held, _UNPACK if inside else "")


def _text(path: Path, data: memoryview, head: bytes) -> Finding | None:
    text = _decoded(head).lstrip("\ufeff \t\r\n")
    if not text:
        return None
    if any(character < " " and character not in "\t\r\n\f\x1b" for character in text):
        return None
    low = text[:2000].lower()
    if low.startswith(("<!doctype html", "<html")) or "<html" in low[:400]:
        title = (
            text[low.find("<title>") + 7 : low.find("</title>")].strip()
            if "<title>" in low and "</title>" in low
            else ""
        )
        said = f" (“{title[:80]}”)" if title else ""
        message = f"{path.name} is a web page{said}, saved in place of the download"
        fix = "open the link in a browser, and download the file that the page offers"
        return Finding("file.placeholder", "error", message, evidence={"is": "html", "bytes": len(data)}, fix=fix)
    named = text.strip()
    if "\n" not in named and named != path.name and 0 < len(named) < 200 and _is_sibling(path, named):
        message = f"{path.name} is text that names the checkpoint {named}"
        return Finding("file.placeholder", "error", message, evidence={"names": named}, fix=f"open {named}")
    for what, fix, told_by in _DIALECTS:
        if all(word in low for word in told_by):
            return _unknown(path, data, what, fix)
    first = text.splitlines()[0][:80] if text else ""
    message = f"{path.name} is text of {len(data):,} bytes, not weights; it begins {first!r}"
    evidence = {"is": "text", "bytes": len(data), "begins": text[:200]}
    code = "file.placeholder" if len(data) < 2048 else "file.unknown-format"
    fix = "download the file that it stands for" if code == "file.placeholder" else ""
    return Finding(code, "error", message, evidence=evidence, fix=fix)


def is_document(path: Path) -> bool:
    """Whether a file is text under a name that no checkpoint has: a licence, a config, a log."""
    if path.name.endswith((*_CHECKPOINTS, ".index.json")):
        return False
    try:
        with path.open("rb") as file:
            text = _decoded(file.read(512))
    except OSError:
        return False
    return bool(text) and all(character >= " " or character in "\t\r\n\f\x1b" for character in text)


def _decoded(head: bytes) -> str:
    """UTF-8, whose last character the cut of the head may have split; "" for what is no text."""
    for cut in range(4):
        try:
            return head[: len(head) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return ""


def _is_sibling(path: Path, name: str) -> bool:
    return "/" not in name and "\\" not in name and "\0" not in name and (path.parent / name).is_file()


_AS_CONFIG = "give it as config= (--config) beside the weights"
# What the text is, what to do, and the words that it has, in lower case.
_DIALECTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("a TensorFlow.js model", _EXPORTED, ('"modeltopology"',)),
    ("a TensorFlow.js model", _EXPORTED, ('"weightsmanifest"',)),
    ("an OpenVINO network description; its weights are in the .bin beside it", _EXPORTED, ("<net ", "version=")),
    ("a TensorFlow Object Detection API configuration", _AS_CONFIG, ("model {", "num_classes:")),
    ("a TensorFlow Object Detection API label map", _AS_CONFIG, ("item {", "id:", "name:")),
    ("a Detectron2 configuration", _AS_CONFIG, ("model:", "meta_architecture")),
    ("a Detectron2 configuration", _AS_CONFIG, ("cudnn_benchmark:", "dataloader:")),
    ("an MMDetection configuration", _AS_CONFIG, ("model = dict(", "type=")),
    ("a list of COCO results", "give it to evaluate, not to open", ('"image_id"', '"category_id"', '"score"')),
    ("a COCO dataset", "give it as data", ('"images"', '"annotations"')),
    ("a Caffe network description; its weights are in a .caffemodel", "", ("layer", "bottom:", "top:")),
    ("an MXNet network description; its weights are in a .params file", "", ('"nodes"', '"op"', '"name"')),
)


def _core_ml(path: Path, data: memoryview) -> Finding | None:
    try:
        numbers = {number for number, _, _ in protobuf.fields(data)}
    except CheckpointError:
        return None
    # Core ML's Model message keeps the kind of network in fields from 200 on (coremltools/mlmodel/format/Model.proto).
    return _unknown(path, data, "a Core ML model", _EXPORTED) if numbers and max(numbers) >= 200 else None


def _openvino(path: Path) -> Finding | None:
    if path.suffix != ".bin" or not path.with_suffix(".xml").is_file():
        return None
    message = f"{path.name} holds the weights of an OpenVINO network, described in {path.stem}.xml"
    return Finding("file.unknown-format", "error", message, evidence={"is": "OpenVINO weights"}, fix=_EXPORTED)


def _paddle_export(path: Path, data: memoryview) -> Finding | None:
    # Each tensor begins with three versions and a count of 0, then the length of a message with its dtype and shape
    # (paddle/fluid/framework/lod_tensor.cc, SerializeToStream); names stand in the program beside it.
    if len(data) < 22 or any(data[:16]) or not 2 <= int.from_bytes(data[16:20], "little") <= 200 or data[20] != 8:
        return None
    what = "a Paddle inference export, whose tensors only the .pdmodel beside it names"
    return _unknown(path, data, what, "open the .pdparams that it was exported from")


def _zeros(path: Path, data: memoryview, head: bytes) -> Finding | None:
    if any(head):
        return None
    message = f"{path.name} begins with {len(head):,} zeros: its {len(data):,} bytes were reserved and not all written"
    evidence = {"bytes": len(data), "begins": "zeros"}
    return Finding("file.truncated", "error", message, evidence=evidence, fix="download it again")


def absent(path: Path) -> Finding:
    """The finding for a path that does not exist, with what is near it."""
    folder = path.parent
    near = neighbours(folder, path.name)
    if not folder.is_dir():
        message = f"there is no folder {str(folder)!r}, so no {path.name!r} in it"
    else:
        message = f"there is no {path.name!r} in {str(folder)!r}"
    fix = f"did you mean {near[0]!r}?" if near else ""
    return Finding("file.missing", "error", message, evidence={"near": near}, fix=fix)


def folder_without_weights(path: Path) -> Finding:
    """The finding for a folder that is no checkpoint, with the checkpoints in it."""
    near = neighbours(path, "") or _folders_with_weights(path)
    if (path / "Manifest.json").is_file() and path.suffix == ".mlpackage":
        message = f"{path.name} is a Core ML package"
        return Finding("file.unknown-format", "error", message, evidence={"is": "Core ML"}, fix=_EXPORTED)
    if any(path.glob("*.distcp")):
        return split_by_process(path, path)
    held = f"; it has {', '.join(near)}" if near else ", and has none in it"
    message = f"{str(path)!r} is a folder and no checkpoint{held}"
    fix = f"open {str(path / near[0])!r}" if near else ""
    return Finding("file.no-weights", "error", message, evidence={"near": near}, fix=fix)


def split_by_process(path: Path, folder: Path) -> Finding:
    """The finding for a folder that torch.distributed.checkpoint wrote, or a file in one."""
    part = "" if path == folder else "one part of "
    message = f"{str(path)!r} is {part}a checkpoint of torch.distributed.checkpoint, split by process"
    fix = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} whole.pth"
    return Finding("file.unknown-format", "error", message, evidence={"is": "torch.distributed"}, fix=fix)


def neighbours(folder: Path, name: str) -> list[str]:
    """Up to five files of a folder that may be meant by a name: like it first, then the last one of a
    training run, then the largest checkpoints."""
    try:
        files = [entry for entry in folder.iterdir() if entry.is_file()][:10_000]
    except OSError:
        return []
    like = get_close_matches(name, [file.name for file in files], n=3, cutoff=0.7) if name else []
    kept = [file for file in files if file.name.endswith(_CHECKPOINTS) and file.name not in like]
    kept.sort(key=lambda file: -file.stat().st_size)
    return list(dict.fromkeys([*like, *_last(folder), *(file.name for file in kept)]))[:5]


def _folders_with_weights(folder: Path) -> list[str]:
    """Up to five folders of a folder that hold checkpoints."""
    try:
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))[:100]
    except OSError:
        return []
    return [entry.name for entry in inside if neighbours(entry, "")][:5]


def _last(folder: Path) -> list[str]:
    """The checkpoint that a `last_checkpoint` of Detectron2, maskrcnn-benchmark or MMEngine names, if it is there."""
    note = folder / "last_checkpoint"
    if not note.is_file() or note.stat().st_size > 4096:
        return []
    name = Path(note.read_text("utf-8", "replace").strip()).name
    return [name] if name and _is_sibling(note, name) else []
