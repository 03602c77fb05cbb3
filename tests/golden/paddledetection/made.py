"""The weights and the photograph of the case, made of their names alone, and what ppdet computes with them.

python made.py golden.npz     # under a Python that has PaddleDetection; 2.6.0 on PaddlePaddle 3.3.1 made what is here
"""

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

MOST_VALUES = 1200  # of one stage
SCALE = {  # that maps stay at about one, and that detections are many, sure, and of several sizes
    "fpn_inner_res": 0.1,
    "rpn_rois_score.weight": 0.5,
    "rpn_rois_delta.weight": 0.05,
    "bbox_score.weight": 1.5,
    "bbox_delta.weight": 0.3,
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform values, of a spread that keeps maps at about one."""
    values = np.random.default_rng(zlib.crc32(name.encode())).random(shape) * 2 - 1
    if name.endswith("_variance"):
        return (1 + 0.2 * values).astype(np.float32)
    if ".norm." in name and name.endswith("weight"):
        return ((0.4 if "branch2c" in name else 1) * (1 + 0.1 * values)).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * values).astype(np.float32)
    inputs = shape[0] if len(shape) == 2 else np.prod(shape[1:])
    scale = next((scale for part, scale in SCALE.items() if part in name), 1.0)
    return (scale * np.sqrt(6 / inputs) * values).astype(np.float32)


def photo() -> np.ndarray:
    """Blots of grey and colour, 91 pixels high and 121 wide: resized, both sides would be no whole pixels."""
    random = np.random.default_rng(7)
    coarse = random.random((8, 10, 3))
    rows, columns = np.arange(91) * 7 // 91, np.arange(121) * 9 // 121
    return ((0.8 * coarse[rows][:, columns] + 0.2 * random.random((91, 121, 3))) * 255).astype(np.uint8)


def step(array: np.ndarray) -> int:
    return -(-array.size // MOST_VALUES)


def run(out: str) -> None:
    import paddle

    theirs = paddle.concat

    def concat(parts: Any, axis: int = 0, name: Any = None) -> Any:
        """ppdet 2.6.0 joins scalars, which Paddle 3 does not."""
        return theirs([part.reshape([1]) if part.ndim == 0 else part for part in parts], axis)

    paddle.concat = concat
    import ppdet.modeling  # noqa: F401
    from ppdet.core.workspace import create, load_config
    from ppdet.data.transform.batch_operators import PadBatch
    from ppdet.data.transform.operators import NormalizeImage, Permute, Resize

    model = create(load_config(str(Path(__file__).with_name("config.yml"))).architecture)
    model.eval()
    for name, value in model.state_dict().items():
        value.set_value(weight(name, tuple(value.shape)))
    image = photo()
    sides = np.array(image.shape[:2], np.float32)
    sample = {"image": image, "im_shape": sides, "scale_factor": np.ones(2, np.float32), "im_id": np.array([0])}
    sample = Resize(target_size=[128, 213], keep_ratio=True, interp=2)(sample)
    resized = sample["image"].copy()
    sample = NormalizeImage(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], is_scale=True)(sample)
    sample = PadBatch(pad_to_stride=32)([Permute()(sample)])[0]
    inputs = {
        name: paddle.to_tensor(sample[name][None].astype("float32")) for name in ("image", "im_shape", "scale_factor")
    }
    found: dict[str, Any] = {"resized": resized, "im_shape": sample["im_shape"]}
    stages: dict[str, Any] = {"input": inputs["image"]}
    with paddle.no_grad():
        body = model.backbone(inputs)
        maps = model.neck(body)
        stages |= {f"c{level}": map_ for level, map_ in enumerate(body, 2)}
        stages |= {f"p{level}": map_ for level, map_ in enumerate(maps, 2)}
        for level, map_ in enumerate(model.rpn_head.rpn_feat(maps), 2):
            stages[f"rpn.logits.p{level}"] = model.rpn_head.rpn_rois_score(map_)
            stages[f"rpn.deltas.p{level}"] = model.rpn_head.rpn_rois_delta(map_)
        regions, count, _ = model.rpn_head(maps, inputs)
        (deltas, chances), _ = model.bbox_head(maps, regions, count, None)
        boxes, boxes_count = model.bbox_post_process(
            (deltas, chances), (regions, count), inputs["im_shape"], inputs["scale_factor"]
        )[:2]
        masks = model.mask_head(maps, boxes, boxes_count, inputs)
        original = model.bbox_post_process.get_pred(boxes, boxes_count, inputs["im_shape"], inputs["scale_factor"])
    original = original[1] if isinstance(original, tuple) else original
    for name, array in stages.items():
        found[f"stage/{name}"] = array.numpy().reshape(-1)[:: step(array.numpy())]
    found |= {
        "proposals": regions[0].numpy(),
        "probabilities": chances.numpy(),
        "box_deltas": deltas.numpy(),
        "labels": boxes.numpy()[:, 0].astype(np.int64),
        "scores": boxes.numpy()[:, 1],
        "boxes": original.numpy()[:, 2:],
        "masks": masks.numpy()[:, ::3, ::3],
    }
    np.savez_compressed(out, **found)
    print({name: array.shape for name, array in found.items()}, sample["im_shape"], boxes.numpy()[:5])


if __name__ == "__main__":
    run(sys.argv[1])
