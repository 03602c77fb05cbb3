"""Pairs of tensors between two tables of names and shapes of which neither need be of a known family.

    pairs = pair(theirs, ours)      # {"rpn.conv.weight": (3, 256, 1, 1), …} twice
    pairs[0].target, pairs[0].source, pairs[0].steps, pairs[0].confidence

Tensors are first put together into layers (weight, bias, statistics), and layers are paired: names say which are alike
(wrapper prefixes taken off, synonyms known, renamed parts learned from pairs that are sure), shapes which are possible
(also in another order of axes), the order in both tables and the neighbours decide among equals.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from maskgraft.links import Reshape, Shape, Step, Transpose

# How the last part of a name is called elsewhere.
_ROLES: dict[str, str] = {
    **dict.fromkeys(("weight", "weights", "kernel", "w", "W", "gamma", "scale", "s", "depthwise_kernel"), "weight"),
    **dict.fromkeys(("bias", "biases", "b", "beta"), "bias"),
    **dict.fromkeys(("running_mean", "moving_mean", "mean", "avg_mean", "_mean"), "mean"),
    **dict.fromkeys(("running_var", "moving_variance", "variance", "var", "avg_var", "_variance"), "variance"),
    "num_batches_tracked": "count",
}
_WRAPPERS = ("module", "model", "_orig_mod", "net", "detector", "state_dict", "ema", "student", "teacher")
SURE = 0.75  # pairs below this are doubtful


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of the module and the tensor of the file that goes there, by `steps`.

    `confidence` is 0..1; 1 is an exact name, or an exact link on both sides. `why` says what it rests on.
    """

    target: str
    source: str
    steps: tuple[Step, ...]
    confidence: float
    why: str


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    parts: tuple[str, ...]
    roles: Mapping[str, str]  # role → the tensor's name
    shapes: Mapping[str, Shape]
    place: float  # 0..1 in the table

    @property
    def size(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((role, prod(shape)) for role, shape in self.shapes.items() if role != "count"))


def pair(theirs: Mapping[str, Shape], ours: Mapping[str, Shape]) -> list[Pair]:
    """The most likely pairs, in the order of `ours`; each tensor of either side stands in at most one."""
    sources, targets = _layers(theirs), _layers(ours)
    found: dict[str, tuple[_Layer, float, str]] = {}
    taken: set[str] = set()
    by_parts = {source.parts: source for source in sources}
    for target in targets:
        same = by_parts.get(target.parts)
        if same is not None and _fits(same, target):
            found[target.name] = same, 1.0, "the same name"
            taken.add(same.name)
    changes = _changes([(found[t.name][0], t) for t in targets if t.name in found])
    for _ in range(3):
        before = len(found)
        for source, target, confidence, why in _by_shape(
            [one for one in sources if one.name not in taken],
            [one for one in targets if one.name not in found],
            changes,
        ):
            found[target.name] = source, confidence, why
            taken.add(source.name)
        changes = _changes([(found[t.name][0], t) for t in targets if t.name in found and found[t.name][1] >= SURE])
        if len(found) == before:
            break
        doubtful = [t.name for t in targets if t.name in found and found[t.name][1] < SURE]
        if not doubtful:
            break
        for name in doubtful:
            taken.discard(found.pop(name)[0].name)
    for source, target, confidence, why in _by_shape(
        [one for one in sources if one.name not in taken], [one for one in targets if one.name not in found], changes
    ):
        found[target.name] = source, confidence, why
    pairs = [one for target in targets if target.name in found for one in _pairs(target, *found[target.name])]
    return [*pairs, *_tensor_by_tensor(theirs, ours, pairs)]


def _tensor_by_tensor(theirs: Mapping[str, Shape], ours: Mapping[str, Shape], pairs: Sequence[Pair]) -> Iterator[Pair]:
    """What is left when names do not say which tensors make a layer; never surer than doubtful."""
    used, filled = {one.source for one in pairs}, {one.target for one in pairs}
    sources = _singles({name: shape for name, shape in theirs.items() if name not in used})
    targets = _singles({name: shape for name, shape in ours.items() if name not in filled and shape})
    for source, target, confidence, why in _by_shape(sources, targets, {}):
        yield from _pairs(target, source, min(confidence, 0.7), why)


def _singles(table: Mapping[str, Shape]) -> list[_Layer]:
    total = max(1, len(table) - 1)
    return [
        _Layer(name, _parts(name.replace("/", "."), 0), {"tensor": name}, {"tensor": shape}, index / total)
        for index, (name, shape) in enumerate(table.items())
    ]


