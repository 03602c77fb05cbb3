"""Networks that classify images and are no backbone here, told by name, so that a refusal says what a file is.

Names of tensors: torchvision 0.29 `models/`, timm 1.0 `models/`, transformers 4 `models/`, keras 3 `applications/`,
TF-Slim `nets/`, and Caffe's VGG. ResNets that are no such backbone are refused by their families.
"""

from collections.abc import Mapping

from maskgraft.files import LazyArray

# A tensor that only this network has.
_OF_PYTORCH = {
    "features.denseblock1.denselayer1.conv1.weight": "DenseNet",
    "features.3.squeeze.weight": "SqueezeNet",
    "inception3a.branch1.conv.weight": "GoogLeNet",
    "Mixed_5b.branch1x1.conv.weight": "Inception v3",
    "features.1.conv.0.0.weight": "MobileNet v2",
    "features.1.block.0.0.weight": "MobileNet v3",
    "features.1.0.block.0.0.weight": "EfficientNet",
    "blocks.0.0.conv_dw.weight": "MobileNet or EfficientNet",
    "features.1.0.layer_scale": "ConvNeXt",
    "stages.0.blocks.0.conv_dw.weight": "ConvNeXt",
    "stages.0.0.dwconv.weight": "ConvNeXt",
    "features.1.0.attn.qkv.weight": "Swin transformer",
    "layers.0.blocks.0.attn.qkv.weight": "Swin transformer",
    "swin.embeddings.patch_embeddings.projection.weight": "Swin transformer",
    "embeddings.patch_embeddings.projection.weight": "vision transformer",
    "vit.embeddings.cls_token": "vision transformer",
    "blocks.0.attn.qkv.weight": "vision transformer",
    "encoder.layers.encoder_layer_0.mlp.0.weight": "vision transformer",
    "blocks.0.layers.0.layers.MBconv.layers.conv_a.0.weight": "MaxViT",
    "trunk_output.block1.block1-0.f.a.0.weight": "RegNet",
    "s1.b1.conv1.conv.weight": "RegNet",
    "stage2.0.branch2.0.weight": "ShuffleNet v2",
    "layers.8.0.layers.0.weight": "MNASNet",
    "base_layer.0.weight": "DLA",
    "layer1.0.convs.0.weight": "Res2Net",
    "layer1.0.conv1.paths.0.conv.weight": "SKNet",
    "layer1.0.conv2.conv.weight": "ResNeSt",
    "stages.0.blocks.0.norm3.weight": "ResNet v2 (norms before convolutions)",
    "stages.0.conv_exp.conv.weight": "CSP-ResNet",
    "embedder.embedder.convolution.weight": "ResNet of transformers, whose names are its own,",
    "conv1_1_w": "VGG",
    "conv1_1.0": "VGG",
}
# A layer, or the scope of all of them, that only this network has.
_OF_TENSORFLOW = {
    "block5_conv4": "VGG-19",
    "block5_conv3": "VGG-16",
    "conv_dw_1": "MobileNet",
    "block_1_expand": "MobileNet v2",
    "expanded_conv_1_expand": "MobileNet v3",
    "block1a_dwconv": "EfficientNet",
    "block1a_project_conv": "EfficientNet v2",
    "block14_sepconv2": "Xception",
    "conv_7b": "Inception-ResNet v2",
    "conv2d_202": "Inception-ResNet v2",
    "conv2d_93": "Inception v3",
    "conv2_block1_preact_bn": "ResNet v2 (norms before convolutions)",
    "conv2_block6_2_conv": "DenseNet",
    "reduction_conv_1_stem_1": "NASNet",
    **{f"convnext_{size}_stage_0_block_0_depthwise_conv": "ConvNeXt" for size in ("tiny", "small", "base", "large")},
    "vgg_16": "VGG-16",
    "vgg_19": "VGG-19",
    "MobilenetV1": "MobileNet v1",
    "MobilenetV2": "MobileNet v2",
    "MobilenetV3": "MobileNet v3",
    "InceptionV1": "Inception v1",
    "InceptionV2": "Inception v2",
    "InceptionV3": "Inception v3",
    "InceptionV4": "Inception v4",
    "InceptionResnetV2": "Inception-ResNet v2",
    **{
        f"resnet_{version}_{depth}": f"ResNet-{depth} {version}" for version in ("v1", "v2") for depth in (50, 101, 152)
    },
}
# Kinds of layers that no ResNet has, where Keras 3 counts the layers of each kind.
_COUNTED = {
    "layers/separable_conv2d/vars/0": "Xception or NASNet",
    "layers/depthwise_conv2d/vars/0": "MobileNet or EfficientNet",
    "layers/layer_normalization/vars/0": "ConvNeXt or a vision transformer",
}


def told(arrays: Mapping[str, LazyArray]) -> str:
    """What network a file holds, or "" when it is none of those.

    told(tensors)     # "VGG-16 for classifying images, no backbone that maskgraft takes"
    """
    named = next((what for name, what in {**_OF_PYTORCH, **_COUNTED}.items() if name in arrays), "")
    if not named:
        layers = {name.partition("/")[0] for name in arrays if "/" in name}
        named = next((what for layer, what in _OF_TENSORFLOW.items() if layer in layers), "")
    named = named or _plain(arrays)
    if named:
        return f"{named} for classifying images, no backbone that maskgraft takes"
    if "layers/functional/layers/conv2d/vars/0" in arrays or "resnet50/conv1_conv/kernel" in arrays:
        return "a Keras model that is a layer of another; what model.layers[0].save_weights writes is read"
    return ""


def _plain(arrays: Mapping[str, LazyArray]) -> str:
    """Stacked convolutions: AlexNet by its first kernels, VGG by how many there are before three dense layers."""
    first, counted = arrays.get("features.0.weight"), arrays.get("layers/conv2d/vars/0")
    if first is not None and len(first.shape) == 4:
        if first.shape[2] == 11:
            return "AlexNet"
        convs = sum(name.startswith("features.") and len(array.shape) == 4 for name, array in arrays.items())
        return f"VGG-{convs + 3}" if first.shape[2:] == (3, 3) and convs in (8, 10, 13, 16) else ""
    if counted is not None and "layers/batch_normalization/vars/0" not in arrays:
        convs = sum(name.startswith("layers/conv2d") and name.endswith("/vars/0") for name in arrays)
        return f"VGG-{convs + 3}" if convs in (13, 16) else ""
    return ""
