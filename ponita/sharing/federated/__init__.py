"""Training across labs that keep their data: averaging under unknown participation, and one byte a step."""

from ponita.sharing.federated.participation import Bernoulli, Cyclic, Markov
from ponita.sharing.federated.participation_weights import ParticipationWeights
from ponita.sharing.federated.servers import (
    AverageAll,
    AverageParticipating,
    FedAU,
    FedVarp,
    KnownRates,
    Mifa,
    Server,
)

__all__ = [
    "AverageAll",
    "AverageParticipating",
    "Bernoulli",
    "Cyclic",
    "FedAU",
    "FedVarp",
    "KnownRates",
    "Markov",
    "Mifa",
    "ParticipationWeights",
    "Server",
]
