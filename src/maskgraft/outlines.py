"""Outlines of polygon instances: moved, cut at the edge of a picture, and asked whether they cross themselves."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from maskgraft.segmentation import Polygon

Points = npt.NDArray[np.float64]


def moved(polygon: Polygon, matrix: Points) -> Polygon:
    """A polygon after an affine map [2, 3] of its points."""
    (xx, xy, x0), (yx, yy, y0) = matrix.tolist()
    parts = []
    for part in polygon:
        x, y = part[::2], part[1::2]
        result = np.empty_like(part)
        result[::2], result[1::2] = xx * x + xy * y + x0, yx * x + yy * y + y0
        parts.append(result)
    return tuple(parts)


def hull(polygon: Polygon) -> tuple[float, float, float, float]:
    """The smallest box around a polygon that has points, xyxy."""
    points = np.concatenate(polygon).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom


def cut(polygon: Polygon, width: float, height: float) -> Polygon:
    """What of a polygon lies inside a picture, exactly; without parts where nothing does.

    Each part is cut at the four edges one after the other (Sutherland & Hodgman 1974). Where an outline leaves the
    picture and comes back, its pieces stay joined along the edge, which encloses no area.
    """
    left, top, right, bottom = hull(polygon)
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return polygon
    parts = []
    for part in polygon:
        points = part.reshape(-1, 2)
        for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
            points = _cut_at(points, axis, limit, sign)
        if len(points) >= 3 and (np.ptp(points, 0) > 0).all():
            parts.append(points.ravel())
    return tuple(parts)


def _cut_at(points: Points, axis: int, limit: float, sign: int) -> Points:
    """The part of an outline where sign · (coordinate - limit) ≥ 0."""
    kept: list[Points] = []
    inside = sign * (points[:, axis] - limit) >= 0
    if inside.all():
        return points
    for index, point in enumerate(points):
        before = points[index - 1]
        if inside[index] != inside[index - 1]:
            share = (limit - before[axis]) / (point[axis] - before[axis])
            crossing = before + share * (point - before)
            crossing[axis] = limit
            kept.append(crossing)
        if inside[index]:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def crosses_itself(part: npt.NDArray[np.float64]) -> bool:
    """Whether two edges of an outline, x, y, x, y …, that are not neighbours cross each other."""
    points = part.reshape(-1, 2)
    points = points[np.any(points != np.roll(points, 1, 0), 1)]
    count = len(points)
    if count < 4:
        return False
    ends = np.roll(points, -1, 0)
    sides = _sides(points, ends)
    one, other = sides(points), sides(ends)  # [edge, point]: on which side of each edge a point lies
    apart = one * other < 0
    return bool(np.any(apart & apart.T))


def _sides(starts: Points, ends: Points) -> Callable[[Points], Points]:
    along = ends - starts

    def of(points: Points) -> Points:
        away = points[None] - starts[:, None]
        signs: Points = np.sign(along[:, None, 0] * away[..., 1] - along[:, None, 1] * away[..., 0])
        return signs

    return of
