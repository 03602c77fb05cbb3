"""What components are called on pages."""

TITLES = {
    "backbone": "backbone",
    "fpn": "pyramid",
    "rpn": "proposal network",
    "box_head": "box head",
    "box_predictor": "box predictor",
    "mask_head": "mask head",
    "mask_predictor": "mask predictor",
}
