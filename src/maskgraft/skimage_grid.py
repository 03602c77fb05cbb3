"""Where scikit-image up to 0.18 samples an image that it resizes, to the last bit.

`skimage.transform.resize` gives three corners to `AffineTransform.estimate`, which solves for the matrix by a singular
value decomposition (`_geometric.py`). Its rounding moves samples by some 1e-14 of a pixel. That is nothing, but where a
value is a whole grey level (at 5 % of the pixels when 5 become 6) it decides whether cutting keeps this level or takes
the one below, and Matterport's Mask_RCNN cuts. So the decomposition's arithmetic is repeated here: of LAPACK's
`dgesdd` only the bidiagonalisation `dgebd2` reaches the vector that is wanted. Sums run in the order of OpenBLAS for
SSE2, without fused operations; kernels for other processors round otherwise, and differ at up to 1 % of the pixels.
"""

from math import copysign, hypot, sqrt

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
Floats = npt.NDArray[np.float64]


def grid(before: Size, after: Size) -> tuple[Floats, Floats]:
    """Rows and columns of the source, `before` (height, width), at which the pixels of the result `after` lie."""
    (step_x, first_x), (step_y, first_y) = _affine(before, after)
    rows, columns = (np.arange(length, dtype=np.float64) for length in after)
    return rows * step_y + first_y, columns * step_x + first_x


def _affine(before: Size, after: Size) -> list[tuple[float, float]]:
    """Distance and first position of the samples along x, and along y."""
    steps = np.array((before[1] / after[1], before[0] / after[0]))
    if min(after) == 1:  # the corners would coincide
        return [(float(step), float(0.5 * step - 0.5)) for step in steps]
    height, width = after
    corners = np.array(((0, 0), (0, height - 1), (width - 1, height - 1)), np.float64)
    scale, shift, given = _centred(corners)
    there_scale, there_shift, wanted = _centred(steps * (corners + 0.5) - 0.5)
    equations = np.zeros((6, 7))
    equations[:3, :2], equations[3:, 3:5] = given, given
    equations[:3, 2], equations[3:, 5] = 1, 1
    equations[:3, 6], equations[3:, 6] = wanted.T
    null = _last_right_singular_vector(equations)
    matrix = (-null[:6] / null[6]).reshape(2, 3)
    back = 1 / there_scale
    result = []
    for axis, row in enumerate(back * matrix):
        first = (row[0] * shift[0] + row[1] * shift[1]) + (row[2] - there_shift[axis] * back)
        result.append((float(row[axis] * scale), float(first)))
    return result


def _centred(points: Floats) -> tuple[float, Floats, Floats]:
    """Scale and shift that bring points around the origin, √2 away on average, and the points there."""
    centre = np.mean(points, axis=0)
    scale = sqrt(2) / sqrt(np.sum((points - centre) ** 2) / len(points))
    shift = -scale * centre
    return scale, shift, scale * points + shift


def _last_right_singular_vector(a: Floats) -> Floats:
    """The vector that `a` [6, 7] takes to zero: the last unit vector, reflected as the rows of `a` are."""
    rows, columns = a.shape
    reflections = []
    for i in range(rows):
        along, factor = _reflection(a[i, i:])
        reflections.append((along, factor))
        rest = a[i + 1 :, i:]
        product = np.zeros(len(rest))
        for column, weight in zip(rest.T, along, strict=True):
            product = product + column * weight
        rest += product[:, None] * (-factor * along)
        if i + 1 < rows:
            down, factor = _reflection(a[i + 1 :, i])
            rest = a[i + 1 :, i + 1 :]
            rest += down[:, None] * (-factor * _column_sums(rest * down[:, None], paired=i % 2 == 1))
    result = np.zeros(columns)
    result[-1] = 1
    for i, (along, factor) in reversed(list(enumerate(reflections))):
        inner = 0.0
        for entry, weight in zip(result[i:], along, strict=True):
            inner = inner + entry * weight
        result[i:] = result[i:] + (-factor * along) * inner
    return result


def _reflection(vector: Floats) -> tuple[Floats, float]:
    """LAPACK's `dlarfg`: the reflection I - factor · v · vᵀ with v[0] = 1 that leaves only the vector's first entry."""
    first, rest = float(vector[0]), hypot(*vector[1:])
    result = vector.copy()
    result[0] = 1
    if rest == 0:
        return result, 0.0
    large, small = max(abs(first), rest), min(abs(first), rest)
    length = -copysign(large * sqrt(1 + (small / large) ** 2), first)
    result[1:] = vector[1:] * (1 / (first - length))
    return result, (length - first) / length


def _column_sums(products: Floats, *, paired: bool) -> Floats:
    """Sums over rows as two lanes take them: rows in pairs, the first alone where memory does not begin with a pair."""
    lanes = np.zeros((2, products.shape[1]))
    for row, values in enumerate(products):
        lane = row % 2 if paired else max(row - 1, 0) % 2
        lanes[lane] = lanes[lane] + values
    total: Floats = lanes[0] + lanes[1]
    return total
