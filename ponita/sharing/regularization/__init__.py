"""Regularisers that are put into a network and taken out again: multi-sample dropout, weight companding."""

from ponita.sharing.regularization.multi_sample_dropout import MultiSampleHead, ReadoutSampler
from ponita.sharing.regularization.weight_compander import FUNCTIONS, Compander, compand, uncompand

__all__ = ["FUNCTIONS", "Compander", "MultiSampleHead", "ReadoutSampler", "compand", "uncompand"]
