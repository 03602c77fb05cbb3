"""The direction of imports, and the public names."""

import ast
import subprocess
import sys
from pathlib import Path

import maskgraft

SOURCE = Path(maskgraft.__file__).parent

# What each part may import of maskgraft. The file side is what needs no torch.
FILE_SIDE = {
    "errors",
    "fields",
    "mobilenet_v3",
    "spec",
    "links",
    "files",
    "families",
    "causes",
    "diagnosis",
    "saved",
    "conversion",
}
MAY_IMPORT = {
    "errors": set(),
    "fields": {"errors"},
    "files": {"errors"},
    "spec": {"errors", "fields"},
    "links": {"errors", "spec"},
    "mobilenet_v3": set(),
    "families": {"errors", "files", "links", "mobilenet_v3", "spec"},
    "causes": {"errors", "families", "files", "links", "spec"},
    "diagnosis": {"causes", "errors", "families", "files", "links", "spec", "planning"},  # planning for nn.Modules only
    "restating": {"errors", "links", "spec"},
    "translation": {"errors", "families", "files", "links", "restating", "spec"},
    "saved": {"errors", "spec"},
    "conversion": {"errors", "families", "files", "links", "restating", "saved", "spec", "translation"},
    "ops": {"spec", "ops", "torchvision_ops"},
    "backbones": {"errors", "mobilenet_v3", "spec", "ops"},
    "heads": {"backbones", "spec", "ops"},
}


def imported(path: Path) -> set[str]:
    """The parts of maskgraft that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "maskgraft":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("maskgraft.")}
    return found


def modules(part: str) -> list[Path]:
    folder = SOURCE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{part}.py"]


def test_imports_run_one_way() -> None:
    faults = [
        f"{path.relative_to(SOURCE)} imports {other}"
        for part, allowed in MAY_IMPORT.items()
        for path in modules(part)
        for other in sorted(imported(path) - allowed - {part})
    ]
    assert not faults, "\n".join(faults)


def test_the_file_side_imports_no_torch() -> None:
    lines = "\n".join(f"import maskgraft.{part}" for part in sorted(FILE_SIDE))
    code = f"import sys\n{lines}\nprint([name for name in ('torch', 'torchvision') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    assert maskgraft.__all__ == [
        "Arch",
        "CheckpointError",
        "DataError",
        "DataReport",
        "Dataset",
        "Detections",
        "Examination",
        "Finding",
        "MaskRCNN",
        "MaskgraftError",
        "Numerics",
        "Plan",
        "Recipe",
        "Report",
        "Spec",
        "Tensors",
        "UsageError",
        "anchor_coverage",
        "check_data",
        "complete_labels",
        "convert",
        "convert_data",
        "diagnose",
        "doctor",
        "evaluate",
        "export",
        "fit_anchors",
        "load",
        "open",
        "plan",
        "preview_augmented",
        "probe",
        "read_coco",
        "read_plan",
        "report",
        "retention",
        "save",
        "shortfall",
        "split_data",
        "train",
    ]
    for name in maskgraft.__all__:
        assert callable(getattr(maskgraft, name)), name


def test_every_module_is_small_enough_to_hold_one_idea() -> None:
    long = {str(path.relative_to(SOURCE)): lines for path in SOURCE.rglob("*.py") if (lines := count(path)) > 520}
    assert not long


def count(path: Path) -> int:
    return len(path.read_text().splitlines())
