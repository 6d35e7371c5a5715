"""Guides: what else a denoiser knows. A guide wraps a denoiser and gives a denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Guide": "base",
    "Guided": "base",
    "CFG": "cfg",
    "DensityControl": "density",
    "DensityNoise": "density",
    "scaled_prior": "density",
    "DPS": "dps",
    "ProximalData": "proximal",
    "DDNM": "proximal",
    "Likelihood": "likelihood",
    "KnownCovariance": "covariance",
    "PiGDM": "pigdm",
    "MMPS": "mmps",
    "TMPD": "mmps",
    "Blind": "blind",
    "CFGPlusPlus": "cfg",
    "AdaptiveGuidance": "adaptive",
    "LinearAG": "adaptive",
    "Autoguidance": "auto",
    "BlurGuidance": "blur",
    "AttentionMask": "blur",
    "ClassifierGuidance": "classifier",
    "DynamicGuidance": "classifier",
    "SemanticGuidance": "classifier",
    "channel_statistics": "classifier",
    "smoothed": "classifier",
    "Experts": "experts",
    "low_rank_copy": "experts",
    "Product": "fusion",
    "UniteAndConquer": "fusion",
    "AFA": "fusion",
    "Aggregator": "fusion",
    "GuideAndRescale": "rescale",
    "Recorded": "rescale",
    "Regions": "regions",
    "TokenWise": "regions",
    "EventGuidance": "event",
    "EventProbability": "event",
    "LossGuidance": "loss",
    "SelfMinority": "minority",
    "fit_classifier": "minority",
    "minority_bins": "minority",
    "minority_score": "minority",
    "TokenGuidance": "tokens",
    "PolicyGuidance": "value",
    "ValueGuidance": "value",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.guide.adaptive import AdaptiveGuidance as AdaptiveGuidance
    from unstir.guide.adaptive import LinearAG as LinearAG
    from unstir.guide.auto import Autoguidance as Autoguidance
    from unstir.guide.base import Guide as Guide
    from unstir.guide.base import Guided as Guided
    from unstir.guide.blind import Blind as Blind
    from unstir.guide.blur import AttentionMask as AttentionMask
    from unstir.guide.blur import BlurGuidance as BlurGuidance
    from unstir.guide.cfg import CFG as CFG
    from unstir.guide.cfg import CFGPlusPlus as CFGPlusPlus
    from unstir.guide.classifier import ClassifierGuidance as ClassifierGuidance
    from unstir.guide.classifier import DynamicGuidance as DynamicGuidance
    from unstir.guide.classifier import SemanticGuidance as SemanticGuidance
    from unstir.guide.classifier import channel_statistics as channel_statistics
    from unstir.guide.classifier import smoothed as smoothed
    from unstir.guide.covariance import KnownCovariance as KnownCovariance
    from unstir.guide.density import DensityControl as DensityControl
    from unstir.guide.density import DensityNoise as DensityNoise
    from unstir.guide.density import scaled_prior as scaled_prior
    from unstir.guide.dps import DPS as DPS
    from unstir.guide.event import EventGuidance as EventGuidance
    from unstir.guide.event import EventProbability as EventProbability
    from unstir.guide.experts import Experts as Experts
    from unstir.guide.experts import low_rank_copy as low_rank_copy
    from unstir.guide.fusion import AFA as AFA
    from unstir.guide.fusion import Aggregator as Aggregator
    from unstir.guide.fusion import Product as Product
    from unstir.guide.fusion import UniteAndConquer as UniteAndConquer
    from unstir.guide.likelihood import Likelihood as Likelihood
    from unstir.guide.loss import LossGuidance as LossGuidance
    from unstir.guide.minority import SelfMinority as SelfMinority
    from unstir.guide.minority import fit_classifier as fit_classifier
    from unstir.guide.minority import minority_bins as minority_bins
    from unstir.guide.minority import minority_score as minority_score
    from unstir.guide.mmps import MMPS as MMPS
    from unstir.guide.mmps import TMPD as TMPD
    from unstir.guide.pigdm import PiGDM as PiGDM
    from unstir.guide.proximal import DDNM as DDNM
    from unstir.guide.proximal import ProximalData as ProximalData
    from unstir.guide.regions import Regions as Regions
    from unstir.guide.regions import TokenWise as TokenWise
    from unstir.guide.rescale import GuideAndRescale as GuideAndRescale
    from unstir.guide.rescale import Recorded as Recorded
    from unstir.guide.tokens import TokenGuidance as TokenGuidance
    from unstir.guide.value import PolicyGuidance as PolicyGuidance
    from unstir.guide.value import ValueGuidance as ValueGuidance

__getattr__, __dir__ = attach(__name__, _LAZY)
