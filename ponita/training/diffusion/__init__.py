"""Diffusion of molecules: noise levels, preconditioning, loss, samplers."""

from ponita.training.diffusion.atoms import AtomCode
from ponita.training.diffusion.denoiser import (
    Fragment,
    Graphs,
    check_network,
    denoise,
    denoising_loss,
    guided,
    network_inputs,
)
from ponita.training.diffusion.karras import NoiseLevels, Preconditioning, karras_schedule
from ponita.training.diffusion.mean_free import draw_noise, graph_mean, mean_free, project_positions
from ponita.training.diffusion.recipe import Property, Recipe
from ponita.training.diffusion.samplers import Churn, dpm, heun, heun_churn
from ponita.training.diffusion.sizes import SizeHistogram

__all__ = [
    "AtomCode",
    "Churn",
    "Fragment",
    "Graphs",
    "NoiseLevels",
    "Preconditioning",
    "Property",
    "Recipe",
    "SizeHistogram",
    "check_network",
    "denoise",
    "denoising_loss",
    "dpm",
    "draw_noise",
    "graph_mean",
    "guided",
    "heun",
    "heun_churn",
    "karras_schedule",
    "mean_free",
    "network_inputs",
    "project_positions",
]
