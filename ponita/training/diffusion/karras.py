"""Noise levels, preconditioning and weights of Karras et al. 2022, "Elucidating the design space of diffusion models"."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: What the squared error of a loss is of: the clean data, or the noise.
FORMS = ("x0", "eps")


@dataclass(frozen=True)
class Preconditioning:
    """A denoiser D of a network F whose input and target have unit variance at every noise level.

        D(z; s) = c_skip(s) z + c_out(s) F(c_in(s) z; c_noise(s))          (equation 7, and table 1)

    with z = y + s n, data y of variance sigma_data² and n standard normal: then Var(c_in z) = 1, and the target of F,
    (y - c_skip z) / c_out, has variance 1 too (appendix B.6).

    Attributes:
        sigma_data: standard deviation of the data.

    Raises:
        ValueError: unless it is positive.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data={self.sigma_data}; expected a positive standard deviation.")

    def c_skip(self, sigma: Tensor) -> Tensor:
        """Share of the noisy data that is kept."""
        return self.sigma_data**2 / self._total(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        """Scale of the network's output."""
        return sigma * self.sigma_data / self._total(sigma).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        """Scale of the network's input."""
        return 1 / self._total(sigma).sqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """The noise level as the network reads it, ln(s) / 4."""
        return sigma.log() / 4

    def weight(self, sigma: Tensor, form: str = "x0") -> Tensor:
        """Weight of the squared error |D - y|².

        Args:
            sigma: noise levels.
            form: "x0": (s² + sigma_data²) / (s sigma_data)², which weighs all levels alike in the loss of F (section 5);
                "eps": 1 / s², the squared error of the noise (z - D) / s (Ho et al. 2020). The second is the first
                times sigma_data² / (s² + sigma_data²).

        Raises:
            ValueError: for another form.
        """
        if form not in FORMS:
            raise ValueError(f"the form of the loss is {form!r}; expected one of {list(FORMS)}.")
        return self._total(sigma) / (sigma * self.sigma_data) ** 2 if form == "x0" else 1 / sigma**2

    def _total(self, sigma: Tensor) -> Tensor:
        return sigma**2 + self.sigma_data**2


@dataclass(frozen=True)
class NoiseLevels:
    """Log-normal noise levels of training, ln s ~ N(mean, std²) (Karras et al. 2022, table 1).

    Attributes:
        mean: of ln s.
        std: of ln s.

    Raises:
        ValueError: for a spread that is not positive.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"the spread of ln s is {self.std}; expected a positive number.")

    def quantile(self, share: Tensor) -> Tensor:
        """Noise level below which a share of all are.

        Args:
            share: in (0, 1).
        """
        return (self.mean + self.std * torch.special.ndtri(share)).exp()

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels for the graphs of a batch, one in each of as many equal shares of the distribution.

        Each is log-normal, and together they cover it evenly, so the loss of a batch varies less (Kingma et al. 2021,
        appendix I.1).

        Args:
            count: how many.
            generator: source of randomness, on the CPU.

        Shape:
            [count], float32, in random order
        """
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        share = (torch.randperm(count, generator=generator).double() + offset) / count
        return self.quantile(share.clamp(1e-9, 1 - 1e-9)).float()


def karras_schedule(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels of the steps of a sampler, and zero (Karras et al. 2022, equation 5).

        s_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,  s_n = 0

    Args:
        num_steps: n.
        sigma_min: lowest level above zero.
        sigma_max: level of the start.
        rho: how much steps shorten towards low noise.

    Shape:
        [n + 1], float64, decreasing

    Raises:
        ValueError: for fewer than two steps, or levels that are not positive and in order.
    """
    if num_steps < 2:
        raise ValueError(f"steps={num_steps}; expected at least 2.")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}; expected 0 < sigma_min < sigma_max.")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])
