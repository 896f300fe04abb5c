"""The scorer in JAX, for machines where XLA is the fast path: the same numbers as `allocator.linalg`, to 1e-5.

Optional: pip install 'arr-coc[jax]'. `vmap` writes the formula for one context and one arm, `jit` fuses it into one
batched GEMM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .extras import optional


def make_scorer() -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Build the compiled scorer.

    Returns
    -------
    callable
        (contexts [n, d], means [K, d], factors [K, d, d]) -> (mean [n, K], sigma [n, K]), float32 arrays of JAX.
        `factors` are the lower Cholesky factors L_k of the covariances: sigma = ||x' L_k||.

    Raises
    ------
    ImportError
        If JAX is not installed.
    """
    jax = optional("jax")
    numpy = optional("jax.numpy", "jax")

    def one(x: Any, theta: Any, factor: Any) -> tuple[Any, Any]:
        # "highest" keeps accelerators that default to bfloat16 products within the promised 1e-5.
        product = numpy.matmul(x, factor, precision="highest")
        return numpy.dot(x, theta, precision="highest"), numpy.sqrt(numpy.sum(product * product))

    over_arms = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.jit(jax.vmap(over_arms, in_axes=(0, None, None)))
