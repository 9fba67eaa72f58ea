"""Fine-tuning of potentials from a command: what trains, what is stored, what dynamics read; regularisers as callbacks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.io import read
from support.atoms import CONFIG, write_crystals

pytest.importorskip("peft")

from ponita.interfaces.ase import PonitaCalculator
from ponita.models import Potential, load
from ponita.sharing.adapters import load_adapted
from ponita.tasks import runs
from ponita.tasks.cli import main, run
from ponita.tasks.potential import RMD17MixtureDataModule

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type")
BASE = "runs/base/checkpoints/best.ckpt"
ADAPTERS = {
    "mos": {"class_path": "ponita.sharing.adapters.MoSConfig", "init_args": {"r": 2}},
    "bone": {"class_path": "ponita.sharing.adapters.BoneConfig", "init_args": {"r": 4}},
    "houlsby": {"class_path": "ponita.sharing.adapters.BottleneckConfig", "init_args": {"reduction_factor": 4}},
    "lora": {
        "class_path": "peft.LoraConfig",
        "init_args": {"r": 2, "target_modules": r".*blocks\.\d+\.(conv\.(fiber_)?kernel|linear_[12])"},
    },
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder with a potential, and structures of twice its energies to adapt to."""
    folder = tmp_path_factory.mktemp("finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv(runs.VARIABLE, raising=False)
        write_crystals(Path("a.xyz"), 12)
        write_crystals(Path("b.xyz"), 12, seed=4)
        Path("base.yaml").write_text(yaml.safe_dump(settings({"train": "a.xyz", "split": {"valid": 3}})))
        run(["fit", "--config", "base.yaml", "--run_dir", "runs/base"])
    return folder


@pytest.fixture(autouse=True)
def _beside_it(pretrained, monkeypatch):
    monkeypatch.chdir(pretrained)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def settings(data: dict, epochs: int = 2) -> dict:
    return yaml.safe_load(CONFIG.format(data=yaml.safe_dump(data, default_flow_style=True), epochs=epochs))


def words(name: str, epochs: int = 2, callbacks: list | None = None, **task: object) -> list[str]:
    """Words that fine-tune on b.xyz in runs/NAME."""
    config = settings({"train": "b.xyz", "split": {"valid": 3}}, epochs)
    kept = {key: config["model"]["init_args"][key] for key in ("loss_weights", "optimizer")}
    config["model"] = {
        "class_path": "ponita.tasks.potential.finetune.FineTuneTask",
        "init_args": {"checkpoint": BASE, **kept, **task},
    }
    config["trainer"].setdefault("callbacks", []).extend(callbacks or [])
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["fit", "--config", f"{name}.yaml", "--run_dir", f"runs/{name}"]


def energies(potential: Potential) -> list[float]:
    found = []
    for atoms in read("b.xyz", ":4"):
        atoms.calc = PonitaCalculator(potential)
        found.append(atoms.get_potential_energy())
    return found


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_trained_stored_alone_and_run_with_merged_weights(name, capsys):
    task = run(words(name, adapter=ADAPTERS[name])).model
    folder = Path("runs") / name
    description = json.loads((folder / "adapter" / "potential.json").read_text())
    assert description["base"] == str(Path(BASE).resolve())
    assert "trainable of" in (folder / "adapter.txt").read_text()
    base = load(BASE)
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if key.endswith("lift.embedding.weight")]
    stored = sum(value.numel() for value in checkpoint["state_dict"].values())
    assert stored < sum(p.numel() for p in base.parameters())

    adapted = load_adapted(folder / "adapter")
    expected = energies(task.potential.eval())
    np.testing.assert_allclose(energies(adapted), expected, atol=1e-4)
    assert np.abs(np.array(energies(base)) - expected).max() > 1e-3
    by_path = []
    for atoms in read("b.xyz", ":4"):
        atoms.calc = PonitaCalculator(str(folder / "adapter"))
        by_path.append(atoms.get_potential_energy())
    np.testing.assert_allclose(by_path, expected, atol=1e-4)
    with pytest.raises(ValueError, match="checkpoint of an adapter"):
        load(folder / "checkpoints" / "best.ckpt")


