"""The made-up step as maskgraft takes it: the model's own, but for what its networks say."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskgraft.cutouts import Cutouts
from maskgraft.families.class_names import numbered
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN
from maskgraft.spec import Arch, Numerics, Spec
from maskgraft.targets import Batch, Target
from tests.golden.steps import made_up

FOLDER = Path(__file__).parent
_SMALL: dict[str, Any] = {
    "block": "basic",
    "blocks": (1, 1, 1, 1),
    "stem_width": 64,
    "neck_channels": 32,
    "rpn_channels": 32,
    "box_fc_width": 32,
    "mask_convs": 1,
    "mask_channels": 32,
}


@dataclass(frozen=True)
class Golden:
    """A home framework's step: its losses by name, and their slopes."""

    losses: dict[str, float]
    slopes: dict[str, np.ndarray]
    regions: np.ndarray

    @classmethod
    def read(cls, name: str, scene: str) -> "Golden":
        start = f"{scene}.slopes."
        with np.load(FOLDER / f"{name}.npz") as file:
            slopes = {key.removeprefix(start): file[key] for key in file if key.startswith(start)}
            losses = file[f"{scene}.losses"].tolist()
            return cls(dict(zip(LOSSES, losses, strict=True)), slopes, file[f"{scene}.regions"])