def _pairs(target: _Layer, source: _Layer, confidence: float, why: str) -> Iterator[Pair]:
    for role, name in target.roles.items():
        if role not in source.roles:
            continue
        steps = moves(source.shapes[role], target.shapes[role])
        if steps is None:
            continue
        told, sure = why, confidence
        if steps:
            told += f"; {describe(steps)}"
            if _ambiguous(source.shapes[role]):
                told, sure = f"{told}; the axes are of equal length, so that the order is a guess", min(sure, 0.6)
        yield Pair(name, source.roles[role], steps, round(sure, 3), told)


def moves(have: Shape, want: Shape) -> tuple[Step, ...] | None:
    """The steps from one shape to another; None when they cannot be the same numbers.

    moves((3, 3, 64, 128), (128, 64, 3, 3))     # (Transpose((3, 2, 0, 1)),): HWIO to OIHW
    """
    if have == want:
        return ()
    if prod(have) != prod(want):
        return None
    if sorted(have) == sorted(want):
        for axes in ((3, 2, 0, 1), (0, 3, 1, 2), (1, 0, 2, 3), (1, 0)):
            if len(axes) == len(have) and tuple(have[axis] for axis in axes) == want:
                return (Transpose(axes),)
    if len(have) == 2 and len(want) == 4 and have == (want[0], prod(want[1:])):
        return (Reshape(have, want),)
    if len(have) == 4 and len(want) == 2:
        if want == (have[3], prod(have[:3])):  # a convolution over a whole region, as Keras has it, as a matrix
            turned = (have[3], have[2], have[0], have[1])
            return (Transpose((3, 2, 0, 1)), Reshape(turned, want))
        if want == (have[0], prod(have[1:])):
            return (Reshape(have, want),)
    if len(have) == 2 and len(want) == 2 and have == want[::-1]:
        return (Transpose((1, 0)),)
    return (Reshape(have, want),) if sorted(d for d in have if d > 1) == sorted(d for d in want if d > 1) else None


def describe(steps: Sequence[Step]) -> str:
    """Steps in words: "transposed 3 2 0 1"."""
    words = {Transpose: "transposed", Reshape: "reshaped"}
    return ", ".join(
        f"{words.get(type(step), 'rows moved')}"
        + (f" {' '.join(map(str, step.axes))}" if isinstance(step, Transpose) else "")
        for step in steps
    )


def _ambiguous(shape: Shape) -> bool:
    """A square matrix or a cubic kernel can be transposed without its shape telling."""
    return len(shape) == 2 and shape[0] == shape[1]


def _layers(table: Mapping[str, Shape]) -> list[_Layer]:
    names = list(table)
    cut = _shared_wrapper(names)
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        plain = name.replace("/", ".").removesuffix(":0")
        stem, _, last = plain.rpartition(".")
        role = _ROLES.get(last, last)
        if role in groups.get(stem, {}):
            stem, role = plain, last
        groups.setdefault(stem, {})[role] = name
    total = max(1, len(groups) - 1)
    return [
        _Layer(stem, _parts(stem, cut), roles, {role: table[name] for role, name in roles.items()}, index / total)
        for index, (stem, roles) in enumerate(groups.items())
    ]


def _shared_wrapper(names: Sequence[str]) -> int:
    """How many first parts all names share."""
    split = [name.replace("/", ".").split(".") for name in names]
    cut = 0
    while split and all(len(parts) > cut + 2 and parts[cut] == split[0][cut] for parts in split):
        cut += 1
    return cut


def _parts(stem: str, cut: int) -> tuple[str, ...]:
    """The words and numbers of a layer's name, without wrappers and without what Keras says twice."""
    parts = stem.split(".")[cut:]
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    kept = [part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1]]
    words: list[str] = []
    for part in kept:
        for piece in part.split("_"):
            start = 0
            for at in range(1, len(piece) + 1):
                if at == len(piece) or piece[at].isdigit() != piece[at - 1].isdigit():
                    words.append(piece[start:at].lower())
                    start = at
    return tuple(word for word in words if word)


def _fits(source: _Layer, target: _Layer) -> bool:
    shared = [role for role in target.roles if role in source.roles and role != "count"]
    return bool(shared) and all(moves(source.shapes[role], target.shapes[role]) is not None for role in shared)


