"""Labs that hold different configurations of a molecule, and how often each takes part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ponita.models import Ponita
from ponita.nn import calibrate
from ponita.sharing.federated import Bernoulli, Cyclic, Markov
from ponita.sharing.federated.participation import Participation
from ponita.sharing.ready import assert_ready
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.potential import EnergyForceTask
from ponita.tasks.potential.normalization import normalize_from
from ponita.tasks.potential.outside import batch_losses, force_error, parts_by_energy, rotated_batches
from ponita.training import LossWeights

PATTERNS = {"bernoulli": Bernoulli, "markov": Markov, "cyclic": Cyclic}
State = dict[str, Tensor]


class FederatedPotential:
    """One potential for labs whose data differ in content, and whose participation goes with the content.

    The training set is sorted by energy and divided evenly: the first lab holds the calmest configurations, the last one the most
    distorted. Rates of participation go with that, so an average over those who are present knows too little of what is rare. All
    labs begin with the same weights, normalised and calibrated once, and their shift and scale are the server's.

    Args:
        network: arguments of `Ponita`.
        elements: atomic numbers of the data, in the order of the network's channels.
        data: with energies and forces of every structure.
        labs: N.
        rates: of participation, of the calmest lab and of the most distorted one; those between are spread evenly.
        pattern: "bernoulli", "markov" or "cyclic".
        local_steps: of a lab in a round.
        local_lr: learning rate of a lab (Adam, begun anew in each round).
        decay_rounds: rounds after which it is half of that, as 1 / (1 + round / decay_rounds); none for a constant one. The noise of
            labs that come and go dies with it, and what is left is the bias of an average.
        loss_weights: of energies and forces.
        seed: of weights, data order, rotations and participation.

    Raises:
        ValueError: for another pattern, or numbers that cannot be.
    """

    def __init__(
        self,
        network: dict[str, Any],
        elements: list[int],
        data: GraphDataModule,
        labs: int = 12,
        rates: tuple[float, float] = (0.05, 0.6),
        pattern: str = "bernoulli",
        local_steps: int = 5,
        local_lr: float = 2e-3,
        decay_rounds: int | None = None,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        seed: int = 0,
    ) -> None:
        if pattern not in PATTERNS:
            raise ValueError(f"pattern={pattern!r}; expected one of {list(PATTERNS)}.")
        if labs < 2 or local_steps < 1 or not all(0 < rate <= 1 for rate in rates):
            raise ValueError(
                f"labs={labs}, local_steps={local_steps}, rates={rates}; expected two labs or more, a step, and rates above 0 and at most 1."
            )
        self.network, self.elements, self.data = {"in_channels": len(elements), **network}, elements, data
        if decay_rounds is not None and decay_rounds < 1:
            raise ValueError(f"decay_rounds={decay_rounds}; expected at least 1, or null for a constant learning rate.")
        self.local_steps, self.local_lr, self.decay_rounds = local_steps, local_lr, decay_rounds
        self.loss_weights = loss_weights
        self.pattern, self.seed = pattern, seed
        self.labs = [f"lab-{number + 1:02d}" for number in range(labs)]
        spread = torch.linspace(*rates, labs, dtype=torch.float64).tolist()
        self.rates: Mapping[str, float] = dict(zip(self.labs, spread, strict=True))
        Ponita(**self.network)  # its mistakes before any data are read

    def setup(self) -> None:
        """Read the data, and deal them out."""
        self.data.prepare_data()
        self.data.setup("fit")
        parts = parts_by_energy(self.data.sets["train"], len(self.labs))
        self.rows = dict(zip(self.labs, parts, strict=True))

    def new_task(self) -> EnergyForceTask:
        """The potential that all begin with."""
        torch.manual_seed(self.seed)
        task = EnergyForceTask(
            Ponita(**self.network), self.elements, self.loss_weights, self_loops=False, seed=self.seed
        )
        normalize_from(task.potential, self.data, self.loss_weights, None)
        calibrate(task.model, task.model_inputs(self.data.first_batch()))
        assert_ready(task.model)
        return task

    def participation(self) -> Participation:
        """The pattern, from its first round."""
        return PATTERNS[self.pattern](self.rates, self.seed)

    def present(self, round_: int) -> set[str]:
        """Names of the labs that take part in a round, for one who does not follow `participation` from the first.

        Args:
            round_: number of the round, from 0.
        """
        pattern = self.participation()
        for _ in range(round_):
            pattern.round()
        return pattern.round()

    def local_update(self, task: EnergyForceTask, state: State, lab: str, round_: int) -> State:
        """What a lab sends after its steps: new state minus old, of the floating-point parameters.

        Args:
            task: used for the computation; afterwards it has the weights of the lab.
            state: of the server.
            lab: its name.
            round_: number of the round, from 0.
        """
        load(task, state)
        key = 100_003 * self.seed + 1009 * round_ + self.labs.index(lab)
        generator = torch.Generator().manual_seed(key)
        decay = 1.0 if self.decay_rounds is None else 1 / (1 + round_ / self.decay_rounds)
        optimizer = torch.optim.Adam(task.model.parameters(), lr=decay * self.local_lr)
        rows, size = self.rows[lab], self.data.batch_size
        drawn = rows[torch.randint(len(rows), (self.local_steps * size,), generator=generator)]
        for batch in rotated_batches(self.data.sets["train"], drawn, size, generator):
            optimizer.zero_grad()
            batch_losses(task, batch)[0].mean().backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
        return {name: p.detach() - state[name] for name, p in task.model.named_parameters()}

    def error(self, task: EnergyForceTask, state: State, part: str = "test") -> float:
        """Mean absolute error of force components, meV/Å."""
        load(task, state)
        return force_error(task, self.data.batches(part))

    def error_of_lab(self, task: EnergyForceTask, state: State, lab: str, most: int = 20) -> float:
        """The same on structures of one lab."""
        load(task, state)
        rows = self.rows[lab][:most]
        generator = torch.Generator().manual_seed(0)
        return force_error(task, rotated_batches(self.data.sets["train"], rows, len(rows), generator))


def state_of(task: EnergyForceTask) -> State:
    """Parameters of the potential; its shift, scale and references stay with the server."""
    return {name: p.detach().clone() for name, p in task.model.named_parameters()}


def load(task: EnergyForceTask, state: State) -> None:
    """Give the potential the weights of a state."""
    own = dict(task.model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