def test_dynamics_run_with_an_adapter():
    run(words("md", adapter=ADAPTERS["mos"]))
    command = [
        "md",
        "--ckpt_path",
        "runs/md/adapter",
        "--structure",
        "b.xyz",
        "--steps",
        "3",
        "--out",
        "runs/md/dynamics",
    ]
    main(command)
    assert list(Path("runs/md/dynamics").iterdir())


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been():
    whole = run(words("whole", epochs=4, adapter=ADAPTERS["mos"]))
    run(
        [
            *words("parts", epochs=4, adapter=ADAPTERS["mos"]),
            "--trainer.limit_train_batches",
            "1.0",
            "--trainer.max_steps",
            "6",
        ]
    )
    again = run([*words("parts", epochs=4, adapter=ADAPTERS["mos"]), "--ckpt_path", "runs/parts/checkpoints/last.ckpt"])
    assert again.trainer.global_step == whole.trainer.global_step


def test_reference_energies_are_corrected_before_the_first_step():
    base = load(BASE)
    task = run([*words("frozen", epochs=1, adapter=ADAPTERS["mos"]), "--model.init_args.optimizer.lr", "0"]).model
    before, after = base.reference_energies[0], task.potential.reference_energies[0]
    assert (before - after).abs().max() > 1e-6
    (found,) = task.references.values()
    assert (
        found.source.startswith("those of the potential, corrected by least squares")
        and abs(found.residual_mean) < 1e-6
    )


@pytest.mark.parametrize(("train", "parts"), [(r".*readouts.*", {"readouts"}), (r".*norm.*", {"norm"})])
def test_a_part_of_a_potential_is_trained_and_the_rest_kept(train, parts):
    run(words("part", train=train))
    base, trained = load(BASE).state_dict(), load("runs/part/checkpoints/best.ckpt").state_dict()
    changed = {key for key in base if not torch.equal(base[key], trained[key]) and "reference" not in key}
    assert changed and all(any(part in key for part in parts) for key in changed)


def test_companding_trains_and_its_checkpoints_hold_plain_weights():
    callbacks = [
        {"class_path": "ponita.tasks.callbacks.WeightAverage", "init_args": {"decay": 0.5}},
        {"class_path": "ponita.tasks.regularizers.Compand", "init_args": {"ratio": 2.0}},
    ]
    task = run(words("compand", callbacks=callbacks)).model
    potential = load("runs/compand/checkpoints/best.ckpt")
    assert potential.state_dict().keys() == load(BASE).state_dict().keys()
    np.testing.assert_allclose(energies(potential), energies(task.potential.eval()), atol=1e-5)
    largest = [module.weight.abs().max() for module in load(BASE).modules() if type(module) is torch.nn.Linear]
    assert largest
    resumed = [*words("compand", epochs=3, callbacks=callbacks), "--ckpt_path", "runs/compand/checkpoints/last.ckpt"]
    assert run(resumed).trainer.current_epoch == 3


def test_multi_sample_dropout_trains_a_potential_and_leaves_no_trace():
    callbacks = [{"class_path": "ponita.tasks.regularizers.MultiSampleDropout", "init_args": {"samples": 3, "p": 0.2}}]
    task = run(words("dropout", callbacks=callbacks)).model
    assert task.sampler is None and not task.network.readouts["0"]._forward_hooks
    np.testing.assert_allclose(
        energies(load("runs/dropout/checkpoints/best.ckpt")), energies(task.potential.eval()), atol=1e-5
    )


def lora(**options: object) -> dict:
    return {"class_path": "peft.LoraConfig", "init_args": options}


MISTAKES = {
    "nothing trains": ({"train": "nowhere"}, "nothing would train"),
    "both": ({"train": ".*norm.*", "adapter": ADAPTERS["mos"]}, "modules_to_save of the adapter instead"),
    "no site": ({"adapter": lora(target_modules="nowhere")}, "names no module of Potential"),
    "rank": (
        {"adapter": lora(r=99, target_modules=".*blocks.*linear_1")},
        "r=99 is larger than network.blocks.0.linear_1",
    ),
    "blocks": ({"adapter": {**ADAPTERS["bone"], "init_args": {"r": 7}}}, "blocks of r=7 do not divide"),
    "checkpoint": ({"checkpoint": "nowhere.ckpt"}, "no checkpoint at nowhere.ckpt"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_and_leave_no_adapter(case, capsys):
    task, message = MISTAKES[case]
    with pytest.raises(SystemExit):
        main(words("bad", **task))
    error = capsys.readouterr().err
    assert message in error and "Union subtypes" not in error
    assert not Path("runs/bad/adapter").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"molecules": ["water"]}, r"molecules=\['water'\]; expected different ones of"),
        ({"molecules": []}, "expected different ones of"),
        ({"molecules": ["ethanol"], "num_train": 990}, "no more than there are"),
        ({"molecules": ["ethanol"], "num_test": 0}, "at least 1 of each"),
    ],
)
def test_mixtures_of_molecules_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        RMD17MixtureDataModule(**options)
