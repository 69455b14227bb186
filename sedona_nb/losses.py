"""Local losses: cross-entropy with label smoothing in both conventions, and PredSim's pair of losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nb.errors import SedonaError, choose

CONVENTIONS = ("uniform", "others")


def smoothed_targets(
    labels: Tensor, num_classes: int, smoothing: float, convention: str, dtype: torch.dtype | None = None
) -> Tensor:
    """The target distribution q of label smoothing, (B, classes), in `dtype` or PyTorch's default.

    "uniform" spreads `smoothing` over all n classes (Szegedy et al., which the paper cites); "others" spreads it
    over the n-1 wrong ones (the released code), so that the true class keeps exactly 1 - smoothing.
    """
    choose(convention, CONVENTIONS, "label smoothing convention")
    if not 0 <= smoothing < 1:
        raise SedonaError(f"label smoothing {smoothing}: allowed is 0 <= smoothing < 1")
    one_hot = F.one_hot(labels, num_classes).to(dtype or torch.get_default_dtype())
    if convention == "uniform":
        return one_hot * (1 - smoothing) + smoothing / num_classes
    return one_hot * (1 - smoothing) + (1 - one_hot) * smoothing / (num_classes - 1)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.1, convention: str = "uniform") -> Tensor:
    """Mean cross-entropy of (B, classes) scores against (B,) labels under label smoothing (Appendix E).

    The two conventions differ only in how much is smoothed: "others" with eps is "uniform" with eps * n / (n-1).

    Raises:
        SedonaError: unknown convention, or a smoothing that is no share of one.
    """
    choose(convention, CONVENTIONS, "label smoothing convention")
    classes = logits.shape[-1]
    share = smoothing * classes / (classes - 1) if convention == "others" else smoothing
    if not 0 <= share <= 1:
        raise SedonaError(
            f"label smoothing {smoothing} of {classes} classes in convention {convention!r}: too large"
        )
    return F.cross_entropy(logits, labels, label_smoothing=share)


def similarity_matrix(features: Tensor) -> Tensor:
    """Cosine similarities of all pairs in a batch, (B, ...) -> (B, B), of centred features.

    Maps of more than 3 channels and more than one row count by the spatial standard deviation of each channel.
    """
    if features.dim() == 4 and features.shape[1] > 3 and features.shape[2] > 1:
        features = features.flatten(2).std(dim=2)
    features = features.flatten(1)
    centred = features - features.mean(dim=1, keepdim=True)
    unit = centred / (1e-8 + centred.square().sum(dim=1, keepdim=True).sqrt())
    return (unit @ unit.T).clamp(-1, 1)


def predsim_loss(logits: Tensor, features: Tensor, labels: Tensor, similarity_share: float = 0.99) -> Tensor:
    """PredSim (Nokland & Eidnes): (1 - share) * cross-entropy + share * squared error of the similarities.

    Args:
        logits: (B, classes) scores of the prediction head; no label smoothing (Appendix E.2).
        features: output of the similarity head, (B, C, H, W).
        labels: (B,) class numbers.
        similarity_share: 0.99 in the paper (Appendix E.2).
    """
    one_hot = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    matching = F.mse_loss(similarity_matrix(features), similarity_matrix(one_hot))
    return (1 - similarity_share) * F.cross_entropy(logits, labels) + similarity_share * matching
