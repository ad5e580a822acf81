"""RMS norm, in the way that is fast for the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Rows below which one pass of torch's layer norm over twice the width beats its RMS norm, which is
# five passes on a CPU: a row of 576 takes 5.0 us for its 9.7, eight take 7.2 for 10.9.
FEW = 32


class RmsNorm:
    """``[n, d] -> [n, d]``: each row divided by its root mean square, times a gain.

    Args:
        gain: ``[d]``.
        eps: Added to the mean square.
    """

    def __init__(self, gain: Tensor, eps: float) -> None:
        self.gain, self._eps = gain, eps
        self._twice = torch.cat([gain, gain])

    def __call__(self, x: Tensor) -> Tensor:
        """``[n, d] -> [n, d]``."""
        width = self.gain.shape[-1]
        if len(x) >= FEW or x.device.type != "cpu":
            return functional.rms_norm(x, (width,), self.gain, self._eps)
        # Of a row and its negative the mean is 0, so that the variance is the mean square.
        both = torch.cat([x, x.neg()], -1)
        normed = functional.layer_norm(both, (2 * width,), self._twice, None, self._eps)
        return normed[:, :width].contiguous()

    @property
    def nbytes(self) -> int:
        """Bytes of the gain, kept twice over beside itself."""
        return 3 * self.gain.nbytes
