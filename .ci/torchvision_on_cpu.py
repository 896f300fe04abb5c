"""Lets PyPI's torchvision, which is linked against CUDA, be imported beside a torch for processors.

It insists on the schemas of two operators that live in its missing library; the image transforms are plain torch. Run
once in an environment: it installs itself as a start-up hook, so that an engine's subprocesses have it too.
"""

from __future__ import annotations

import sys
from pathlib import Path

_kept = []


class _Finder:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(library)


if __name__ == "__main__":
    import sysconfig

    folder = Path(sysconfig.get_path("purelib"))
    (folder / "_torchvision_on_cpu.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "_torchvision_on_cpu.pth").write_text("import _torchvision_on_cpu\n", encoding="utf-8")
else:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
