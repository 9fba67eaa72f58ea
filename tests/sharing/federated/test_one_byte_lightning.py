"""One byte a sample in Lightning, alone and in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed as dist
from support import one_byte_lightning
from support.one_byte_lightning import QUIET, Regression, loader
from support.one_byte_worker import data, network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ponita.sharing.federated.one_byte import (
    ByteLog,
    LocalTransport,
    OneByteMixin,
    OneByteSPSA,
    TorchDistTransport,
)


class Module(OneByteMixin, L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def one_byte(self, machine, transport):
        return OneByteSPSA(self.net.named_parameters(), lr=2e-2, samples=1, transport=transport)

    def loss(self, params, batch):
        x, y = batch
        return nn.functional.mse_loss(torch.func.functional_call(self.net, params, (x,)), y)


def test_a_lightning_module_is_trained_without_gradients(tmp_path):
    module = Module()
    loader = DataLoader(TensorDataset(*data(0)), batch_size=64)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(max_epochs=150, accelerator="cpu", default_root_dir=tmp_path, num_sanity_val_steps=0, **options)
    x, y = data(0)
    before = float(nn.functional.mse_loss(module.net(x), y).detach())
    trainer.fit(module, loader)
    assert float(nn.functional.mse_loss(module.net(x), y).detach()) < 0.7 * before
    assert module.spsa.time == 150 and all(p.grad is None for p in module.parameters())


def test_two_processes_have_the_same_bits_and_their_own_parts_of_the_data(tmp_path):
    script = Path(one_byte_lightning.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "found")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2)]
    assert found[0]["digest"] == found[1]["digest"] and found[0]["entries"] == found[1]["entries"]
    assert [one["machine"] for one in found] == [0, 1] and [one["sent"] for one in found] == [20, 20]
    assert len(found[0]["entries"]) == 10 and all(set(messages) == {"0", "1"} for _, messages in found[0]["entries"])
    assert any(messages["0"] != messages["1"] for _, messages in found[0]["entries"])
    assert [one["global_step"] for one in found] == [10, 10] and [one["gradients"] for one in found] == [0, 0]
    epoch = [set(one["seen"][: 4 * 4 * 16 : 1]) for one in found]  # 4 batches of 16, evaluated 4 times
    assert not epoch[0] & epoch[1] and len(epoch[0] | epoch[1]) == 128
    late = network()
    log = ByteLog(tmp_path / "again.log")
    for step, messages in found[1]["entries"]:
        log.append(step, {int(machine): bytes.fromhex(sent) for machine, sent in messages.items()})
    made = OneByteSPSA(late.named_parameters(), lr=2e-2, samples=2, log=log)
    assert made.digest() == found[0]["digest"] != OneByteSPSA(network().named_parameters(), lr=1.0).digest()


def test_a_training_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    options = {**QUIET, "accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": False}
    whole = Regression()
    L.Trainer(max_epochs=4, **options).fit(whole, _in_order())
    part, rest = Regression(), Regression()
    trainer = L.Trainer(max_epochs=2, **options)
    trainer.fit(part, _in_order())
    trainer.save_checkpoint(tmp_path / "part.ckpt")
    L.Trainer(max_epochs=4, **options).fit(rest, _in_order(), ckpt_path=tmp_path / "part.ckpt")
    assert part.spsa.time == 16 and rest.spsa.time == 32 and [step for step, _ in rest.spsa.log] == list(range(16, 32))
    assert rest.spsa.digest() == whole.spsa.digest() != part.spsa.digest()
    with pytest.raises(ValueError, match="would count them twice"):
        rest.spsa.load_state_dict(part.spsa.state_dict())


def _in_order():
    return DataLoader(loader().dataset, batch_size=16)


def test_a_transport_needs_a_process_group():
    with pytest.raises(ValueError, match="init_process_group first"):
        TorchDistTransport()


@pytest.fixture
def _group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_module_that_leaves_its_transport_out_is_refused(_group):
    assert Regression().configure_optimizers().transport.group is None
    with pytest.raises(ValueError, match="left out the transport"):
        Regression(private=True).configure_optimizers()


def test_losses_are_those_of_evaluation_also_after_a_validation():
    class Noted(Regression):
        noted, weights = [], []

        def loss(self, params, batch):
            self.noted.append(self.net.training)
            return super().loss(params, batch)

        def validation_step(self, batch, batch_idx):
            self.weights.append(self.spsa.digest())

    options = {"accelerator": "cpu", "enable_checkpointing": False, "val_check_interval": 0.5, **QUIET}
    module = Noted()
    L.Trainer(max_epochs=2, **options).fit(module, _in_order(), _in_order())
    assert module.noted == [False] * (2 * 8 * 4) and len(set(module.weights)) == 4


def test_replicas_that_differ_end_a_training(monkeypatch):
    monkeypatch.setattr(LocalTransport, "agree", lambda *_: False)
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", enable_checkpointing=False, **QUIET)
    with pytest.raises(RuntimeError, match="machines differ in their weights before step 8"):
        trainer.fit(Regression(), _in_order())


@pytest.mark.parametrize("name", ["one_byte", "loss"])
def test_a_module_must_define_what_is_trained(name):
    with pytest.raises(NotImplementedError, match=f"defines no {name}"):
        getattr(OneByteMixin(), name)(None, None)
