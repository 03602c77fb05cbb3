"""Golden cases as tests read them, and what differs between a model and what its home framework computed."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskgraft as mg
from maskgraft.cutouts import Cutouts
from maskgraft.detections import Detections
from maskgraft.model import MaskRCNN
from maskgraft.ops.boxes import iou
from maskgraft.preprocess import prepare, stack
from maskgraft.targets import Batch, Target
from tests.golden.views import VIEWS

FOLDER = Path(__file__).parent
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    about: dict[str, Any]
    golden: dict[str, np.ndarray]

    @property
    def config(self) -> Path | None:
        return self.folder / self.about["config"] if self.about["config"] else None

    def regions(self, which: str) -> torch.Tensor | None:
        """The "rois" or "proposals" of the case, xyxy in pixels of the network's input; `None` where it stores none.

        Fractions become float64, so that the home framework's own float32 comes back from them; "corner" fractions
        run from the first pixel to the last.
        """
        about = self.about.get("regions", {"rois": "rois", "proposals": "proposals.boxes", "coordinates": "xy"})
        if about[which] not in self.golden:
            return None
        boxes = self.golden[about[which]].reshape(-1, 4)
        if about["coordinates"] != "xy" or about[which].endswith("_yxyx"):
            boxes = boxes[:, [1, 0, 3, 2]]
        if "fractions" in about["coordinates"]:
            height, width = self.about["stages"]["input"]["shape"][-3:-1]
            less = "corner" in about["coordinates"]
            boxes = boxes.astype(np.float64) * ((width - less, height - less) * 2)
        return torch.from_numpy(boxes)

    def load(self, file: str, **numerics: Any) -> MaskRCNN:
        return mg.load(
            self.folder / file, config=self.config, numerics={**(self.about["numerics"] or {}), **numerics} or None
        )


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Case]:
    """The case `name`, its files laid out in `folder` as a user would have them."""
    source = FOLDER / name
    with tarfile.open(source / "checkpoint.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    about = json.loads((source / "case.json").read_text())
    if about["config"] and (source / about["config"]).exists():
        shutil.copy(source / about["config"], folder)
    with np.load(source / "golden.npz") as golden:
        yield Case(name, folder, about, dict(golden))
    shutil.rmtree(folder)


def stage_fault(case: Case, name: str, stage: torch.Tensor) -> str:
    """By how much a stage of `trace` differs from the golden one, or "" where it does not."""
    info = case.about["stages"][name]
    ours = VIEWS[info["view"]](stage.numpy())
    if info["classes"] is not None:
        ours = ours[:, info["classes"]]
    if list(ours.shape) != info["shape"]:
        return f"{name}: shape {list(ours.shape)}, golden {info['shape']}"
    difference = np.abs(ours.reshape(-1)[:: info["step"]] - case.golden[f"stage/{name}"]).max()
    if difference <= info["allowed"]:
        return ""
    return f"{name}: differs by {difference:.3g}, allowed are {info['allowed']:.3g}"


def lonely_proposals(case: Case, proposals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Golden proposals without a twin within 0.05 pixels, and ours that are left over; their order is free."""
    stored = case.regions("proposals")
    assert stored is not None
    assert proposals.shape == stored.shape
    ours, free, alone = proposals.numpy(), set(range(len(proposals))), []
    for index, box in enumerate(stored.numpy()):
        near = min(free, key=lambda other: np.abs(ours[other] - box).max())
        if np.abs(ours[near] - box).max() < 0.05:
            free.remove(near)
        else:
            alone.append(index)
    return stored[alone], proposals[sorted(free)]


def detection_faults(case: Case, found: Detections, model: MaskRCNN) -> list[str]:
    """Golden detections without a twin, if they are more than the case has to spare.

    Cases of which crops at the knife edge of float32 decide (`spare`, see the TensorFlow kernels) may lack that share:
    there the last bit of a box decides whether its features, or its mask, have a last row; and where a box is cut to
    whole pixels, whether its mask lies one pixel further.
    """
    spare = int(case.about["detections"].get("spare", 0) * len(case.golden[case.about["detections"]["scores"]]))
    alone = lonely(case, found, model)
    return alone if len(alone) > spare else []


