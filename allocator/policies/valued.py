"""What serving, judging and caution ask of a policy: what any allocation would earn, and how sure it is of that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checks import FloatArray, IntArray
from ..policy import Policy

NOISE = 0.3
"""Standard deviation of 0/1 rewards of which nine in ten are 1: what a unit of a linear posterior's is in rewards."""


@dataclass(kw_only=True, eq=False)
class Valued(Policy):
    """A policy that learned a model of the reward, by which any allocation can be weighed, not only its own.

    Beliefs about rewards are `stakes`: vectors that add up over questions, so that a server can keep the balance of
    all that it risked, and that `weigh` turns into a mean and a deviation. A linear method's are the expected features
    of its regression, an ensemble's the rewards that its members expect.

    Parameters
    ----------
    **options
        See `Policy`.
    """

    def stakes(self, contexts: FloatArray, covariates: FloatArray, probabilities: FloatArray) -> FloatArray:
        """What is believed of independent choices, patch by patch.

        Parameters
        ----------
        contexts : array, shape [N, d]
        covariates : array, shape [m]
        probabilities : array, shape [N, K]
            Of every patch's arms; an allocation has ones in them.

        Returns
        -------
        array, shape [p]
        """
        raise NotImplementedError

    def weigh(self, stakes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the reward, each ``[n]``, of stakes or sums of them, ``[n, p]``."""
        raise NotImplementedError

    def forget(self, gamma: float) -> None:
        """Let everything learned so far weigh gamma times as much, in [0, 1]; the prior stays."""
        raise NotImplementedError

    def stakes_of(self, contexts: FloatArray, covariates: FloatArray, index: IntArray) -> FloatArray:
        """The stakes ``[p]`` of one allocation ``[N]``."""
        assert self.arms is not None
        return self.stakes(contexts, covariates, np.eye(self.arms)[index])