def _changes(pairs: Sequence[tuple[_Layer, _Layer]]) -> Mapping[tuple[str, str], float]:
    """How often a word of one side stands where the other has another: learned from sure pairs, 0..1."""
    together: Counter[tuple[str, str]] = Counter()
    alone: Counter[str] = Counter()
    for source, target in pairs:
        for word in set(source.parts):
            alone[word] += 1
            for other in set(target.parts):
                together[word, other] += 1
    return {change: count / alone[change[0]] for change, count in together.items() if count > 1}


def _by_shape(
    sources: Sequence[_Layer], targets: Sequence[_Layer], changes: Mapping[tuple[str, str], float]
) -> Iterator[tuple[_Layer, _Layer, float, str]]:
    """Pairs among layers of equal sizes: alone of its size, by name, by order."""
    here, there = defaultdict(list), defaultdict(list)
    for source in sources:
        here[source.size].append(source)
    for target in targets:
        there[target.size].append(target)
    for size, wanted in there.items():
        options = [source for source in here.get(size, []) if any(_fits(source, target) for target in wanted)]
        if not options:
            continue
        if len(options) == len(wanted) == 1:
            likeness = _likeness(options[0], wanted[0], changes)
            yield options[0], wanted[0], 0.8 + 0.2 * likeness, "alone of its shapes on both sides"
            continue
        yield from _among_equals(options, wanted, changes)


def _among_equals(
    options: Sequence[_Layer], wanted: Sequence[_Layer], changes: Mapping[tuple[str, str], float]
) -> Iterator[tuple[_Layer, _Layer, float, str]]:
    """Layers of one size: the best likeness first; order agrees, or is all there is."""
    rank = {source.name: index for index, source in enumerate(options)}
    like = {
        (source.name, target.name): _likeness(source, target, changes)
        for source in options
        for target in wanted
        if _fits(source, target)
    }
    equal = len(options) == len(wanted)
    by_name = {layer.name: layer for layer in options}
    left, open_ = dict(by_name), list(enumerate(wanted))

    def score(index: int, source: _Layer, target: _Layer) -> float:
        apart = abs(rank[source.name] / len(options) - index / len(wanted))
        return like.get((source.name, target.name), -9.0) + 0.35 * (1 - apart) - 0.1 * abs(source.place - target.place)

    while open_ and left:
        ranked = []
        for index, target in open_:
            scores = sorted(
                ((score(index, source, target), source) for source in left.values()), key=lambda one: -one[0]
            )
            margin = scores[0][0] - scores[1][0] if len(scores) > 1 else 0.5
            ranked.append((margin, scores[0][0], index, target, scores[0][1]))
        _, _, index, target, source = max(ranked, key=lambda one: (one[0], one[1]))
        open_.remove((index, target))
        if (source.name, target.name) not in like:
            continue
        del left[source.name]
        in_order = equal and rank[source.name] == index
        others = [
            like[name.name, target.name] for name in options if name is not source and (name.name, target.name) in like
        ]
        own = like[source.name, target.name]
        clear = own > max(others, default=0.0) + 0.05
        if clear and in_order:
            yield source, target, min(0.98, 0.85 + 0.13 * own), "name and order agree"
        elif clear:
            yield source, target, min(0.9, 0.55 + 0.35 * own), "by name, the order is another"
        elif in_order:
            yield source, target, 0.6, "by order among layers of equal shapes; names do not tell"
        else:
            yield source, target, 0.3, "neither name nor order tells"


def _likeness(source: _Layer, target: _Layer, changes: Mapping[tuple[str, str], float]) -> float:
    """How alike two names are, 0..1: words shared or known to stand for each other; numbers must agree in order."""
    words = [word for word in source.parts if not word.isdigit()], [word for word in target.parts if not word.isdigit()]
    numbers = [int(word) for word in source.parts if word.isdigit()], [int(w) for w in target.parts if w.isdigit()]
    total = 0.0
    for word in words[0]:
        total += max(
            (1.0 if word == other else changes.get((word, other), 0.0) * 0.9 for other in words[1]), default=0.0
        )
    shared = total / max(len(words[0]), len(words[1]), 1)
    if not numbers[0] and not numbers[1]:
        return shared
    same = sum(a == b for a, b in zip(reversed(numbers[0]), reversed(numbers[1]), strict=False))
    return 0.6 * shared + 0.4 * same / max(len(numbers[0]), len(numbers[1]))
