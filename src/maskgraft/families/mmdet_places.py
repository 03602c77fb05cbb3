"""Where the settings of an MMDetection config stand, which each of its three versions put in other places."""

from collections.abc import Mapping
from typing import Any

from maskgraft.families.configs import setting
from maskgraft.families.python_configs import parse_python

Config = Mapping[str, Any]


def own_config(meta: Mapping[str, Any]) -> Config | None:
    """The config that MMDetection saved with the weights: text since 3.0 under "cfg", before under "config"."""
    for key in ("cfg", "config"):
        said = meta.get(key)
        if isinstance(said, str):
            return parse_python(said) or None
        if isinstance(said, Mapping):
            return said
    return None


def plain(config: Any) -> Any:
    """A config in which every "type" is a name alone.

        plain({"type": "mmdet.models.detectors.MaskRCNN"})      # {"type": "MaskRCNN"}

    Since 3.1 configs may import what they name, and say in a checkpoint where that stands; before, a scope may stand
    in front.
    """
    if isinstance(config, Mapping):
        return {
            key: value.rpartition(".")[2] if key == "type" and isinstance(value, str) else plain(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        inside = [plain(one) for one in config]
        return inside if isinstance(config, list) else tuple(inside)
    return config


def model_of(config: Config) -> Config:
    """The settings of the model; MMDetection 1 spread its heads over the model itself."""
    model = config.get("model")
    return model if isinstance(model, Mapping) else {}


def head_of(config: Config) -> Config:
    """The settings of what works on regions: `model.roi_head` since 2.0, the model itself before."""
    model = model_of(config)
    head = model.get("roi_head")
    return head if isinstance(head, Mapping) else model


def stage_settings(config: Config, name: str) -> Config:
    """`test_cfg` or `train_cfg` of the model: inside it since 2.3, at the top before."""
    for holder in (model_of(config), config):
        found = holder.get(name)
        if isinstance(found, Mapping) and ("rpn" in found or "rcnn" in found):
            return found
    return {}


def transforms(config: Config) -> list[Config]:
    """The steps that prepare an image for testing, those inside of a test-time augmentation too.

    They stand in the loader of the data, which is what is run, and mostly a second time under a name of their own.
    """
    for key in ("test_dataloader.dataset.pipeline", "data.test.pipeline", "test_pipeline"):
        steps = setting(config, key)
        if isinstance(steps, list | tuple):
            flat: list[Config] = []
            for step in steps:
                if isinstance(step, Mapping):
                    inner = step.get("transforms")
                    inside = [one for one in inner if isinstance(one, Mapping)] if isinstance(inner, list) else []
                    flat += [step, *inside]
            return flat
    return []


TRUNK = ("backbone", "shared_head")  # the second is C5 of a C4 model


def norms(model: Config, head: Config) -> dict[str, Config]:
    """The settings of norms, by the part of the model that they are in."""
    parts = [(model, "backbone"), (model, "neck"), *((head, f"{name}_head") for name in ("shared", "bbox", "mask"))]
    found = {name: setting(part, f"{name}.norm_cfg") for part, name in parts}
    return {name: norm for name, norm in found.items() if isinstance(norm, Mapping)}
