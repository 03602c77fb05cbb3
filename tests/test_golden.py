"""Every family against what its home framework computed: stage by stage, detections, losses, gradients, and back."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

import maskgraft as mg
from maskgraft.families import FAMILIES, detectron2, identify, recognise
from maskgraft.model import MaskRCNN
from tests.golden.cases import (
    NAMES,
    Case,
    batch_of,
    detection_faults,
    lonely_proposals,
    opened,
    stage_fault,
    step_numerics,
)

# Training steps that every run of the tests takes; the others are marked long.
STEPS = ("torchvision-r50fpn", "detectron2-r50fpn")


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with opened(request.param, tmp_path_factory.mktemp(request.param)) as case:
        yield case


@pytest.fixture(scope="module")
def model(case: Case) -> MaskRCNN:
    return case.load(case.about["checkpoint"])


@pytest.fixture(scope="module")
def trace(case: Case, model: MaskRCNN) -> dict[str, torch.Tensor]:
    return model.trace(case.golden["image"], case.regions("rois"))


def test_recognised_as_itself_above_all_others(case: Case) -> None:
    ranking = recognise(mg.open(case.folder / case.about["checkpoint"]))
    assert ranking[0][1].name == case.about["family"]
    assert ranking[0][0] == 1.0
    others = [likeness for likeness, family, _, _ in ranking if family is not ranking[0][1]]
    assert not others or max(others) < 1.0


def test_every_stage_agrees(case: Case, trace: dict[str, torch.Tensor]) -> None:
    faults = [fault for name in case.about["stages"] if (fault := stage_fault(case, name, trace[name]))]
    assert not faults, f"{case.name}, first stage that differs: " + "\n".join(faults)


def test_proposals_agree_one_to_one(case: Case, trace: dict[str, torch.Tensor]) -> None:
    if case.regions("proposals") is None:
        pytest.skip(f"{case.name} stores no proposals")
    alone, free = lonely_proposals(case, trace["proposals"])
    if len(alone):
        assert_ties(case, alone, free)


def assert_ties(case: Case, alone: torch.Tensor, instead: torch.Tensor) -> None:
    """Each golden proposal that is `alone` is a candidate here too, and lost to one of `instead` by float noise alone.

    Of two candidates that overlap, the better one stays. Where their logits are nearer to each other than the noise
    that the home framework itself shows, either may stay.
    """
    model = case.load(case.about["checkpoint"], rpn_nms_threshold=1.0, rpn_post_nms=10**6)
    everything = model.trace(case.golden["image"])
    candidates, logits = everything["proposals"], everything["proposals.scores"].logit()
    noise = 2 * max(about["allowed"] for name, about in case.about["stages"].items() if name.startswith("rpn.logits"))
    for box in alone:
        near, its_logit = nearest(box, candidates, logits)
        assert (near - box).abs().max() < 0.05, f"{box} is no candidate"
        overlaps = torchvision.ops.box_iou(box[None], instead)[0]
        rival, rivals_logit = nearest(instead[overlaps.argmax()], candidates, logits)
        assert overlaps.max() > case.load(case.about["checkpoint"]).spec.numerics.rpn_nms_threshold
        assert abs(its_logit - rivals_logit) < noise, f"{box} lost to {rival} by {rivals_logit - its_logit}"


def nearest(box: torch.Tensor, candidates: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, float]:
    index = int((candidates - box).abs().amax(1).argmin())
    return candidates[index], float(logits[index])


def test_detections_agree_one_to_one(case: Case, model: MaskRCNN) -> None:
    found = model.predict([case.golden["image"]])[0]
    assert (found.scores.diff() <= 0).all()
    faults = detection_faults(case, found, model)
    assert not faults, "\n".join(faults)


def test_import_and_export_are_byte_equal(case: Case) -> None:
    for file in (case.about["checkpoint"], *case.about["also"]):
        known = identify(mg.open(case.folder / file), config=case.config)
        linked = {name for link in known.links for name in (link.theirs, *link.copies)}
        assert linked >= set(known.tensors)
        for link in known.links:
            if link.theirs in known.tensors:
                array = known.tensors[link.theirs].read()
                back = link.back(link.forward(array))
                assert (back.shape, back.dtype, back.tobytes()) == (array.shape, array.dtype, array.tobytes()), (
                    link.theirs
                )


def test_other_files_of_the_case_hold_the_same_model(case: Case, model: MaskRCNN) -> None:
    if not case.about["also"]:
        pytest.skip(f"{case.name} has one file")
    for file in case.about["also"]:
        other = case.load(file)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_losses_and_gradients_of_the_golden_step(case: Case) -> None:
    if case.name not in STEPS:
        pytest.skip(f"the training step of {case.name}, if it has one, is among the long tests")
    check_step(case)


@pytest.mark.long
def test_losses_and_gradients_of_every_golden_step(case: Case) -> None:
    if not case.about["losses"]:
        pytest.skip(f"{case.name} has no training step")
    check_step(case)


def check_step(case: Case) -> None:
    """The golden step in float64, in which the home framework's own rounding is all that is left to differ.

    In float32, which proposals stay can hang on the last bits of two scores, and one of a thousand proposals moves the
    class loss by as much as 8e-4.
    """
    golden = case.about["losses"]
    model = case.load(case.about["checkpoint"])
    model = case.load(case.about["checkpoint"], **step_numerics(case, model))
    batch, model = batch_of(case, model), model.double()
    batch = replace(batch, pixels=batch.pixels.double())
    for mode, wanted in golden["modes"].items():
        model.train()
        if mode == "batchnorm_eval" or mode == "":
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        model.zero_grad()
        losses = model(batch)
        for name, value in wanted.items():
            assert losses[name].item() == pytest.approx(value, rel=3e-5, abs=1e-7), f"{mode} {name}"
        if mode == next(iter(golden["modes"])):
            torch.stack(list(losses.values())).sum().backward()
            check_gradients(case, model)


def check_gradients(case: Case, model: MaskRCNN) -> None:
    """Gradients of the first mode, by the norm of the difference.

    A ReLU that float noise opens or shuts moves single entries by some percent: a float64 run of detectron2-r50fpn
    differs from the golden gradients by up to 5 % of their largest entry.
    """
    steps = case.about["losses"].get("gradients", {})
    known = identify(mg.open(case.folder / case.about["checkpoint"]), config=case.config)
    links = {link.theirs: link for link in known.links}
    if known.family.name == "detectron-caffe2":  # whose step Detectron2 took, under its own names
        links = {link.theirs: link for link in detectron2.FAMILY.links(known.spec, "")}
    parameters = dict(model.named_parameters())
    # rows of the background, which Detectron keeps and Detectron2 drops, stand last and no step moves them
    background = {"box_predictor.deltas.weight": -4, "mask_predictor.logits.weight": -1}
    for name, step in steps.items():
        gradient = parameters[links[name].ours].grad
        assert gradient is not None, name
        if known.family.name == "detectron-caffe2":
            gradient = gradient[: background.get(links[name].ours)]
        ours = links[name].back(gradient.numpy()).reshape(-1)[::step]
        theirs = case.golden[f"gradient/{name}"]
        assert np.linalg.norm(ours - theirs) <= 0.02 * np.linalg.norm(theirs), name


def test_families_are_plain_and_distinct() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(family.landmarks for family in FAMILIES)
