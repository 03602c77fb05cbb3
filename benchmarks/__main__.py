"""python -m benchmarks [NAME …] [--quick] [--out FOLDER]: without a name, all of them, one after the other."""

import argparse
from importlib import import_module
from pathlib import Path

from benchmarks.timing import readme

BENCHMARKS = {
    "faults": "is the first finding of a diagnosis the cause, over checkpoints with a hundred known faults",
    "from-scratch": "random weights on drawn shapes, beside torchvision's reference recipe for the same time",
    "reading": "opening and reading checkpoints, beside safetensors, torch.load and TensorFlow",
    "retention": "what a model keeps of old classes while it learns a new one, beside plain fine-tuning",
    "loading": "a checkpoint to a ready model, beside torch.load and load_state_dict",
    "predicting": "photographs to masks, beside torchvision",
    "limits": "the exported graph in ONNX Runtime and OpenVINO",
    "training_step": "forward, losses, backward and optimizer, beside torchvision",
    "feeding": "photographs and masks to batches, beside torchvision's reference",
    "evaluating": "COCO's metrics, beside pycocotools",
    "growth": "prediction by side, instances and classes; feeding by workers; a training step by processes",
    "watching": "what the doctor's watch costs a step of training, beside the same training without it",
    "on-gpu": "predicting and training on a GPU, beside torchvision",
    "stuck": "is the first finding of the doctor the cause, over trainings with a hundred known faults",
}
GO_ON = ("from-scratch", "retention")  # they train for so long that a run may have to be stopped


def main() -> None:
    told = "\n".join(f"  {name:<15}{what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--table", action="store_true", help="measure nothing; print what was measured, for the README")
    parser.add_argument("--quick", action="store_true", help="small files, few rounds: does it run, and about where")
    parser.add_argument("--out", type=Path, help="a folder for the JSON; else benchmarks/results, unless --quick")
    parser.add_argument(
        "--go-on", action="store_true", help=f"of {' and '.join(GO_ON)}: measure only what the JSON does not have yet"
    )
    parser.add_argument("--tensorflow", help="a Python interpreter that has TensorFlow, for the comparison with it")
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if options.go_on and not set(options.names or BENCHMARKS) <= set(GO_ON):
        parser.error(f"--go-on is for {' and '.join(GO_ON)}")
    if options.table:
        print(readme(options.names or tuple(BENCHMARKS)))
        return
    for name in options.names or BENCHMARKS:
        print(f"## {name}: {BENCHMARKS[name]}\n", flush=True)
        import_module(f"benchmarks.{name.replace('-', '_')}").run(
            quick=options.quick,
            out=options.out / f"{name}.json" if options.out else None,
            tensorflow=options.tensorflow,
            **({"go_on": True} if options.go_on else {}),
        )
        print(flush=True)


if __name__ == "__main__":
    main()
