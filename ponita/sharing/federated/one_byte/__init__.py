"""Training in which each machine sends one byte for each evaluation (arXiv:2306.10015).

Data and gradients stay where they are, but this is no differential privacy: bytes are functions of private losses, and the
directions are public.
"""

from ponita.sharing.federated.one_byte.codec import ABSENT, ByteCodec
from ponita.sharing.federated.one_byte.gain import Gain
from ponita.sharing.federated.one_byte.log import ByteLog
from ponita.sharing.federated.one_byte.mixin import OneByteMixin
from ponita.sharing.federated.one_byte.noise import gaussian, mix, rademacher
from ponita.sharing.federated.one_byte.optimizer import OneByteSPSA
from ponita.sharing.federated.one_byte.transport import LocalTransport, StoreTransport, TorchDistTransport, publish

__all__ = [
    "ABSENT",
    "ByteCodec",
    "ByteLog",
    "Gain",
    "LocalTransport",
    "OneByteMixin",
    "OneByteSPSA",
    "StoreTransport",
    "TorchDistTransport",
    "gaussian",
    "mix",
    "publish",
    "rademacher",
]
