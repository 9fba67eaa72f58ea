"""What every adapter must do, ours and those of `peft`, on a potential of this package."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")

from ponita import Ponita  # noqa: E402
from ponita.geometry import grid_symmetry  # noqa: E402
from ponita.models import Potential, load, save  # noqa: E402
from ponita.nn import calibrate  # noqa: E402
from ponita.sharing.adapters import (  # noqa: E402
    LINEAR_SITES,
    NORM_SITES,
    BoneConfig,
    BottleneckConfig,
    MoSConfig,
    adapter_report,
    load_adapted,
    save_adapter,
)

# peft says so of LayerNorms, which its LNTuning is for
pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type '<class 'torch.nn.modules.normalization.LayerNorm'>'"
)

SITES = {"target_modules": LINEAR_SITES}
#: Numbers of the linear sites of the small network: (inputs, outputs) of kernel, fiber_kernel, linear_1, linear_2.
SHAPES = [(12, 8), (12, 8), (8, 16), (16, 8)]
LAYERS = 2
OUTPUTS = 2 * LAYERS  # sites of bottlenecks


def lora(r: int) -> int:
    return LAYERS * sum(r * (i + o) for i, o in SHAPES)


def norms() -> int:
    return LAYERS * 2 * 8


#: By name: configuration, numbers that train by the closed formula, and whether it can be merged.
METHODS: dict[str, tuple[Callable[[], peft.PeftConfig], int, bool]] = {
    "lora": (lambda: peft.LoraConfig(r=2, **SITES), lora(2), True),
    "rslora": (lambda: peft.LoraConfig(r=2, use_rslora=True, **SITES), lora(2), True),
    "dora": (lambda: peft.LoraConfig(r=2, use_dora=True, **SITES), lora(2) + LAYERS * (8 + 8 + 16 + 8), True),
    "miss": (lambda: peft.MissConfig(r=4, **SITES), LAYERS * 4 * (8 + 8 + 16 + 8), True),
    "bat": (lambda: peft.MissConfig(r=4, init_weights="bat", **SITES), LAYERS * 4 * (8 + 8 + 16 + 8), True),
    "mini": (lambda: peft.MissConfig(r=4, mini_r=4, init_weights="mini", **SITES), LAYERS * 4 * 4 * 4, True),
    "layer norm": (lambda: peft.LNTuningConfig(target_modules=NORM_SITES), norms(), True),
    "bone row": (lambda: BoneConfig(r=4), LAYERS * 4 * (12 + 12 + 8 + 16), True),
    "bone col": (lambda: BoneConfig(r=4, grouping="col"), LAYERS * 4 * (8 + 8 + 16 + 8), True),
    "bone free": (lambda: BoneConfig(r=4, grouping="free"), LAYERS * 4 * 16, True),
    "bone ab": (lambda: BoneConfig(r=4, grouping="ab"), LAYERS * 2 * 4 * (12 + 12 + 8 + 16), True),
    "mos": (lambda: MoSConfig(r=3), lora(2), True),
    "mos by shape": (lambda: MoSConfig(r=3, pool_by="shape"), lora(2), True),
    "mos by dim": (lambda: MoSConfig(r=3, pool_by="dim"), lora(2), True),
    "houlsby": (lambda: BottleneckConfig(reduction_factor=4), OUTPUTS * (2 * 8 * 2 + 2 + 8) + norms(), False),
    "compacter": (
        lambda: BottleneckConfig(reduction_factor=4, source="phm", phm_n=2),
        OUTPUTS * ((8 + 2) + 2 + (2 + 8) + 8) + 2**3 + norms(),
        False,
    ),
    "hyperformer": (
        lambda: BottleneckConfig(
            reduction_factor=4, source="hyper", task_dim=4, hyper_hidden=8, hyper_proj=3, hyper_plus=True
        ),
        (1 + LAYERS + 2) * 4 + (3 * 4 * 8 + 8) + (8 * 3 + 3) + 2 * 3 + (2 * 4 * 8 * 2 + 4 * (2 + 8)) + norms(),
        False,
    ),
}
MERGEABLE = [name for name, (_, _, mergeable) in METHODS.items() if mergeable]
BOTTLENECKS = [name for name in METHODS if name not in MERGEABLE]

POS = torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0.2], [-0.2, 1.1, 0.1], [0.3, -0.4, 1.2], [1.4, 1.0, -0.6]])
NUMBERS = torch.tensor([8, 1, 1, 6, 1])


def potential(kernel: str = "spline", dtype: torch.dtype = torch.float64) -> Potential:
    torch.manual_seed(3)
    network = Ponita(
        3,
        hidden_channels=8,
        basis_channels=12,
        num_layers=LAYERS,
        num_orientations=12,
        cutoff=3.0,
        widening=2,
        kernel=kernel,
        lattice=(16, 16) if kernel == "spline" else None,
    )
    return Potential(network, [1, 6, 8]).to(dtype).eval()


def adapted(name: str, kick: float = 0.2, **options) -> peft.PeftModel:
    """A potential with an adapter whose weights are not those of the start."""
    torch.manual_seed(4)
    model = peft.get_peft_model(potential(**options), METHODS[name][0]()).eval()
    return kicked(model, kick)


def kicked(model: nn.Module, size: float, seed: int = 5) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def energy(model: nn.Module, pos: torch.Tensor = POS) -> torch.Tensor:
    return energy_forces(model, pos)[0]


def energy_forces(model: nn.Module, pos: torch.Tensor = POS) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = next(model.parameters()).dtype
    found = model.energy_forces(pos.to(dtype), NUMBERS)
    return found.energy, found.forces


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kernel", ["spline", "fused"])
def test_nothing_changes_when_an_adapter_is_put_in(name, kernel):
    before = energy_forces(potential(kernel))
    after = energy_forces(adapted(name, kick=0.0, kernel=kernel))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_only_the_adapter_trains_and_as_many_numbers_as_the_formula_says(name):
    model = adapted(name)
    report = adapter_report(model)
    assert report.trainable == METHODS[name][1]
    assert report.total == sum(p.numel() for p in potential().parameters())
    own = {name for name, _ in potential().named_parameters()}
    trained = {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}
    assert trained and not trained & own
    assert all(mergeable == METHODS[name][2] for _, _, mergeable in report.sites)
    assert str(report.trainable) in str(report)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kernel", ["spline", "mlp"])
def test_a_loss_of_energies_and_forces_reaches_every_weight_that_trains_and_no_other(name, kernel):
    model = adapted(name, kernel=kernel).train()
    found = model.energy_forces(POS.double(), NUMBERS, create_graph=True)
    (found.energy.square().sum() + found.forces.square().sum()).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
        else:
            assert parameter.grad is None, parameter_name


@pytest.mark.parametrize("name", METHODS)
def test_an_adapted_potential_is_as_equivariant_as_before(name):
    model = adapted(name, kernel="mlp")
    rotation = grid_symmetry(12)[7].double()
    turned, plain = energy_forces(model, POS.double() @ rotation.T), energy_forces(model)
    assert (plain[0] - energy(potential("mlp"))).abs() > 1e-4
    torch.testing.assert_close(turned[0], plain[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(turned[1], plain[1] @ rotation.T, rtol=0, atol=1e-10)


def test_a_scale_of_each_orientation_would_be_noticed():
    model = potential("mlp")
    scales = 1 + 0.1 * torch.randn(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model.network.blocks[0].linear_2.register_forward_hook(lambda module, inputs, output: scales * output)
    rotation = grid_symmetry(12)[7].double()
    assert (energy(model, POS.double() @ rotation.T) - energy(model)).abs() > 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_forces_are_the_gradient_of_the_adapted_energy(name):
    model, step = adapted(name), 1e-5
    direction = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slope = (energy(model, POS + step * direction) - energy(model, POS - step * direction)) / (2 * step)
    exact = -(energy_forces(model)[1] * direction).sum()
    torch.testing.assert_close(slope[0], exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", MERGEABLE)
@pytest.mark.parametrize("kernel", ["spline", "fused"])
def test_merging_changes_nothing_and_gives_the_plain_potential_back(name, kernel):
    model, keys = adapted(name, kernel=kernel), list(potential(kernel).state_dict())
    before = energy_forces(model)
    merged = model.merge_and_unload()
    assert type(merged) is Potential and list(merged.state_dict()) == keys
    assert not any(isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer) for module in merged.modules())
    for a, b in zip(before, energy_forces(merged), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_what_is_not_linear_is_not_merged_and_stays_as_it_was(name):
    model = adapted(name)
    before = energy_forces(model)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match=r"cannot be merged into weights.*MoSConfig"):
            merge()
    for a, b in zip(before, energy_forces(model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_that_is_disabled_or_unloaded_is_gone_bit_for_bit(name):
    plain, model = potential(), adapted(name)
    with model.disable_adapter():
        assert torch.equal(energy(model), energy(plain))
    assert not torch.equal(energy(model), energy(plain))
    unloaded = model.unload()
    state = unloaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    assert state.keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", MERGEABLE)
def test_unmerging_gives_the_weights_back(name):
    model = adapted(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.merge_adapter()
    merged = energy(model)
    model.unmerge_adapter()
    tolerance = 1e-6 if name == "bat" else 1e-10  # peft inverts its blocks in single precision
    torch.testing.assert_close(energy(model), merged, rtol=0, atol=tolerance)
    for key, value in model.state_dict().items():
        if name.startswith(("bone", "mos")):
            assert torch.equal(value, before[key]), key
        else:
            torch.testing.assert_close(value, before[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_two_adapters_are_switched_without_a_trace(name):
    model = adapted(name)
    first = energy(model)
    torch.manual_seed(9)
    model.add_adapter("other", METHODS[name][0]())
    model.set_adapter("other")
    fresh = energy(model)
    kicked(model, 0.3, seed=8)
    second = energy(model)
    assert not torch.equal(first, second) and not torch.equal(fresh, second)
    model.set_adapter("default")
    assert torch.equal(energy(model), first)
    model.set_adapter("other")
    assert torch.equal(energy(model), second)
    model.delete_adapter("default")
    assert torch.equal(energy(model), second)


@pytest.mark.parametrize("name", METHODS)
def test_a_file_holds_each_number_once(name, tmp_path):
    model = adapted(name, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < 1.05 * adapter_report(model).stored_bytes + 6 * 1024


READ = """
import sys, torch, warnings
warnings.simplefilter("ignore")
torch.manual_seed(int(sys.argv[3]))
torch.rand(17)
from ponita.sharing.adapters import load_adapted
pos, numbers = torch.load(sys.argv[1] + "/inputs.pt")
for folder in sys.argv[4:]:
    found = load_adapted(folder, merge=False).energy_forces(pos, numbers)
    torch.save((found.energy, found.forces), folder + "/found.pt")
