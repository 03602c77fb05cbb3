"""How parts that come from no file start."""

from collections.abc import Iterable

from torch import nn

from maskgraft.backbones.norms import BATCH_NORMS, Affine, FrozenNorm
from maskgraft.spec import COMPONENTS, component

# The predictors start near nought, so that early losses are those of an undecided network (Ren et al. 2015 §3.1.3 and
# Detectron2's `FastRCNNOutputLayers`, `MaskRCNNConvUpsampleHead`).
_STD = {
    "rpn.": 0.01,
    "box_predictor.cls": 0.01,
    "box_predictor.deltas": 0.001,
    "mask_predictor.logits": 0.001,
}


def initialise(model: nn.Module, components: Iterable[str] = COMPONENTS) -> None:
    """Give the named components the starting values of this field; the rest is left alone.

    Convolutions before a ReLU: He's normal over the outputs; the pyramid and fully connected layers: uniform over the
    inputs (Detectron2's `c2_xavier_fill`); predictors and the proposal network: normal of std 0.01 or 0.001; biases 0;
    norms the identity. Draws from torch's global generator.
    """
    wanted = set(components)
    for name, module in model.named_modules():
        if component(name) not in wanted:
            continue
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            std = next((value for start, value in _STD.items() if name.startswith(start)), None)
            if std is not None:
                nn.init.normal_(module.weight, std=std)
            elif component(name) == "fpn" or isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=1)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, BATCH_NORMS):
            module.reset_running_stats()
            module.reset_parameters()
        elif isinstance(module, nn.GroupNorm):
            module.reset_parameters()
        elif isinstance(module, FrozenNorm | Affine):
            if module.weight is not None:
                module.weight.fill_(1)
            module.bias.fill_(0)
            if isinstance(module, FrozenNorm):
                module.running_mean.fill_(0)
                module.running_var.fill_(1)
