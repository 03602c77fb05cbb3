"""ResNet-50, -101 and -152 of keras.applications, trained on ImageNet: a backbone only.

Three tables of names: the layers' own (Keras 2 `.h5`, and what Keras 3 writes as `.h5`), Keras 3's, which count the
layers of each kind, and those of a TensorFlow checkpoint, which count the layers that have weights.

Conventions: keras 2.8 and 3 `applications/resnet.py` and `imagenet_utils.py` ("caffe" mode).
"""

from collections.abc import Iterator

from maskgraft.families.backbone_only import reading
from maskgraft.families.family import Config, Family, Reading, shape, unsupported
from maskgraft.families.imagenet_resnet import CAFFE
from maskgraft.files import Tensors
from maskgraft.links import Link, Transpose
from maskgraft.spec import Arch, Spec

ERAS = ("keras-2", "keras-2-bare", "keras-3", "tensorflow")

_KERNEL = Transpose((3, 2, 0, 1))
# Each tensor of ours, its name in Keras, and its number among the variables of its layer.
_CONV = (("conv.weight", "kernel", 0), ("conv.bias", "bias", 1))
_NORM = (
    ("norm.weight", "gamma", 0),
    ("norm.bias", "beta", 1),
    ("norm.running_mean", "moving_mean", 2),
    ("norm.running_var", "moving_variance", 3),
)
# The order in which Keras lists the layers of a block that has a shortcut: by their distance from the output.
_FIRST_BLOCK = (
    *(("conv1", "conv"), ("conv1", "norm"), ("conv2", "conv"), ("conv2", "norm")),
    *(("shortcut", "conv"), ("conv3", "conv"), ("shortcut", "norm"), ("conv3", "norm")),
)
_OTHER_BLOCKS = tuple((part, kind) for part in ("conv1", "conv2", "conv3") for kind in ("conv", "norm"))
_NUMBER = {"shortcut": 0, "conv1": 1, "conv2": 2, "conv3": 3}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a detector on this backbone; `config` is not looked at."""
    era = _era(tensors)
    kernel = _tensors("conv1_conv", "conv", 0, 0, era=era)[0][1]
    if shape(tensors, kernel) != (7, 7, 3, 64):
        raise unsupported(tensors, "keras.applications", "a network that is not a ResNet")
    blocks = _blocks(tensors, era)
    arch = Arch(classes=1, blocks=blocks, stem_bias=True, conv_bias=True, norm="frozen")
    conventions = {**CAFFE, "pixel_mean": (103.939, 116.779, 123.68), "norm_eps": 1.001e-5}
    return reading(
        tensors, "keras-applications", arch, conventions, implied="keras.applications' ResNet (caffe mode)", era=era
    )


def _era(tensors: Tensors) -> str:
    if "layers/conv2d/vars/0" in tensors:
        return "keras-3"
    if "layer_with_weights-0/kernel" in tensors:
        return "tensorflow"
    return "keras-2" if "conv1_conv/conv1_conv/kernel:0" in tensors else "keras-2-bare"


def _blocks(tensors: Tensors, era: str) -> tuple[int, int, int, int]:
    """How many blocks each stage has; ResNet-50, -101 and -152 differ in the third and in the second."""
    for blocks in ((3, 8, 36, 3), (3, 4, 23, 3), (3, 4, 6, 3)):
        if all(_tensors(*layer, era=era)[0][1] in tensors for _, layer in _layers(blocks)):
            return blocks
    raise unsupported(tensors, "keras.applications", "a ResNet of another depth than 50, 101 or 152")


def _layers(blocks: tuple[int, ...]) -> Iterator[tuple[str, tuple[str, str, int, int]]]:
    """Every layer with weights, in Keras's order: our name, and its name, kind, number of its kind, and number."""
    yield "backbone.stem", ("conv1_conv", "conv", 0, 0)
    yield "backbone.stem", ("conv1_bn", "norm", 0, 1)
    seen = {"conv": 1, "norm": 1}
    for stage, count in enumerate(blocks, 2):
        for block in range(count):
            for part, kind in _FIRST_BLOCK if block == 0 else _OTHER_BLOCKS:
                name = f"conv{stage}_block{block + 1}_{_NUMBER[part]}_{'conv' if kind == 'conv' else 'bn'}"
                yield f"backbone.res{stage}.{block}.{part}", (name, kind, seen[kind], seen["conv"] + seen["norm"])
                seen[kind] += 1


def _tensors(name: str, kind: str, of_kind: int, number: int, *, era: str) -> list[tuple[str, str]]:
    """The tensors of a layer: the end of our name, and theirs."""
    variables = _CONV if kind == "conv" else _NORM
    if era == "keras-3":
        group = ("conv2d" if kind == "conv" else "batch_normalization") + (f"_{of_kind}" if of_kind else "")
        return [(ours, f"layers/{group}/vars/{index}") for ours, _, index in variables]
    if era == "tensorflow":
        return [(ours, f"layer_with_weights-{number}/{theirs}") for ours, theirs, _ in variables]
    colon = ":0" if era == "keras-2" else ""
    return [(ours, f"{name}/{name}/{theirs}{colon}") for ours, theirs, _ in variables]


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in the names of `era`."""
    for ours, layer in _layers(spec.arch.blocks):
        for end, theirs in _tensors(*layer, era=era):
            yield Link(f"{ours}.{end}", theirs, (_KERNEL,) if end == "conv.weight" else ())


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    if name.startswith(("predictions/", "layers/dense/", "probs/", "fc1000/")):
        return "ImageNet classifier"
    return ""


FAMILY = Family(
    name="keras-applications",
    title="ResNet (ImageNet; keras.applications)",
    landmarks=(
        "conv1_conv/conv1_conv/kernel:0",
        "conv2_block1_0_bn/conv2_block1_0_bn/gamma:0",
        "conv5_block3_3_conv/conv5_block3_3_conv/kernel:0",
    ),
    older_landmarks=(
        ("layers/conv2d/vars/0", "layers/conv2d_52/vars/1", "layers/batch_normalization_52/vars/3"),
        ("conv1_conv/conv1_conv/kernel", "conv2_block1_0_bn/conv2_block1_0_bn/gamma", "conv1_bn/conv1_bn/beta"),
        (
            # counted layers are anybody's; in the first block two convolutions and then two norms follow each other
            *(f"layer_with_weights-{number}/bias" for number in (0, 2, 4, 6, 7)),
            *(f"layer_with_weights-{number}/moving_variance" for number in (1, 3, 5, 8, 9, 105)),
        ),
    ),
    read=read,
    links=links,
    ignored=ignored,
    eras=ERAS,
    whole=False,
    read_config=None,
)