"""


def test_a_process_of_its_own_reads_them_all_exactly(tmp_path):
    save(potential(), tmp_path / "base.pt")
    torch.save((POS.double(), NUMBERS), tmp_path / "inputs.pt")
    expected, folders = {}, []
    for name in METHODS:
        model = adapted(name)
        folders.append(str(tmp_path / name))
        save_adapter(model, folders[-1], tmp_path / "base.pt")
        expected[name] = energy_forces(model)
    words = [sys.executable, "-c", READ, str(tmp_path), "", "77", *folders]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name in METHODS:
        found = torch.load(tmp_path / name / "found.pt")
        for a, b in zip(expected[name], found, strict=True):
            assert torch.equal(a, b), name
    unlike = potential()
    for name in MERGEABLE:
        merged = load_adapted(tmp_path / name)
        assert merged.state_dict().keys() == unlike.state_dict().keys()
        torch.testing.assert_close(energy(merged), expected[name][0], rtol=0, atol=1e-10)


def verlet(model: nn.Module, steps: int = 60, dt: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and total energies along a trajectory of particles of mass one."""
    pos = POS.double()
    velocity = 0.05 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    potential_energy, forces = energy_forces(model, pos)
    totals = []
    for _ in range(steps):
        velocity = velocity + 0.5 * dt * forces
        pos = pos + dt * velocity
        potential_energy, forces = energy_forces(model, pos)
        velocity = velocity + 0.5 * dt * forces
        totals.append(potential_energy[0] + 0.5 * velocity.square().sum())
    return pos, torch.stack(totals)