class _Said(nn.Module):
    """What a network says, whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *given: Any) -> Any:
        return self.answer(*given)


@dataclass(frozen=True)
class Step:
    """The model and the truth of a made-up step, and what the proposal network says of all anchors of each image."""

    model: MaskRCNN
    batch: Batch
    said: tuple[Tensor, Tensor]
    regions: list[Tensor]

    def losses(self, numerics: Mapping[str, Any] | None = None) -> dict[str, float]:
        """The five losses, with some conventions changed."""
        return {name: loss.item() for name, loss in self._run(numerics or {})[0].items()}

    def slopes(self) -> dict[str, np.ndarray]:
        """Of the sum of the losses: by the proposal network's logits and deltas, and by the three heads' scales."""
        found, given = self._run({})
        by = torch.autograd.grad(torch.stack(list(found.values())).sum(), given, materialize_grads=True)
        logits, deltas = (one.flatten(0, 1).numpy()[:: made_up.STEP] for one in by[:2])
        return {"logits": logits, "deltas": deltas, "heads": torch.stack(by[2:]).numpy()}

    def _run(self, numerics: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
        model = self.model
        plain = model.spec
        model.spec = plain.with_numerics(numerics)
        self.regions.clear()
        try:
            with first_drawn():
                given = self._say(model)
                return model(self.batch), given
        finally:
            model.spec = plain

    def _say(self, model: MaskRCNN) -> list[Tensor]:
        """Give the model its answers; returns what the losses are to be differentiated by."""
        padded = self.batch.pixels.shape[2], self.batch.pixels.shape[3]
        images = len(self.batch.sizes)
        maps = empty_maps(model, padded, images)
        model.features = lambda pixels: maps  # type: ignore[method-assign]
        logits, deltas = (one.clone().requires_grad_() for one in self.said)
        scales = [torch.ones((), requires_grad=True) for _ in range(3)]
        parts = [len(one) for one in model.anchors(maps, padded)]

        def proposals(map_: Tensor, level: int) -> tuple[Tensor, Tensor]:
            rows, columns = map_.shape[-2:]
            return (
                logits.split(parts, 1)[level].reshape(images, rows, columns, -1).permute(0, 3, 1, 2),
                deltas.split(parts, 1)[level].reshape(images, rows, columns, -1).permute(0, 3, 1, 2),
            )

        def heads(boxes: Tensor) -> tuple[Tensor, Tensor]:
            self.regions.append(boxes)
            classes = torch.from_numpy(made_up.class_logits(boxes.numpy())).float()
            moves = torch.from_numpy(made_up.box_deltas(boxes.numpy())).float().flatten(1)
            return scales[0] * classes, scales[1] * moves

        def masks(maps: Any, boxes: list[Tensor], padded: Any, *, labels: Tensor) -> Tensor:
            side = model.spec.numerics.mask_size if model.spec.arch.mask_upsample == "resize" else self.side
            every = torch.from_numpy(made_up.mask_logits(torch.cat(boxes).numpy(), side)).float()
            return scales[2] * every[torch.arange(len(labels)), labels][:, None]

        model.rpn = _Said(proposals)  # type: ignore[assignment]
        model.pool = lambda maps, boxes, size, padded: torch.cat(boxes)  # type: ignore[method-assign]
        model.box_head = _Said(lambda boxes: boxes)  # type: ignore[assignment]
        model.box_predictor = _Said(heads)  # type: ignore[assignment]
        model.mask_logits = masks  # type: ignore[method-assign]
        return [logits, deltas, *scales]

    @property
    def side(self) -> int:
        """Of a mask that is made by a transposed convolution."""
        return self.model.spec.numerics.mask_pool_size * 2 if self.model.spec.arch.box_head == "fc" else 14


def empty_maps(model: MaskRCNN, padded: tuple[int, int], images: int = 1) -> dict[str, Tensor]:
    """Maps of nothing, as large as those of the made-up images."""
    names = ("p2", "p3", "p4", "p5", "p6") if model.spec.arch.neck == "fpn" else ("c4",)
    return {name: torch.zeros(images, 1, *(-(-side // model.stride(name)) for side in padded)) for name in names}


def step(
    family: str,
    scenes: Sequence[str],
    numerics: Numerics,
    *,
    spread: float,
    arch: Mapping[str, Any],
    scale: float = 1.0,
) -> Step:
    """A step of a family on made-up scenes of one size, with its conventions as they are, enlarged by `scale`."""
    size = made_up.SCENES[scenes[0]][:2]
    padded = made_up.PAGES.get(scenes[0], size)
    spec = Spec(
        family=family,
        arch=Arch(classes=made_up.CLASSES, box_rows="foreground", **{**_SMALL, **arch}),
        numerics=numerics,
        classes=numbered(made_up.CLASSES),
    )
    model = MaskRCNN(spec).train()
    anchors = torch.cat(model.anchors(empty_maps(model, padded), padded)).numpy() + np.array(
        (0, 0, numerics.corner_boxes, numerics.corner_boxes), np.float32
    )
    said = zip(*(made_up.proposal_outputs(anchors, spread, scene) for scene in scenes), strict=True)
    logits, deltas = (torch.from_numpy(np.stack(one)) for one in said)
    batch = Batch(
        torch.zeros(len(scenes), 3, *padded),
        (size,) * len(scenes),
        tuple(_target(scene, numerics, scale) for scene in scenes),
        scales=(scale,) * len(scenes),
    )
    return Step(model, batch, (logits, deltas), [])


def _target(scene: str, numerics: Numerics, scale: float) -> Target:
    """The truth of a family whose coordinates run from pixel to pixel, or whose boxes hold their last pixel, ends with
    it: that of the photograph, which was enlarged by `scale`."""
    boxes, labels, masks, polygons = made_up.truth(scene)
    last = np.array((0, 0, scale, scale)) * (numerics.corner_boxes or numerics.inclusive_areas)
    return Target(
        torch.from_numpy((boxes - last).astype(np.float32)),
        torch.from_numpy(labels),
        Cutouts.of(masks),
        tuple((one.reshape(-1).astype(np.float64),) for one in polygons),
    )


@contextmanager
def first_drawn() -> Iterator[None]:
    """A draw takes the first that there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
        yield


def faults(golden: Golden, found: Mapping[str, float], allowed: float = 2e-5) -> list[str]:
    """Losses that leave the golden ones by more than float32's rounding."""
    return [
        f"{name}: {found[name]:.7g}, golden {wanted:.7g}"
        for name, wanted in golden.losses.items()
        if not abs(found[name] - wanted) <= allowed * abs(wanted)
    ]
