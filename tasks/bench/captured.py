"""What is measured, recorded as CUDA graphs: for systems so small that launching kernels takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ponita.tasks.bench.measure import Calls, Inputs, energy_forces, forward
from ponita.training.cuda_graphs import Captured


def calls() -> Calls:
    """Forward, and energies and forces, each recorded at its first call; later ones copy the positions and replay."""
    return Calls(_recorded(lambda *given: (forward(*given),), lambda outputs: outputs[0]), _recorded(_detached, tuple))


def _recorded(
    function: Callable[[nn.Module, Inputs], tuple[Tensor, ...]], finish: Callable[[tuple[Tensor, ...]], Any]
) -> Callable[[nn.Module, Inputs], Any]:
    recordings: dict[nn.Module, Captured] = {}

    def call(model: nn.Module, inputs: Inputs) -> Any:
        if model not in recordings:
            recordings[model] = Captured(lambda given: function(model, given), inputs, inputs["pos"].device)
        return finish(recordings[model](pos=inputs["pos"]))

    return call


def _detached(model: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
    energy, forces = energy_forces(model, inputs)
    return energy.detach(), forces
