"""The class names of COCO, in the two id spaces in which checkpoints have them, and of Pascal VOC."""

# In the order of category ids, without the eleven ids that COCO 2017 leaves out: contiguous labels 0..79.
COCO_80 = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)

# Pascal VOC 2012, in alphabetic order.
VOC_20 = tuple(
    "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,sheep,"
    "sofa,train,tvmonitor".split(",")
)

# Category ids that COCO 2017 does not use; torchvision and the TF Object Detection API keep a dead row for each.
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def _by_id() -> tuple[str, ...]:
    names = iter(COCO_80)
    return tuple(f"unused {number}" if number in COCO_UNUSED_IDS else next(names) for number in range(1, 91))


# Index = category id - 1: labels 0..89.
COCO_90 = _by_id()


def numbered(classes: int) -> tuple[str, ...]:
    """Stand-ins where no name is known: "class 1" … in the file's order."""
    return tuple(f"class {number}" for number in range(1, classes + 1))
