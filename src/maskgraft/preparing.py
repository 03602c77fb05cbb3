"""What a training runs on, settled before a byte of it is written: whatever can be refused is refused here.

plan = prepare(model, data, Recipe(epochs=4), folder=Path("runs/first"))
plan.resolved.steps, plan.records, plan.findings
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from maskgraft import admission, completing, keeping, replaying, treating
from maskgraft import state as states
from maskgraft.backbones.norms import BATCH_NORMS
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.completing import Instance
from maskgraft.errors import DataError, Finding
from maskgraft.examining import Progress
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Derived, Recipe, Resolved, resolve
from maskgraft.spec import Spec


@dataclass(frozen=True, slots=True)
class Plan:
    """A training that may begin.

    `given` is the data as it came and `data` what is trained on, with the instances that were `added` to complete its
    labels. `labelled` are the images to learn from before that, `records` those after it, the last `replayed` of them
    old ones; `labels` [C] int64 the model's label of each of theirs. `spec` is the model's while it trains, `findings`
    what is doubtful.
    """

    folder: Path
    given: Dataset
    data: Dataset
    added: Sequence[Instance]
    labelled: Sequence[ImageRecord]
    records: Sequence[ImageRecord]
    replayed: int
    labels: Tensor
    spec: Spec
    resolved: Resolved
    findings: tuple[Finding, ...]


def prepare(
    model: MaskRCNN,
    data: Dataset,
    recipe: Recipe | None = None,
    *,
    folder: Path,
    val: Dataset | None = None,
    replay: Dataset | None = None,
    resume: bool = False,
    treated: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """What `training.train` is to do with these arguments; with `treated` the recipe is put right first.

    Raises `UsageError` and `DataError` as `train` does.
    """
    labelled, replayed = replaying.records(data, replay, model.spec.classes)
    if len(labelled) == replayed:
        raise DataError(Finding("train.no-instances", "error", f"{data.path} has no instance that can be trained on"))
    recipe = states.continued(folder, recipe, data, labelled) if resume else recipe or Recipe()
    spec = admission.trained(model.spec, recipe)
    admission.check(model, data, val, recipe, folder, resume=resume)
    replaying.check(replay, replayed, recipe)
    if not resume:
        keeping.check(model, recipe)
    completed, added = completing.of_run(model, data, recipe, folder, resume=resume)
    records, replayed = replaying.records(completed, replay, model.spec.classes)

    remedies: tuple[Derived, ...] = ()
    if treated and not resume:
        recipe, remedies = treating.treat(model, completed, recipe, val=val, progress=progress)
        spec = admission.trained(model.spec, recipe)
    new = len(records) - replayed
    resolved = resolve(
        recipe,
        images=new,
        left_out=len(completed.images) - new,
        replayed=replayed,
        batch_norms=any(isinstance(one, BATCH_NORMS) for one in model.modules()),
    )
    resolved = replace(resolved, derived=(*resolved.derived, *completing.told(added, recipe), *remedies))
    admission.check_parts(resolved.recipe, len(records))
    return Plan(
        folder=folder,
        given=data,
        data=completed,
        added=added,
        labelled=labelled,
        records=records,
        replayed=replayed,
        labels=replaying.labels(completed, replay, model.spec.classes),
        spec=spec,
        resolved=resolved,
        findings=admission.doubts(model, resolved),
    )
