"""The contrastive loss (arXiv 2506.04344, section 3.2), as InfoNCE in both directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOG_SCALE_START = math.log(20)
LOG_SCALE_MAX = math.log(100)
ALIGNMENT_MEMORY = 0.99  # of the running mean, a step: thousands of texts weigh in


def scale_of(log_scale: Tensor) -> Tensor:
    """What similarities are multiplied by, within [1, 100]."""
    return log_scale.clamp(0, LOG_SCALE_MAX).exp()


def keep_in_range(log_scale: Tensor) -> None:
    """Bring it back after a step: outside, it would have no gradient and stay there."""
    with torch.no_grad():
        log_scale.clamp_(0, LOG_SCALE_MAX)


def info_nce(
    first: Tensor,
    second: Tensor,
    log_scale: Tensor,
    same: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    """InfoNCE over the batch, first to second and second to first, averaged.

    Args:
        first: ``[B, d]`` unit vectors.
        second: ``[B, d]`` unit vectors; row i is the positive of row i.
        log_scale: Scalar; similarities are scaled by its exponential, clamped to [1, 100].
        same: bool ``[B, B + M]``, True where column j is no negative of i (same text or source).
        negatives: ``[M, d]`` unit vectors, more negatives of every row of `first`.

    Returns:
        Scalar loss.
    """
    size = len(first)
    columns = second if negatives is None else torch.cat([second, negatives])
    scores = scale_of(log_scale) * first @ columns.T  # (B, B + M)
    if same is not None:
        others = same.clone()
        others.fill_diagonal_(False)
        scores = scores.masked_fill(others, -torch.inf)
    target = torch.arange(size, device=scores.device)
    ce = nn.functional.cross_entropy
    return (ce(scores, target) + ce(scores[:, :size].T, target)) / 2


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the student's similarities within the batch are from the teacher's.

    Each text's similarities to all others, as a distribution; KL divergence, averaged over texts.

    Args:
        student: ``[N, d]`` unit vectors, with gradients.
        teacher: ``[N, d']`` unit vectors of the same texts.
        temperature: Similarities are divided by it, on both sides.

    Returns:
        Scalar loss.
    """
    itself = torch.arange(len(student), device=student.device)
    return _divergence(student @ student.T, teacher @ teacher.T, itself, temperature)


def _divergence(mine: Tensor, theirs: Tensor, itself: Tensor, temperature: float) -> Tensor:
    """KL divergence of similarities ``[N, M]`` as distributions, averaged over texts.

    Text i is one of the M too, at ``itself[i]``: how like itself it is says nothing.
    """
    student, teacher = (
        (scores / temperature).scatter(1, itself[:, None], -1e4).log_softmax(1)
        for scores in (mine, theirs)
    )
    return nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


class Rotation(nn.Module):
    """How the teacher's space is turned onto the student's: orthogonal Procrustes.

    The best fit is known in closed form (Schönemann 1966). It is that of a running mean over the
    batches, so it follows the student while that moves.

    Args:
        size: d, of the student's vectors.
        teacher_size: d', of the teacher's.
    """

    def __init__(self, size: int, teacher_size: int) -> None:
        super().__init__()
        # A parameter that no gradient moves: it is saved and resumed with the others.
        self.covariance = nn.Parameter(torch.zeros(size, teacher_size), requires_grad=False)

    @torch.no_grad()
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Take a batch into the running mean; the turned space's axes ``[d, d']``.

        Args:
            student: ``[N, d]`` unit vectors.
            teacher: ``[N, d']`` unit vectors of the same texts.
        """
        self.covariance.lerp_(student.T @ teacher / len(student), 1 - ALIGNMENT_MEMORY)
        left, _, right = torch.linalg.svd(self.covariance, full_matrices=False)
        axes: Tensor = left @ right
        return axes


def alignment(student: Tensor, teacher: Tensor, rotation: Tensor) -> Tensor:
    """How far texts' vectors are from the teacher's, turned: mean of one minus the cosine, 0 to 2.

    Args:
        student: ``[N, d]`` unit vectors, with gradients.
        teacher: ``[N, d']`` unit vectors of the same texts.
        rotation: ``[d, d']`` of a `Rotation`.
    """
    target = nn.functional.normalize(teacher @ rotation.T, dim=-1)  # (N, d)
    return 1 - (student * target).sum(1).mean()


def neighbourhood(
    student: Tensor,
    teacher: Tensor,
    rotation: Tensor,
    known: Tensor,
    places: Tensor,
    temperature: float,
) -> Tensor:
    """How far texts are from having the teacher's neighbours among all the texts it knows.

    The similarities of a text's vector to the teacher's vectors of all other texts, as a
    distribution, beside the teacher's own; KL divergence, averaged over texts (the idea of SEED,
    Fang et al. 2021, with the whole training set for its queue). Where the vector itself is out of
    the student's reach, this says which of its directions tell near texts apart.

    Args:
        student: ``[N, d]`` unit vectors, with gradients.
        teacher: ``[N, d']`` unit vectors of the same texts.
        rotation: ``[d, d']`` of a `Rotation`.
        known: ``[M, d']``, the teacher's unit vectors of all texts.
        places: int64 ``[N]``, where each text is among them; it is no neighbour of itself.
        temperature: Similarities are divided by it, on both sides.

    Returns:
        Scalar loss.
    """
    return _divergence(student @ rotation @ known.T, teacher @ known.T, places, temperature)


def soft_labels(similarity: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """How far similarities are from a teacher's scores of the same candidates.

    Both as distributions over a row's candidates; KL divergence, averaged over rows (ART, Sachan
    et al. 2022).

    Args:
        similarity: ``[Q, C]`` with gradients, already scaled.
        scores: ``[Q, C]``, the teacher's.
        temperature: `scores` are divided by it.

    Returns:
        Scalar loss.
    """
    target = (scores / temperature).log_softmax(1)
    mine = similarity.log_softmax(1)
    return nn.functional.kl_div(mine, target, log_target=True, reduction="batchmean")
