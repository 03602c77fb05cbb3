"""MobileNetV3-Large (Howard et al. 2019, table 1), as numbers: names of tensors and layers follow from them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One block of the paper's table 1; `stage` is the first map that it belongs to, 1 for the stem's stride."""

    kernel: int
    inner: int
    outer: int
    squeezes: bool
    hard_swish: bool
    stride: int
    stage: int


STEM_WIDTH, LAST_WIDTH = 16, 960
ROWS = (
    Row(3, 16, 16, False, False, 1, 1),
    Row(3, 64, 24, False, False, 2, 2),
    Row(3, 72, 24, False, False, 1, 2),
    Row(5, 72, 40, True, False, 2, 3),
    Row(5, 120, 40, True, False, 1, 3),
    Row(5, 120, 40, True, False, 1, 3),
    Row(3, 240, 80, False, True, 2, 4),
    Row(3, 200, 80, False, True, 1, 4),
    Row(3, 184, 80, False, True, 1, 4),
    Row(3, 184, 80, False, True, 1, 4),
    Row(3, 480, 112, True, True, 1, 4),
    Row(3, 672, 112, True, True, 1, 4),
    Row(5, 672, 160, True, True, 2, 5),
    Row(5, 960, 160, True, True, 1, 5),
    Row(5, 960, 160, True, True, 1, 5),
)
# torchvision takes a map where the stride grows, behind the first block of a stage, and one behind the last 1×1.
TAPS = {1: "c2", 3: "c3", 6: "c4", 12: "c5"}
WIDTHS = {"c2": 24, "c3": 40, "c4": 80, "c5": 160, "c6": LAST_WIDTH}
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32, "c6": 32}
