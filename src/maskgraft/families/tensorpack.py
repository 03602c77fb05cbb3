"""Tensorpack's `examples/FasterRCNN`: `.npz` of its model zoo, and its TensorFlow checkpoints; pyramid and C4."""

from collections.abc import Iterator, Mapping
from typing import Any

from maskgraft.families.family import Config, Family, Reading, count, learned, shape, unsupported
from maskgraft.families.tensorpack_config import C4 as C4
from maskgraft.families.tensorpack_config import FROM_CONFIG, classes_of, numerics_of
from maskgraft.families.tensorpack_config import NUMERICS as NUMERICS
from maskgraft.files import Tensors
from maskgraft.links import Link, Step, Transpose, background_last
from maskgraft.spec import Arch, NormKind, Spec

ERAS = (":0", "")  # what follows a name: zoo files since 2020 keep TensorFlow's output number, older ones do not

_KERNEL = Transpose((3, 2, 0, 1))  # height, width, in, out; of a transposed convolution height, width, out, in
_DENSE = Transpose((1, 0))
_OF_TRAINING = ("global_step", "learning_rate", "AccumGrad/counter")
_AFFINE = {"weight": "gamma", "bias": "beta"}
_STATISTICS = {"running_mean": "mean/EMA", "running_var": "variance/EMA"}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Tensorpack file, and of the `config.py` that is given with it."""
    names = tensors.arrays
    era = ":0" if "conv0/W:0" in names else ""
    if f"cascade_rcnn_stage1/box/W{era}" in names or f"cascade_rcnn_stage1/outputs/box/W{era}" in names:
        raise unsupported(tensors, "Tensorpack", "cascade heads")
    if f"maskrcnn/conv/W{era}" not in names:
        raise unsupported(tensors, "Tensorpack", "no mask head (Faster R-CNN)")
    arch = _arch(tensors, era)
    how = learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    numerics, more, findings = numerics_of(tensors, arch, config, FAMILY.title)
    classes, how["classes"] = classes_of(arch, config)
    spec = Spec(family="tensorpack", arch=arch, numerics=numerics, classes=classes, learned=how | more)
    return Reading(spec, era, tuple(findings))


def _arch(tensors: Tensors, era: str) -> Arch:
    names: Mapping[str, Any] = tensors.arrays
    fpn = f"fpn/lateral_1x1_c2/W{era}" in names
    outputs = _outputs(fpn)
    box_convs = count(names, f"fastrcnn/conv{{}}/W{era}")
    classes = shape(tensors, f"{outputs}/class/W{era}")[1] - 1
    width = shape(tensors, f"{outputs}/class/W{era}")[0]
    box_rows = shape(tensors, f"{outputs}/box/W{era}")[1] // 4
    return Arch(
        classes=classes,
        blocks=tuple(count(names, f"group{group}/block{{}}/conv1/W{era}") for group in range(4)),
        stem_width=shape(tensors, f"conv0/W{era}")[3],
        width_per_group=shape(tensors, f"group0/block0/conv1/W{era}")[3],
        norm=_norm(names, f"conv0/gn/gamma{era}", f"conv0/bn/gamma{era}"),
        neck="fpn" if fpn else "c4",
        neck_channels=shape(tensors, f"fpn/lateral_1x1_c2/W{era}")[3] if fpn else 256,
        neck_norm=_norm(names, f"fpn/gn_c2/gamma{era}"),
        head_bias=True,
        rpn_channels=shape(tensors, f"rpn/conv0/W{era}")[3],
        anchors_per_cell=shape(tensors, f"rpn/class/W{era}")[3],
        box_head="fc" if fpn else "res5",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, f"fastrcnn/conv0/W{era}")[3] if box_convs else 256,
        box_norm=_norm(names, f"fastrcnn/gn0/gamma{era}"),
        box_fcs=1 if box_convs else 2,
        box_fc_width=width if fpn else 1024,
        box_rows="agnostic" if box_rows == 1 and classes > 1 else "with-background",
        mask_convs=count(names, f"maskrcnn/fcn{{}}/W{era}"),
        mask_channels=shape(tensors, f"maskrcnn/deconv/W{era}")[2],
        mask_norm=_norm(names, f"maskrcnn/gn0/gamma{era}"),
    )


def _norm(names: Mapping[str, Any], group: str, batch: str = "") -> NormKind:
    if group in names:
        return "group"
    return "frozen" if batch in names else "none"


def _outputs(fpn: bool) -> str:
    return "fastrcnn/outputs" if fpn else "fastrcnn"


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in names that end in `era`."""
    arch = spec.arch

    def layer(
        ours: str, theirs: str, *, weight: tuple[Step, ...] = (_KERNEL,), rows: tuple[Step, ...] = (), bias: bool = True
    ) -> Iterator[Link]:
        yield Link(f"{ours}.weight", f"{theirs}/W{era}", (*weight, *rows))
        if bias:
            yield Link(f"{ours}.bias", f"{theirs}/b{era}", rows)

    def norm(ours: str, theirs: str, kind: NormKind) -> Iterator[Link]:
        for mine, name in {**_AFFINE, **({} if kind == "group" else _STATISTICS)}.items() if kind != "none" else ():
            yield Link(f"{ours}.norm.{mine}", f"{theirs}/{name}{era}")

    def conv_norm(ours: str, theirs: str) -> Iterator[Link]:
        yield from layer(f"{ours}.conv", theirs, bias=False)
        yield from norm(ours, f"{theirs}/{'gn' if arch.norm == 'group' else 'bn'}", arch.norm)

    yield from conv_norm("backbone.stem", "conv0")
    for stage, blocks in enumerate(arch.blocks, 2):
        place = "box_head" if stage == 5 and arch.neck == "c4" else "backbone"
        for index in range(blocks):
            ours, theirs = f"{place}.res{stage}.{index}", f"group{stage - 2}/block{index}"
            for number in (1, 2, 3):
                yield from conv_norm(f"{ours}.conv{number}", f"{theirs}/conv{number}")
            if index == 0:
                yield from conv_norm(f"{ours}.shortcut", f"{theirs}/convshortcut")
    if arch.neck == "fpn":
        for level in (2, 3, 4, 5):
            yield from layer(f"fpn.lateral{level}.conv", f"fpn/lateral_1x1_c{level}")
            yield from norm(f"fpn.lateral{level}", f"fpn/gn_c{level}", arch.neck_norm)
            yield from layer(f"fpn.output{level}.conv", f"fpn/posthoc_3x3_p{level}")
            yield from norm(f"fpn.output{level}", f"fpn/gn_p{level}", arch.neck_norm)
    for ours, theirs in (("convs.0", "conv0"), ("objectness", "class"), ("deltas", "box")):
        yield from layer(f"rpn.{ours}", f"rpn/{theirs}")
    for index in range(arch.box_convs):
        yield from layer(f"box_head.convs.{index}.conv", f"fastrcnn/conv{index}")
        yield from norm(f"box_head.convs.{index}", f"fastrcnn/gn{index}", arch.box_norm)
    if arch.box_head == "fc":
        for index, theirs in enumerate(("fc",) if arch.box_convs else ("fc6", "fc7")):
            yield from layer(f"box_head.fcs.{index}", f"fastrcnn/{theirs}", weight=(_DENSE,))
    outputs, rows = _outputs(arch.neck == "fpn"), arch.classes + 1
    quads = () if arch.box_rows == "agnostic" else (background_last(4 * rows, 4),)
    yield from layer("box_predictor.cls", f"{outputs}/class", weight=(_DENSE,), rows=(background_last(rows),))
    yield from layer("box_predictor.deltas", f"{outputs}/box", weight=(_DENSE,), rows=quads)
    for index in range(arch.mask_convs):
        yield from layer(f"mask_head.convs.{index}.conv", f"maskrcnn/fcn{index}")
        yield from norm(f"mask_head.convs.{index}", f"maskrcnn/gn{index}", arch.mask_norm)
    yield from layer("mask_head.upsample", "maskrcnn/deconv")
    yield from layer("mask_predictor.logits", "maskrcnn/conv")


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    of_training = name.split(":")[0] in _OF_TRAINING or name.startswith("EMA/")  # means of what it logged
    return "of the training, not of the model" if of_training else ""


def _landmarks(era: str) -> tuple[str, ...]:
    layers = ("conv0", "group0/block0/convshortcut", "rpn/conv0", "rpn/class", "maskrcnn/deconv", "maskrcnn/conv")
    return tuple(f"{layer}/W{era}" for layer in layers)


FAMILY = Family(
    name="tensorpack",
    title="Tensorpack",
    landmarks=_landmarks(":0"),
    older_landmarks=(_landmarks(""),),
    read=read,
    links=links,
    ignored=ignored,
    eras=ERAS,
    settings=FROM_CONFIG,
)
