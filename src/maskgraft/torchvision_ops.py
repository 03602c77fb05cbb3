"""The operations that maskgraft takes from torchvision, and a clear word when they cannot be loaded."""

try:
    from torchvision.ops import batched_nms as batched_nms
    from torchvision.ops import generalized_box_iou_loss as generalized_box_iou_loss
    from torchvision.ops import nms as nms
    from torchvision.ops import roi_align as roi_align
except RuntimeError as error:  # "operator torchvision::nms does not exist"
    import torch

    raise ImportError(
        f"torchvision's compiled operations do not fit torch {torch.__version__} ({error}). This happens when torch "
        "and torchvision come from different builds, such as a +cpu torch beside the registry's torchvision. "
        "Install both from the same place: pip install --force-reinstall torch torchvision"
    ) from error