def lonely(case: Case, found: Detections, model: MaskRCNN) -> list[str]:
    """Golden detections that have no twin of the same label, box, score and mask; and one line for each too many."""
    about, golden = case.about["detections"], case.golden
    columns = [1, 0, 3, 2] if about["order"] == "yxyx" else [0, 1, 2, 3]
    boxes = torch.from_numpy(golden[about["boxes"]].astype(np.float32)[:, columns])
    least = 0.95 if np.issubdtype(golden[about["boxes"]].dtype, np.integer) else 0.99
    scores, labels = golden[about["scores"]], golden[about["labels"]] - about["first_label"]
    height, width = golden["image"].shape[:2]
    bits = np.unpackbits(golden[about["masks"]], axis=1)[:, : height * width]
    masks = bits.reshape(-1, height, width).astype(bool)
    overlaps, taken, alone = iou(boxes, found.boxes), set(), []
    allowed = max(1e-4, 5 * about["score_noise"])
    for index in range(len(scores)):
        twins = [
            twin
            for twin in range(len(found))
            if twin not in taken
            and found.labels[twin] == labels[index]
            and overlaps[index, twin] >= least
            and abs(found.scores[twin] - scores[index]) < allowed
        ]
        if not twins:
            alone.append(f"detection {index}: label {labels[index]}, score {scores[index]:.3f}, has no twin")
            continue
        twin = max(twins, key=lambda other: overlaps[index, other])
        taken.add(twin)
        ours = found.masks[twin].numpy()
        union = (masks[index] | ours).sum()
        least_mask = 0.9 if on_a_pixel_edge(found.boxes[twin], model) else 0.98
        if union >= 50 and (masks[index] & ours).sum() / union <= least_mask:
            alone.append(f"detection {index}: mask")
    alone += [f"{len(found)} detections, golden {len(scores)}"] * max(len(found) - len(scores), 0)
    return alone


def on_a_pixel_edge(box: torch.Tensor, model: MaskRCNN) -> bool:
    """Whether float noise decides to which whole pixels a box is cut, so that its mask may lie one pixel further.

    The grown box is cut to integers. The home frameworks' own masks move so between one thread and two
    (torchvision-r50fpn: 368 pixels); their boxes differ by up to 0.013 pixels then.
    """
    if model.spec.numerics.mask_paste != "integer-box":
        return False
    side = 2 * model.spec.numerics.mask_pool_size
    grown = (box[2:] - box[:2]) / 2 * (side + 2) / side
    edges = torch.cat(((box[2:] + box[:2]) / 2 - grown, (box[2:] + box[:2]) / 2 + grown))
    return bool(((edges - edges.round()).abs() < 0.02).any())


def batch_of(case: Case, model: MaskRCNN) -> Batch:
    """The golden training step's image and truth."""
    truth, image = case.about["losses"]["truth"], case.golden["image"]
    height, width = image.shape[:2]
    prepared = prepare(image, model.spec.numerics)
    scale = np.array((prepared.size[1] / width, prepared.size[0] / height))
    polygons = truth.get("polygons_original", truth.get("polygons"))
    masks = np.zeros((len(truth["labels"]), height, width), np.bool_)
    if "gt_masks_packed" in case.golden:
        packed = case.golden["gt_masks_packed"]
        at = (height, width) if packed.shape[1] == -(-height * width // 8) else prepared.size
        bits = np.unpackbits(packed, axis=1)[:, : at[0] * at[1]]
        masks = bits.reshape(-1, *at).astype(bool)
    target = Target(
        boxes=prepared.to_network(torch.tensor(truth["boxes_xyxy_original"])),
        labels=torch.tensor(truth["labels"]) - case.about["detections"]["first_label"],
        masks=Cutouts.of(masks).resized(prepared.size),
        polygons=tuple(((np.array(part).reshape(-1, 2) * scale).ravel(),) for part in polygons),
    )
    return Batch(stack([prepared], model.spec.numerics.pad_multiple), (prepared.size,), (target,))


def step_numerics(case: Case, model: MaskRCNN) -> dict[str, Any]:
    """What the golden training step was made with: every sample, and mostly as many proposals as in evaluation."""
    samples = case.about["losses"]["samples"]
    numerics = {"rpn_samples": samples, "roi_samples": samples}
    if case.about["family"] == "torchvision":
        return numerics
    kept = model.spec.numerics
    return numerics | {"rpn_pre_nms_train": kept.rpn_pre_nms, "rpn_post_nms_train": kept.rpn_post_nms}
