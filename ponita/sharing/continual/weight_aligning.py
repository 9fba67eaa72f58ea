"""Class-incremental learning: distillation from the network before, and read-outs whose new rows are scaled to the old ones (WA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class AlignReport:
    """What alignment did.

    Attributes:
        gamma: factor of the new rows.
        norm_old: mean norm of the old rows, before.
        norm_new: of the new ones, before.
        capped: the factor would have been larger than allowed.
    """

    gamma: float
    norm_old: float
    norm_new: float
    capped: bool


@dataclass
class AlignConfig:
    """Settings of a class-incremental training.

    The defaults are the safer ones for features that can be negative, as behind a GELU and residual connections; `official` are those
    of the authors' program, which counts on features from a ReLU.

    Args:
        p: of the norm of a row.
        clip: keep the weights of read-outs at least 0, after every step.
        head_init: of the rows when classes are added: "fresh" for all, or "copy" of the old ones.
        max_gamma: bound of the factor; a larger one lifts new rows over old ones. None for no bound.
        temperature: of the distillation.
        wd_per_stage: divide the weight decay by the number of the stage, from 1.
    """

    p: float = 2
    clip: bool = False
    head_init: str = "fresh"
    max_gamma: float | None = 1.0
    temperature: float = 2.0
    wd_per_stage: bool = True

    def __post_init__(self) -> None:
        if self.head_init not in ("fresh", "copy") or not self.p > 0 or not self.temperature > 0:
            raise ValueError(
                f"p={self.p}, head_init={self.head_init!r}, temperature={self.temperature}; expected positive numbers and 'fresh' or 'copy'."
            )

    @classmethod
    def official(cls) -> AlignConfig:
        """Of the authors' program: L1 norms, weights clipped."""
        return cls(p=1, clip=True)


def align_weights(
    heads: nn.Linear | Sequence[nn.Linear],
    num_old: int,
    num_new: int | None = None,
    *,
    p: float = 2,
    max_gamma: float | None = 1.0,
    scale_bias: bool = False,
) -> AlignReport:
    """Scale the rows of new classes so that the mean norm of all rows is that of the old ones, in place.

    A network with several read-outs, whose outputs are averaged, has one row for a class: that of all read-outs one after the
    other. It gets one factor; a factor for each read-out would change the ranking among the new classes.

    Args:
        heads: read-outs, with a row for each class; the old ones first.
        num_old: classes that were learned before.
        num_new: classes after them; all the others where None.
        p: of the norm.
        max_gamma: bound of the factor.
        scale_bias: scale biases too.

    Raises:
        ValueError: without old or new classes, for more than there are, and for norms that are zero or not finite.

    Source: Zhao et al., CVPR 2020, arXiv:1911.07053, section 4.2.
    """
    each = [heads] if isinstance(heads, nn.Linear) else list(heads)
    total = min((head.out_features for head in each), default=0)
    num_new = total - num_old if num_new is None else num_new
    if num_old < 1 or num_new < 1 or num_old + num_new > total:
        raise ValueError(
            f"{num_old} old and {num_new} new classes of {total}; expected at least one of both, and no more."
        )
    rows = torch.cat([head.weight.detach()[: num_old + num_new] for head in each], dim=1).double()
    norms = rows.norm(p=p, dim=1)
    old, new = float(norms[:num_old].mean()), float(norms[num_old:].mean())
    if not 0 < old < float("inf") or not 0 < new < float("inf"):
        raise ValueError(
            f"mean norms are {old:g} of the old and {new:g} of the new rows; expected positive, finite numbers."
        )
    gamma = old / new
    capped = max_gamma is not None and gamma > max_gamma
    gamma = max_gamma if capped else gamma
    with torch.no_grad():
        for head in each:
            head.weight[num_old : num_old + num_new] *= gamma
            if scale_bias and head.bias is not None:
                head.bias[num_old : num_old + num_new] *= gamma
    return AlignReport(gamma, old, new, capped)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy of the softened outputs for the old classes against those of the teacher, without a factor T².

    Args:
        logits: [G, C] of the student, of which the first are the old classes.
        teacher: [G, C_old] of the network before, after its own alignment.
        temperature: T.
    """
    old = logits[:, : teacher.shape[1]]
    target = (teacher.detach() / temperature).softmax(1)
    return -(target * (old / temperature).log_softmax(1)).sum(1).mean()


def incremental_loss(logits: Tensor, y: Tensor, teacher: Tensor | None, temperature: float = 2.0) -> Tensor:
    """(1 - l) CE + l KD with l = C_old / C; cross-entropy alone in the first stage.

    Args:
        logits: [G, C].
        y: [G] classes.
        teacher: [G, C_old], or None.
        temperature: of the distillation.
    """
    ce = functional.cross_entropy(logits, y)
    if teacher is None:
        return ce
    share = teacher.shape[1] / logits.shape[1]
    return (1 - share) * ce + share * distillation_loss(logits, teacher, temperature)


def grow_head(head: nn.Linear, num_classes: int, init: str = "fresh") -> nn.Linear:
    """A read-out of more classes, without a bias where there was none.

    Args:
        head: before.
        num_classes: after; at least as many.
        init: "fresh": all rows are new, as in the authors' program; "copy": old rows stay.

    Raises:
        ValueError: for fewer classes, or another `init`.
    """
    if num_classes < head.out_features or init not in ("fresh", "copy"):
        raise ValueError(
            f"num_classes={num_classes} after {head.out_features}, init={init!r}; expected no fewer, and 'fresh' or 'copy'."
        )
    weight = head.weight
    grown = nn.Linear(head.in_features, num_classes, bias=head.bias is not None).to(weight.device, weight.dtype)
    if init == "copy":
        with torch.no_grad():
            grown.weight[: head.out_features] = weight
            if head.bias is not None:
                grown.bias[: head.out_features] = head.bias
    return grown


def clip_heads(heads: Sequence[nn.Linear]) -> None:
    """Set negative weights to zero: with features that are not negative, larger rows then mean larger outputs."""
    with torch.no_grad():
        for head in heads:
            head.weight.clamp_(min=0)
