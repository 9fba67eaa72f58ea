"""Potentials for LAMMPS and the other programs that run metatomic models (package metatomic-torch).

The file that is written holds operators of torch alone: the program that reads it needs metatomic, and not this package.
"""

import warnings
from pathlib import Path
from typing import Dict, List, Optional  # noqa: UP035

import torch
from torch import Tensor, nn

from ponita._version import __version__
from ponita.data import replacing
from ponita.interfaces.evaluator import Evaluator
from ponita.interfaces.script import ScriptedPotential
from ponita.models import Potential

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ModuleNotFoundError as error:
    raise ImportError(f"{error}: this interface is for metatomic, pip install 'ponita[metatomic]'") from error

ARCHITECTURE = (
    "Bekkers, Vadgama, Hesselink, van der Linden, Romero: Fast, Expressive SE(n) Equivariant Networks through "
    "Weight-Sharing in Position-Orientation Space, ICLR 2024, https://arxiv.org/abs/2310.02970"
)


class PonitaMetatomic(nn.Module):
    """Energies of systems as metatomic's models give them; the engine differentiates them.

    All systems of a call are evaluated together.

    Args:
        potential: in TorchScript's reach.
        cutoff: Å.
    """

    def __init__(self, potential: ScriptedPotential, cutoff: float) -> None:
        super().__init__()
        self.potential = potential
        self.pairs = NeighborListOptions(cutoff=cutoff, full_list=True, strict=True)
        for name, value in {
            "no_vectors": torch.zeros(0, 3, dtype=torch.float64),
            "no_atoms": torch.zeros(0, dtype=torch.int64),
            "zero": torch.zeros(1, 1, dtype=torch.int32),
        }.items():
            self.register_buffer(name, value)

    def requested_neighbor_lists(self) -> list[NeighborListOptions]:
        """Every pair within the cut-off, in both directions and with its images."""
        return [self.pairs]

    # Metatomic compares these annotations with classes of `typing`, so none is deferred in this file.
    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """The outputs asked for; called by `AtomisticModel`.

        Args:
            systems: with the neighbour list that was requested, Å.
            outputs: "energy", of systems or of atoms, or nothing.
            selected_atoms: (system, atom) whose energies count; all where None.

        Returns:
            "energy" in eV. The shift of the potential is divided among the atoms of a system.
        """
        if "energy" not in outputs:
            return torch.jit.annotate(dict[str, TensorMap], {})
        energies, samples, first = self.atom_energies(systems)
        if selected_atoms is not None:
            chosen = selected_atoms.values.to(torch.int64)
            rows = first[chosen[:, 0]] + chosen[:, 1]
            energies, samples = energies[rows], samples[rows]
        names = ["system", "atom"]
        if outputs["energy"].sample_kind == "system":
            names = ["system"]
            present = torch.arange(len(systems), device=samples.device)
            if selected_atoms is not None:
                present = torch.unique(samples[:, 0])
            totals = torch.zeros(len(systems), dtype=energies.dtype, device=energies.device)
            energies = totals.index_add(0, samples[:, 0], energies)[present]
            samples = present[:, None]
        block = TensorBlock(
            values=energies[:, None],
            samples=Labels(names, samples.to(torch.int32)),
            components=torch.jit.annotate(list[Labels], []),
            properties=Labels(["energy"], self.zero),
        )
        return {"energy": TensorMap(keys=Labels(["_"], self.zero), blocks=[block])}

    def atom_energies(self, systems: list[System]) -> tuple[Tensor, Tensor, Tensor]:
        """The energy of each atom [N] (eV), its system and its place there [N, 2], and the first atom of each system."""
        vectors, senders, receivers, numbers = [self.no_vectors], [self.no_atoms], [self.no_atoms], [self.no_atoms]
        samples, first = [self.no_atoms.reshape(0, 2)], torch.jit.annotate(list[int], [])
        shares, start = [self.no_vectors[:, 0]], 0
        for number, system in enumerate(systems):
            pairs, size = system.get_neighbor_list(self.pairs), len(system)
            # A vector points from the first atom to the second, as r does from the receiver to the sender.
            vectors.append(pairs.values.reshape(-1, 3))
            receivers.append(pairs.samples.column("first_atom").to(torch.int64) + start)
            senders.append(pairs.samples.column("second_atom").to(torch.int64) + start)
            numbers.append(system.types.to(torch.int64))
            place = torch.arange(size, device=self.no_atoms.device)
            samples.append(torch.stack([torch.full_like(place, number), place], 1))
            shares.append((self.potential.shift / max(size, 1)).expand(size))
            first.append(start)
            start += size
        energies = self.potential(torch.cat(vectors), torch.cat(senders), torch.cat(receivers), torch.cat(numbers))
        return (
            energies + torch.cat(shares),
            torch.cat(samples),
            torch.tensor(first, dtype=torch.int64, device=self.no_atoms.device),
        )


def export(
    potential: Potential | Path | str,
    path: Path | str,
    *,
    head: str | None = None,
    dtype: torch.dtype | str | None = None,
    tabulate: tuple[int, int] = (128, 64),
) -> AtomisticModel:
    """Write a potential as a model of metatomic.

    It takes and returns float64 whatever the dtype of the weights, so that total energies keep their digits. Engines may
    move it to a GPU.

    Args:
        potential: a `Potential`, or a checkpoint (of `ponita.models.save` or of training).
        path: file to write, such as model.pt.
        head: level of theory; the first of the potential where None. One file has one.
        dtype: of the weights, "float32" or "float64"; that of the checkpoint where None.
        tabulate: nodes of a lattice, to put tables in the place of the kernels (`Potential.tabulate`); networks with spline
            kernels are tables already and stay as they are.

    Returns:
        What was written.

    Raises:
        ValueError: for something else than a potential, an unknown head, or a network that has no tables: bundles on
            R3xS2 with a cut-off and without attention have.
    """
    model = wrap(Evaluator(potential, "cpu", dtype, head, tabulate))
    with warnings.catch_warnings(), replacing(path) as temporary:
        # metatomic scripts the model, which recent versions of torch call deprecated
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        model.save(temporary)
    return model


def wrap(evaluator: Evaluator) -> AtomisticModel:
    """The model of metatomic for a potential that is ready for simulations.

    Args:
        evaluator: of a potential with spline kernels.
    """
    potential = evaluator.potential
    module = ScriptedPotential(potential, evaluator.head)
    config = potential.network.config
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom", description="potential energy")},
        atomic_types=list(potential.elements),
        interaction_range=float(config["cutoff"] * config["num_layers"]),
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"],
        dtype="float64",
    )
    metadata = ModelMetadata(
        name="ponita", description=_description(evaluator), references={"architecture": [ARCHITECTURE]}
    )
    return AtomisticModel(PonitaMetatomic(module, float(config["cutoff"])).eval(), metadata, capabilities)


def _description(evaluator: Evaluator) -> str:
    network, head = evaluator.potential.network, evaluator.head or evaluator.potential.heads[0]
    config, dtype = network.config, str(evaluator.dtype).removeprefix("torch.")
    text = (
        f"PONITA potential (ponita {__version__}), level of theory {head!r}: cut-off {config['cutoff']:g} Å, "
        f"{config['num_layers']} layers of {config['hidden_channels']} channels, {config['num_orientations']} orientations, "
        f"kernels on {' x '.join(map(str, config['lattice']))} nodes, weights in {dtype}."
    )
    if not hasattr(network, "tabulation"):
        return text
    return f"{text} Making tables of the kernels changed forces by {network.tabulation.forces:.1e} (relative)."
