"""``python -m arr_coc.reference.training.pages --out RUN``: train the second reference model, or go on with a run."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

from .run import newest
from .stages import STAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoints, log.jsonl, drawn pictures")
    parser.add_argument("--stage", choices=tuple(STAGES), help="this stage only; by default all, in order")
    parser.add_argument("--steps", type=int, help="optimizer steps of the stage")
    parser.add_argument("--lr", type=float, help="peak learning rate of the stage")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, stage in STAGES.items():
        if args.stage in (None, name):
            stage(args.out, Accelerator(), args.steps, args.lr)


__all__ = ["main", "newest"]
if __name__ == "__main__":
    main()
