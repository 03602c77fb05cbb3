"""Why a checkpoint does not load, or will be worse: one module for each kind of cause. None of them imports torch."""