@pytest.mark.parametrize("name", ["lora", "miss", "bat", "bone row", "mos"])
def test_a_trajectory_is_the_same_merged_and_keeps_its_energy(name):
    model = adapted(name, kick=0.05)
    pos, totals = verlet(model)
    merged_pos, merged_totals = verlet(model.merge_and_unload())
    torch.testing.assert_close(merged_pos, pos, rtol=0, atol=1e-8)
    assert (totals - totals[0]).abs().max() < 1e-3 * (1 + totals.std())
    assert (merged_totals - totals).abs().max() < 1e-8


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_is_a_model_of_its_own(name):
    model = adapted(name)
    before = energy(model)
    twin = kicked(copy.deepcopy(model), 0.3)
    changed = energy(twin)
    assert torch.equal(energy(model), before) and not torch.equal(changed, before)
    if METHODS[name][2]:
        twin.merge_and_unload()
        assert torch.equal(energy(model), before)
        model.merge_and_unload()
    else:
        twin.unload()
        assert torch.equal(energy(model), before)


def test_kernels_that_are_adapted_are_not_calibrated_in_silence():
    model = adapted("lora")
    inputs = {"pos": POS.double(), "numbers": NUMBERS}
    with pytest.raises(ValueError, match="Calibrate first"):
        calibrate(model.get_base_model(), inputs)


