"""Policies: what trains, at which rate, and what is doubtful about it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft import policy
from maskgraft.graft import with_classes
from maskgraft.spec import COMPONENTS, component
from tests.tiny import tiny_model, tiny_spec

CASES = {
    "heads": ("fpn.lateral2.conv.weight", "backbone.res5.0.conv1.conv.weight"),
    "3+": ("backbone.res3.0.conv1.conv.weight", "backbone.res2.0.conv1.conv.weight"),
    "4+": ("backbone.res4.0.conv1.conv.weight", "backbone.res3.0.conv1.conv.weight"),
    "5+": ("backbone.res5.0.conv1.conv.weight", "backbone.res4.0.conv1.conv.weight"),
    "predictors": ("mask_predictor.logits.weight", "mask_head.upsample.weight"),
    "mask_head": ("mask_head.upsample.weight", "box_predictor.cls.weight"),
    "last:1": ("mask_predictor.logits.weight", "box_predictor.deltas.weight"),
    "last:2": ("box_predictor.deltas.weight", "box_predictor.cls.weight"),
    "backbone:2": ("backbone.res3.0.conv1.conv.weight", "backbone.res2.0.conv1.conv.weight"),
    "backbone:5": ("fpn.lateral2.conv.weight", "backbone.res5.0.conv1.conv.weight"),
    "fpn, backbone.res5.*": ("backbone.res5.0.conv1.conv.weight", "rpn.deltas.weight"),
    "predictors, 5+": ("backbone.res5.0.conv1.conv.weight", "backbone.res4.0.conv1.conv.weight"),
    "mask_head,last:3": ("box_predictor.cls.weight", "box_head.fc1.weight"),
    "*.bias": ("rpn.deltas.bias", "rpn.deltas.weight"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_policy_trains_what_it_names_and_nothing_else(name: str) -> None:
    model = tiny_model()
    trainable = policy.apply(model, name)
    trains, frozen = CASES[name]
    assert trains in trainable.names and frozen not in trainable.names
    assert trainable.names == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part in trainable.parts:
        ours = {name: p.numel() for name, p in model.named_parameters() if component(name) == part.component}
        assert part.training == sum(size for name, size in ours.items() if name in trainable.names)
    assert [part.component for part in trainable.parts] == list(COMPONENTS)


def test_a_list_is_its_names_with_commas() -> None:
    model = tiny_model()
    assert policy.apply(model, ["fpn", "rpn"]) == policy.apply(model, "fpn,rpn")


def test_all_and_nothing_frozen_are_the_same() -> None:
    model = tiny_model()
    assert policy.apply(model, "all").names == policy.apply(model, "backbone:0").names
    assert policy.apply(model, "all").names == frozenset(dict(model.named_parameters()))


@pytest.mark.parametrize(
    "name",
    ["head", "last:x", "last:4", "nothing.*", "backbone:5x", "backbone:6", "fpn,box", "", "heads,", "*running_mean"],
)
def test_an_unknown_policy_is_told(name: str) -> None:
    model = tiny_model()
    with pytest.raises(mg.UsageError, match="policy") as caught:
        policy.apply(model, name)
    assert "N?" not in str(caught.value)  # what is to be typed, and no pattern of it


def test_batch_norms_keep_their_statistics_unless_they_are_to_train() -> None:
    model = tiny_model()
    deep = "backbone.res5.0.conv1.norm"
    stem = "backbone.stem.norm"
    policy.apply(model, "5+")
    assert model.training and not any(model.get_submodule(name).training for name in (deep, stem))
    parts = {part.component: part.norms for part in policy.apply(model, "5+", train_norms=True).parts}
    assert model.get_submodule(deep).training and not model.get_submodule(stem).training
    assert parts["backbone"] == "batch and frozen"


def test_rates_per_component_and_no_decay_for_norms_and_biases() -> None:
    model = tiny_model()
    groups = {
        group.name: group
        for group in policy.groups(
            model, policy.apply(model, "all"), lr=0.1, multipliers={"backbone": 0.1, "fpn": 0.2}, weight_decay=1e-4
        )
    }
    assert groups["backbone weights"].lr == pytest.approx(0.01)
    assert groups["fpn weights"].lr == pytest.approx(0.02)
    assert groups["rpn weights"].lr == 0.1
    assert groups["backbone norms and biases"].weight_decay == 0
    assert groups["backbone weights"].weight_decay == 1e-4
    everything = [name for group in groups.values() for name in group.names]
    assert sorted(everything) == sorted(name for name, _ in model.named_parameters())
    with pytest.raises(mg.UsageError, match="did you mean backbone"):
        policy.groups(model, policy.apply(model, "all"), lr=0.1, multipliers={"backbon": 1}, weight_decay=0)


def doubts(model: mg.MaskRCNN, name: str, *, train_norms: bool = False, batch: int = 2) -> dict[str, mg.Finding]:
    trainable = policy.apply(model, name, train_norms=train_norms)
    return {one.code: one for one in policy.doubts(model, trainable, train_norms=train_norms, batch=batch)}


def test_random_weights_that_stay_frozen_are_told(tmp_path: Path) -> None:
    fresh = tiny_model()
    told = doubts(fresh, "heads")["train.frozen-random"]
    assert told.names and all(component(name) == "backbone" for name in told.names)
    assert not doubts(fresh, "all")
    mg.save(fresh, tmp_path / "kept")
    kept = mg.load(tmp_path / "kept")
    assert not doubts(kept, "mask_head")
    grown = with_classes(kept, ["disc", "star"])
    assert set(doubts(grown, "mask_head")["train.frozen-random"].names) == {
        f"box_predictor.{layer}.{kind}" for layer in ("cls", "deltas") for kind in ("weight", "bias")
    }
    assert not doubts(grown, "predictors")


def test_batch_statistics_of_few_images_or_of_no_norm_are_told() -> None:
    assert "batches of 2" in doubts(tiny_model(), "all", train_norms=True)["train.batchnorm"].message
    assert "train.batchnorm" not in doubts(tiny_model(), "all", train_norms=True, batch=8)
    spec = tiny_spec()
    torch.manual_seed(0)
    fixed = mg.MaskRCNN(replace(spec, arch=replace(spec.arch, norm="frozen")))
    assert "'frozen'" in doubts(fixed, "all", train_norms=True)["train.batchnorm"].message


def test_layer_decay_slows_what_is_far_from_the_heads() -> None:
    model = tiny_model()
    groups = policy.groups(
        model, policy.apply(model, "all"), lr=1.0, multipliers={"backbone": 0.5}, weight_decay=0.0, layer_decay=0.5
    )
    rates = {name: group.lr for group in groups for name in group.names}
    assert set(rates) == set(dict(model.named_parameters()))
    assert rates["rpn.deltas.weight"] == rates["mask_predictor.logits.bias"] == 1
    assert rates["fpn.lateral2.conv.weight"] == 0.5
    assert rates["backbone.res5.0.conv1.conv.weight"] == 0.5 * 0.5**2
    assert rates["backbone.stem.conv.weight"] == 0.5 * 0.5**6
