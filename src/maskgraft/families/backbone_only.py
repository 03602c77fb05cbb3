"""What files of a backbone have in common: all of the detector that they do not hold is taken from Detectron2."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.family import Reading, conv_links, learned, norm_links
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

# Everything that is not the backbone's, as in Detectron2's configs of models with a pyramid.
HEADS: Mapping[str, Any] = {
    "resize": "pil",
    "normalise_first": False,
    "size_rounding": "round",
    "anchor_order": "size",
    "anchor_rounding": False,
    "anchor_stride": "nominal",
    "rpn_rank": "logit",
    "rpn_min_size": 0.0,
    "level_epsilon": "inside",
    "roi_aligned": True,
    "roi_sampling": 2,
    "box_min_size": 0.0,
    "mask_paste": "grid-sample",
    "rpn_normaliser": "samples",
    "rpn_beta": 0.0,
    "box_beta": 0.0,
    "mask_targets": "bitmap",
}


def reading(
    tensors: Tensors,
    family: str,
    arch: Arch,
    backbone: Mapping[str, Any],
    *,
    implied: str,
    told: Mapping[str, Learned] | None = None,
    era: str = "",
    findings: Sequence[Finding] = (),
) -> Reading:
    """The `Spec` of a detector of one class on the backbone that a file holds.

    `backbone` are the conventions under which it was trained; they are `implied` by that, but for those that `told`
    says otherwise of. Norms are frozen, as detectors keep those of an ImageNet backbone.
    """
    body = ("backbone", "block", "blocks", "stem", "stem_width", "groups", "width_per_group", "conv_bias")
    spec = Spec(
        family=family,
        arch=arch,
        numerics=Numerics(**HEADS, **backbone),
        classes=("object",),
        learned={
            **learned(
                "the file holds a backbone only; as in Detectron2",
                "assumed",
                [
                    *(f"arch.{name}" for name in Arch.__dataclass_fields__),
                    *(f"numerics.{name}" for name in NUMERICS_FIELDS),
                    "classes",
                ],
            ),
            **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in body]),
            **learned(implied, "implied", [f"numerics.{name}" for name in backbone]),
            "arch.norm": Learned("assumed", "norms of an ImageNet backbone are frozen"),
            **(told or {}),
        },
    )
    finding = Finding(
        "family.backbone-only",
        "info",
        f"{tensors.path.name} holds a backbone trained to classify images, and no detector",
        effect="pyramid, proposal network and heads start from nothing and must be trained",
    )
    return Reading(spec, era, (finding, *findings))


def resnet_parts(arch: Arch) -> Iterator[tuple[str, int, int, str]]:
    """The convolutions of a ResNet behind its stem: our name, stage (2..5), block, and "conv1" … or "shortcut"."""
    convs = ("conv1", "conv2", "conv3") if arch.block == "bottleneck" else ("conv1", "conv2")
    for stage, blocks in enumerate(arch.blocks, 2):
        for block in range(blocks):
            widens = block == 0 and (stage > 2 or arch.block == "bottleneck")
            for part in (*convs, "shortcut") if widens else convs:
                yield f"backbone.res{stage}.{block}.{part}", stage, block, part


def torch_pair(ours: str, conv: str, norm: str, arch: Arch) -> Iterator[Link]:
    """A convolution and its norm under PyTorch's names for their tensors."""
    yield from conv_links(f"{ours}.conv", conv, bias=False)
    yield from norm_links(f"{ours}.norm", norm, arch.norm)
