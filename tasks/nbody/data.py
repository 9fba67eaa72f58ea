"""Data of the charged-particle task."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset
from torch_geometric.data import Data

from ponita.data.nbody import Trajectories, load_nbody
from ponita.tasks.datamodule import GraphDataModule

TIME_STEP = 1e-3


class NBodySet(Dataset):
    """Graphs of one part of the data: state at the input frame, positions at the target frame.

    Args:
        paths: trajectories from the input frame (first) to the target frame (last).
    """

    def __init__(self, paths: Trajectories) -> None:
        self.positions = torch.from_numpy(paths.positions).float()
        self.velocities = torch.from_numpy(paths.velocities[:, 0]).float()
        self.charges = torch.from_numpy(paths.charges).float()

    def __len__(self) -> int:
        return self.positions.shape[0]

    def __getitem__(self, index: int) -> Data:
        return Data(
            pos=self.positions[index, 0],
            vec=self.velocities[index][:, None],
            x=self.charges[index][:, None],
            y=self.positions[index, -1],
            sample=torch.tensor([index]),
        )


class NBodyDataModule(GraphDataModule):
    """The published charged-particle data, simulated on first use and kept in `root`.

    Args:
        root: folder of the cached simulations.
        num_particles: particles in a system.
        sizes: systems used for training, validation and test.
        drawn: systems drawn from the random stream for each; the published small set draws 10000, 2000 and 2000.
        input_frame: frame the network sees.
        target_frame: frame whose positions it predicts.
        data_seed: seed of the random stream.
        num_steps: steps of 0.001 time units in a trajectory.
        save_every: steps between frames.
        batch_size: systems in a training batch.
        eval_batch_size: systems in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(
        self,
        root: str = "data/nbody",
        num_particles: int = 5,
        sizes: tuple[int, int, int] = (3000, 2000, 2000),
        drawn: tuple[int, int, int] = (10000, 2000, 2000),
        input_frame: int = 30,
        target_frame: int = 40,
        data_seed: int = 43,
        num_steps: int = 5000,
        save_every: int = 100,
        batch_size: int = 100,
        eval_batch_size: int = 500,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        if not 0 <= input_frame < target_frame:
            raise ValueError(f"input_frame={input_frame}, target_frame={target_frame}; expected 0 <= input < target.")
        self.frames = tuple(range(input_frame, target_frame + 1))
        self.source = {
            "root": root,
            "num_particles": num_particles,
            "sizes": tuple(sizes),
            "drawn": tuple(drawn),
            "seed": data_seed,
            "frames": self.frames,
            "num_steps": num_steps,
            "save_every": save_every,
        }
        #: Time between the two frames.
        self.duration = (target_frame - input_frame) * save_every * TIME_STEP

    def prepare_data(self) -> None:
        load_nbody(**self.source)

    def setup(self, stage: str) -> None:
        if not self.sets:
            self.sets = {name: NBodySet(paths) for name, paths in load_nbody(**self.source).items()}
