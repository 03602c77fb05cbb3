"""ResNet-50, -101 and -152 of keras.applications, trained on ImageNet: a backbone only.

Tables of names: the layers' own (Keras 2 `.h5`, and what Keras 3 writes as `.h5`), Keras 3's, which count the layers
of each kind, and those of a TensorFlow checkpoint, which count the layers that have weights. And those of ResNet-50 as
it was until 2018 (`resnet50_weights_tf_dim_ordering_tf_kernels.h5`): by Keras 1, which wrote the file, or Keras 2.

Conventions: keras 2.8 and 3 `applications/resnet.py` and `imagenet_utils.py` ("caffe" mode); of the older ResNet-50
keras_applications 1.0.6 `resnet50.py`, whose norms have the eps of the layer. Keras 1 calls a variance
`running_std`.
"""

from collections.abc import Iterator
from string import ascii_lowercase

from maskgraft.errors import CheckpointError
from maskgraft.families.backbone_only import reading
from maskgraft.families.family import Config, Family, Reading, shape, unsupported
from maskgraft.families.imagenet_resnet import CAFFE
from maskgraft.families.other_networks import told
from maskgraft.files import Tensors
from maskgraft.links import Link, Transpose
from maskgraft.spec import Arch, Spec

ERAS = ("keras-2", "keras-2-bare", "keras-3", "tensorflow", "keras-1", "keras-2-older")
_OLDER = ERAS[-2:]

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
_OF_KERAS_1 = {
    **{"kernel": "W", "bias": "b", "gamma": "gamma", "beta": "beta"},
    **{"moving_mean": "running_mean", "moving_variance": "running_std"},
}
_BRANCH = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
_NUMBER = {"shortcut": 0, "conv1": 1, "conv2": 2, "conv3": 3}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a detector on this backbone; `config` is not looked at."""
    era = _era(tensors)
    _, stem = next(_layers((), era))
    if shape(tensors, _tensors(*stem, era=era)[0][1]) != (7, 7, 3, 64):
        raise _refusal(tensors)
    blocks = _blocks(tensors, era)
    arch = Arch(classes=1, blocks=blocks, stem_bias=True, conv_bias=True, norm="frozen")
    eps = 1e-3 if era in _OLDER else 1.001e-5
    conventions = {**CAFFE, "pixel_mean": (103.939, 116.779, 123.68), "norm_eps": eps}
    return reading(
        tensors, "keras-applications", arch, conventions, implied="keras.applications' ResNet (caffe mode)", era=era
    )


def _era(tensors: Tensors) -> str:
    if "layers/conv2d/vars/0" in tensors:
        return "keras-3"
    if "layer_with_weights-0/kernel" in tensors:
        return "tensorflow"
    if "conv1/conv1_W:0" in tensors:
        return "keras-1"
    if "conv1/conv1/kernel:0" in tensors:
        return "keras-2-older"
    return "keras-2" if "conv1_conv/conv1_conv/kernel:0" in tensors else "keras-2-bare"


def _blocks(tensors: Tensors, era: str) -> tuple[int, int, int, int]:
    """How many blocks each stage has; ResNet-50, -101 and -152 differ in the third and in the second."""
    for blocks in ((3, 8, 36, 3), (3, 4, 23, 3), (3, 4, 6, 3)):
        layers = [_tensors(*layer, era=era) for _, layer in _layers(blocks, era)]
        biases = [variables[1][1] for variables in layers if len(variables) == len(_CONV)]
        if all(variables[0][1] in tensors for variables in layers) and any(name in tensors for name in biases):
            return blocks
    raise _refusal(tensors)


def _refusal(tensors: Tensors) -> CheckpointError:
    what = "a network whose layers are not those of ResNet-50, -101 or -152 v1 (v2 and DenseNet have other norms)"
    return unsupported(tensors, "keras.applications", told(tensors.arrays) or what)


def _layers(blocks: tuple[int, ...], era: str) -> Iterator[tuple[str, tuple[str, str, int, int]]]:
    """Every layer with weights, in Keras's order: our name, and its name, kind, number of its kind, and number."""
    older = era in _OLDER
    yield "backbone.stem", ("conv1" if older else "conv1_conv", "conv", 0, 0)
    yield "backbone.stem", ("bn_conv1" if older else "conv1_bn", "norm", 0, 1)
    seen = {"conv": 1, "norm": 1}
    for stage, count in enumerate(blocks, 2):
        for block in range(count):
            for part, kind in _FIRST_BLOCK if block == 0 else _OTHER_BLOCKS:
                name = f"conv{stage}_block{block + 1}_{_NUMBER[part]}_{'conv' if kind == 'conv' else 'bn'}"
                if older:
                    name = (
                        f"{'res' if kind == 'conv' else 'bn'}{stage}{ascii_lowercase[block % 26]}_branch{_BRANCH[part]}"
                    )
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
    if era == "keras-1":
        return [(ours, f"{name}/{name}_{_OF_KERAS_1[theirs]}:0") for ours, theirs, _ in variables]
    colon = "" if era == "keras-2-bare" else ":0"
    return [(ours, f"{name}/{name}/{theirs}{colon}") for ours, theirs, _ in variables]


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in the names of `era`."""
    for ours, layer in _layers(spec.arch.blocks, era):
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
        ("conv1/conv1_W:0", "bn2a_branch1/bn2a_branch1_gamma:0", "res5c_branch2c/res5c_branch2c_W:0"),
        ("conv1/conv1/kernel:0", "bn2a_branch1/bn2a_branch1/gamma:0", "res5c_branch2c/res5c_branch2c/kernel:0"),
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
