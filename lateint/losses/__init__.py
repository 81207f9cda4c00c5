"""Losses on score matrices.

    Ragged queries, Ragged documents -> scorer -> Scores -> Loss -> a number

A loss sees similarities and which of them belong together. It knows no model, no head, no modality
and no tokens; whether a row of scores came from MaxSim over page patches or from one dot product is
nothing to it. Scores are made by `lateint.scorers`, put together in `lateint.objective`.
"""

from lateint.losses.contrastive import InfoNCE, PairwiseSoftplus, Sigmoid
from lateint.losses.distillation import KL, MarginMSE
from lateint.losses.filters import Filtered, duplicates, likely_positives
from lateint.losses.scores import Loss, Scores, Targets

__all__ = [
    "KL",
    "Filtered",
    "InfoNCE",
    "Loss",
    "MarginMSE",
    "PairwiseSoftplus",
    "Scores",
    "Sigmoid",
    "Targets",
    "duplicates",
    "likely_positives",
]
