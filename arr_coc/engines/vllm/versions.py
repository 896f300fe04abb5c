"""Which versions of vLLM are supported.

0.32 is the one that is tested (``make test-engine``): the last whose transformers range (>=5.16.1, <5.20) meets ours,
and the last with a build for CPUs on PyPI. Earlier minors lack what is used: endpoint plugins that replace routes, and
rendered inputs. Later ones are refused until their seams are tested, since a moved seam would be silent full detail.
"""

TESTED = ("0.32",)
REQUIREMENT = "vllm>=0.32,<0.33"
