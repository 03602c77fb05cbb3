"""Objects that a network knows, and that nobody has annotated."""

import torch

from maskgraft.coco import Dataset, truth
from maskgraft.errors import DataError, Finding
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops

_SURE = 0.5  # score from which a detection is taken for an object
_APART = 0.3  # overlap with every annotation below which it is another object
_FEW, _MANY = 8, 0.35  # of such objects, and as a share of the annotated ones that are found as surely


def examine(model: MaskRCNN, data: Dataset, *, images: int) -> list[Finding]:
    """Whether a network that knows the classes finds surely what has no annotation, on the first `images` images."""
    found, extra, places = 0, 0, []
    for record in data.trainable()[:images]:
        try:
            seen = model.predict([record.load()])[0].above(_SURE)
        except DataError:
            continue  # told by the check of the data
        crowds = [one.box for one in record.annotations if one.crowd]
        boxes = torch.cat(
            (torch.from_numpy(truth(record).boxes), torch.tensor(crowds, dtype=torch.float32).view(-1, 4))
        )
        overlap = box_ops.iou(seen.boxes.float(), boxes)
        nearest = overlap.amax(1) if overlap.shape[1] else overlap.new_zeros(len(overlap))
        found += int((nearest >= 0.5).sum())
        alone = int((nearest < _APART).sum())
        extra += alone
        places += [f"{record.path.name} ({alone})"] if alone else []
    if extra < _FEW or extra < _MANY * found:
        return []
    return [
        Finding(
            "train.unlabelled",
            "warning",
            f"the network finds {extra} objects with a score of {_SURE:g} and more where {data.path} has no "
            f"annotation, beside {found} that are annotated, on {images} images: {', '.join(places[:5])}",
            names=tuple(places),
            evidence={"without": extra, "with": found, "images": images},
            effect="what is not annotated is taught as background: scores fall, and objects are missed",
            fix="look at these images: `maskgraft data show`; annotate all objects of a class, or cover crowds with "
            "iscrowd=1",
        )
    ]
