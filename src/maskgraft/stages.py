"""Stages: what trains for how long at which rate, one after the other.

parse("heads:2ep@1e-3, 4+:4ep@3e-4, all:600st")     # epochs or steps; without a rate, that of the recipe
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_FORM = 'POLICY:LENGTH@RATE, such as "heads:2ep@1e-3, all:600st": epochs or steps, the rate may be left out'
_WHOLE = ("all", "heads", "predictors")  # policies that nobody names beside others


class Stage(BaseModel):
    """One stage of a training: its policy, `epochs` or `steps`, and its learning rate where it is not the recipe's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    policy: str
    epochs: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("a stage is so many epochs or so many steps long")
        return self


@dataclass(frozen=True, slots=True)
class Span:
    """A stage as it will be: steps `first` up to but not `end`, its full learning rate, and its warm-up in steps."""

    policy: str
    first: int
    end: int
    lr: float
    warmup: int


def parse(text: str) -> list[dict[str, Any]]:
    """Stages from one line, as fields of `Stage`; a policy of several components may have its commas.

    Raises `ValueError` with the part that is none.
    """
    stages, waiting = [], []
    for part in text.split(","):
        waiting.append(part.strip())
        policy, colon, length = ",".join(waiting).rpartition(":")
        length, at, rate = length.partition("@")
        number, unit = length.strip()[:-2], length.strip()[-2:]
        if not colon or unit not in ("ep", "st") or not number.isdecimal():
            if at:
                raise ValueError(f"{part.strip()!r} is no stage; write {_FORM}")
            continue  # the first components of a policy that has several
        if unfinished := [one for one in waiting[:-1] if ":" in one or one.endswith("+") or one in _WHOLE]:
            raise ValueError(f"the stage {unfinished[0]!r} has no length; write {_FORM}")
        if " " in policy:
            raise ValueError(f"{policy!r} is no policy: a comma stands between stages; write {_FORM}")
        stage: dict[str, Any] = {"policy": policy, "epochs" if unit == "ep" else "steps": int(number)}
        if at:
            try:
                stage["lr"] = float(rate)
            except ValueError:
                raise ValueError(f"{rate.strip()!r} is no learning rate; write {_FORM}") from None
        stages.append(stage)
        waiting = []
    if waiting:
        raise ValueError(f"{', '.join(waiting)!r} is no stage; write {_FORM}")
    return stages
