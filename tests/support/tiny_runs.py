"""Runs of the command line small enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ponita.data.units import EV_PER_KCAL_MOL

NUMBERS = np.array([6, 1, 1, 1, 8])

NBODY = [
    *("--config", "nbody/quick", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.enable_model_summary", "false"),
    *("--data.init_args.sizes", "[24,8,8]", "--data.init_args.drawn", "[24,8,8]", "--data.init_args.num_steps", "500"),
    *("--data.init_args.save_every", "50", "--data.init_args.input_frame", "2", "--data.init_args.target_frame", "5"),
    *("--data.init_args.batch_size", "8", "--model.init_args.model.init_args.hidden_channels", "8"),
    *("--model.init_args.model.init_args.basis_channels", "8", "--model.init_args.model.init_args.num_layers", "2"),
]
POTENTIAL = [
    *("--config", "potential/quick", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.enable_model_summary", "false"),
    *("--data.init_args.num_valid", "6", "--data.init_args.batch_size", "6", "--data.init_args.download", "false"),
    *("--model.init_args.model.init_args.hidden_channels", "8", "--model.init_args.model.init_args.num_layers", "2"),
    *("--model.init_args.model.init_args.basis_channels", "8"),
]
MIXTURE = [
    *("--data.init_args.num_train", "6", "--data.init_args.num_valid", "6", "--data.init_args.num_test", "8"),
    *("--data.init_args.batch_size", "6"),
]
DIFFUSION = [
    *("--config", "diffusion/quick", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.enable_model_summary", "false"),
    *("--data.init_args.root", "qm9", "--data.init_args.split", "random", "--data.init_args.sizes", "[4,6]"),
    *("--data.init_args.batch_size", "4", "--model.init_args.num_samples", "3"),
    *("--model.init_args.model.init_args.hidden_channels", "8", "--model.init_args.model.init_args.num_layers", "2"),
    *("--model.init_args.model.init_args.basis_channels", "8", "--model.init_args.model.init_args.lattice", "[16,8]"),
]
PROPERTY = [
    *("--config", "property/quick", "--data.init_args.batch_size", "8"),
    *("--data.init_args.split.num_valid", "6", "--data.init_args.split.num_test", "8"),
]
SUPERPIXEL = [
    *("--config", "superpixel/quick", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.enable_model_summary", "false"),
    *("--data.init_args.mnist_folder", "digits", "--data.init_args.download", "false"),
    *("--data.init_args.num_valid", "6", "--data.init_args.batch_size", "6"),
    *("--model.init_args.model.init_args.hidden_channels", "8", "--model.init_args.model.init_args.num_layers", "2"),
    *("--model.init_args.model.init_args.basis_channels", "8"),
]


def write_springs(root: Path, num_frames: int = 50, molecule: str = "ethanol", seed: int = 0) -> Path:
    """A molecule of five atoms on springs in the layout of the rMD17 archive: 30 training and 20 test frames.

    Args:
        root: folder to write to.
        num_frames: frames in all.
        molecule: the name that it goes under.
        seed: of its shape and its frames.
    """
    generator = torch.Generator().manual_seed(seed)
    rest = 1.2 * torch.randn(len(NUMBERS), 3, generator=generator, dtype=torch.float64)
    pos = rest + 0.1 * torch.randn(num_frames, len(NUMBERS), 3, generator=generator, dtype=torch.float64)
    pos.requires_grad_()
    energy = 2.0 * (distances(pos) - distances(rest)).square().sum((1, 2)) - 1100.0
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    (root / "npz_data").mkdir(parents=True, exist_ok=True)
    np.savez(
        root / "npz_data" / f"rmd17_{molecule}.npz",
        nuclear_charges=NUMBERS,
        coords=pos.detach().numpy(),
        energies=energy.detach().numpy() / EV_PER_KCAL_MOL,
        forces=-gradient.numpy() / EV_PER_KCAL_MOL,
    )
    splits = root / "splits" / f"rmd17_{molecule}"
    splits.mkdir(parents=True)
    np.savetxt(splits / "index_train_01.csv", np.arange(30), fmt="%d")
    np.savetxt(splits / "index_test_01.csv", np.arange(30, num_frames), fmt="%d")
    return root


def distances(pos: torch.Tensor) -> torch.Tensor:
    """[..., N, 3] -> [..., N, N], differentiable off the diagonal."""
    r = pos[..., :, None, :] - pos[..., None, :, :] + torch.eye(pos.shape[-2], dtype=pos.dtype)[..., None]
    return r.norm(dim=-1)


def weights(path: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    """Tensors of a training checkpoint."""
    return torch.load(path, weights_only=True)[key]