def test_an_adapted_model_is_not_stored_as_if_it_were_plain(tmp_path):
    with pytest.raises(ValueError, match="merge"):
        save(adapted("mos").get_base_model(), tmp_path / "a.pt")
    save(adapted("mos").merge_and_unload(), tmp_path / "a.pt")
    assert isinstance(load(tmp_path / "a.pt"), Potential)


def test_what_is_remembered_in_inference_follows_the_adapter():
    model = adapted("lora")
    with torch.no_grad():
        first = model(POS.double(), NUMBERS)
        kicked(model, 0.1)
        second = model(POS.double(), NUMBERS)
        with model.disable_adapter():
            plain = model(POS.double(), NUMBERS)
    assert not torch.equal(first, second)
    assert torch.equal(plain, potential()(POS.double(), NUMBERS))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_that_peft_looks_up_are_still_where_they_were():
    """`register` fills these tables; a new release of peft may look elsewhere."""
    assert peft.__version__.startswith("0.21."), "check ponita/sharing/adapters/tuner.py against this release"
    tables = (peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING)
    for config in (MoSConfig, BoneConfig, BottleneckConfig):
        name = config().peft_type
        assert all(name in table for table in tables)
        assert name not in list(peft.PeftType)


BAD = {
    "a pattern that matches nothing": (lambda: MoSConfig(target_modules="nowhere"), "names no module of Potential"),
    "a list that matches nothing": (lambda: BoneConfig(target_modules=["query"]), "names no module of Potential"),
    "a rank larger than a dimension": (lambda: MoSConfig(r=9, equiv_rank=9, private_rank=9), r"r=9 is larger than"),
    "blocks that do not divide": (lambda: BoneConfig(r=5), r"blocks of r=5 do not divide network.blocks.0.conv.kernel"),
    "shards that do not divide": (lambda: MoSConfig(r=2, shards=3), r"shards=3 does not divide"),
    "a pool too small": (lambda: MoSConfig(r=5), r"r is at most .* = 3"),
    "what is not linear": (lambda: BoneConfig(r=4, target_modules=NORM_SITES), r"norm"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_and_change_nothing(case):
    make, message = BAD[case]
    plain = potential()
    keys = list(plain.state_dict())
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        peft.get_peft_model(plain, make())
    assert list(plain.state_dict()) == keys


def test_an_adapter_of_another_potential_is_refused(tmp_path):
    save(potential(), tmp_path / "base.pt")
    save_adapter(adapted("mos"), tmp_path / "adapter", tmp_path / "base.pt")
    with torch.no_grad():
        other = potential()
        other.network.blocks[0].linear_1.weight.mul_(1.01)
    with pytest.raises(ValueError, match=r"weights differ .* name it with base"):
        load_adapted(tmp_path / "adapter", other)
    (tmp_path / "base.pt").unlink()
    with pytest.raises(FileNotFoundError, match="name it with base"):
        load_adapted(tmp_path / "adapter")
    assert isinstance(load_adapted(tmp_path / "adapter", potential()), Potential)
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        load_adapted(tmp_path)
