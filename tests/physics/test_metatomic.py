"""Export: the plain-torch form of a potential is the potential, and metatomic reads what is written.

Where metatomic is not installed, the second half is skipped.
"""

import importlib
import subprocess
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ase import Atoms
from support.graphs import small_ponita
from support.potentials import oxide, oxide_potential

from ponita.interfaces.ase import PonitaCalculator
from ponita.interfaces.script import ScriptedPotential
from ponita.models import Potential, save
from ponita.tasks.cli import main

NODES = (20, 14)
HAS_METATOMIC = find_spec("metatomic") is not None
needs_metatomic = pytest.mark.skipif(not HAS_METATOMIC, reason="metatomic-torch is not installed")
needs_its_calculator = pytest.mark.skipif(find_spec("metatomic_ase") is None, reason="metatomic-ase is not installed")
if HAS_METATOMIC:  # before a fixture replaces torch.empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("metatomic.torch")


def plain(potential, head=None):
    return ScriptedPotential(potential, head).eval()


@pytest.fixture(scope="module")
def scripted():
    """A potential with its script, which takes seconds to compile and specialise."""
    potential = tables()
    return potential, torch.jit.script(plain(potential))


def tables(**changes):
    return oxide_potential(**changes).tabulate(NODES)


def edges_of(atoms, potential):
    """Positions, atomic numbers, edges without self-loops, and the shift of each."""
    pos, numbers = torch.tensor(atoms.positions), torch.tensor(atoms.numbers)
    cell = torch.tensor(atoms.cell.array)[None]
    if not atoms.pbc.any():
        edges, shift = potential.neighbors(pos)[0], None
    else:
        edges, offsets = potential.neighbors(pos, None, cell, torch.tensor(atoms.pbc)[None])
        shift = offsets.to(pos.dtype) @ cell[0]
    shift = torch.zeros(edges.shape[1], 3, dtype=pos.dtype) if shift is None else shift
    keep = (edges[0] != edges[1]) | (shift != 0).any(1)
    return pos, numbers, edges[:, keep], shift[keep]


def energies_and_slope(module, atoms, potential):
    pos, numbers, (sender, receiver), shift = edges_of(atoms, potential)
    pos.requires_grad_()
    energies = module(pos[sender] - pos[receiver] + shift, sender, receiver, numbers)
    return energies.detach(), torch.autograd.grad(energies.sum(), pos)[0]


def expected(potential, atoms, head=None):
    pos = torch.tensor(atoms.positions).requires_grad_()
    cell = (
        {"cell": torch.tensor(atoms.cell.array)[None], "pbc": torch.tensor(atoms.pbc)[None]} if any(atoms.pbc) else {}
    )
    energies = potential.atom_energies(pos, torch.tensor(atoms.numbers), **cell, head=head)
    return energies.detach(), torch.autograd.grad(energies.sum(), pos)[0]


def assert_same(module, potential, atoms, head=None):
    for mine, theirs in zip(
        energies_and_slope(module, atoms, potential), expected(potential, atoms, head), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("changes", "loops"),
    [
        ({}, True),
        ({}, False),
        ({"readouts": "last", "layer_scale": 0.3, "num_layers": 3}, True),
        ({"axis_smoothing": 0.0, "num_orientations": 4}, False),
    ],
    ids=["loops", "no loops", "last readout", "not antipodal"],
)
def test_the_plain_form_is_the_potential(changes, loops):
    potential = tables(**changes)
    potential.self_loops = loops
    for atoms in (oxide(), oxide(repeat=2), oxide(pbc=False), oxide(pbc=(True, False, True))):
        assert_same(plain(potential), potential, atoms)
    assert float(expected(potential, oxide(repeat=2))[1].abs().max()) > 1e-3


def test_the_script_is_the_potential_at_any_size(scripted):
    potential, module = scripted
    for atoms in (oxide(), oxide(repeat=2), oxide(pbc=False), oxide()):  # torch specialises a script on its first calls
        assert_same(module, potential, atoms)


def test_networks_with_spline_kernels_need_no_tabulation():
    potential = oxide_potential(kernel="spline", lattice=NODES).requires_grad_(False)
    assert_same(plain(potential), potential, oxide())


def test_heads_have_outputs_and_references_of_their_own():
    potential = Potential(
        small_ponita(in_channels=2, in_vector_channels=0, out_channels=2, out_vector_channels=0, cutoff=3.5),
        elements=[8, 12],
        heads=("pbe", "r2scan"),
    )
    potential.reference_energies.copy_(torch.tensor([[-3.0, -7.0], [1.0, 2.0]]))
    potential = potential.tabulate(NODES)
    for head in ("pbe", "r2scan", None):
        assert_same(plain(potential, head), potential, oxide(), head)


def test_atoms_alone_and_structures_side_by_side(scripted):
    potential, module = scripted
    for atoms in (Atoms("O"), Atoms("OMg", [[0, 0, 0], [0, 0, 9.0]])):
        pos, numbers, (sender, receiver), _ = edges_of(atoms, potential)
        energies = module(pos[sender] - pos[receiver], sender, receiver, numbers)
        torch.testing.assert_close(energies, potential.atom_energies(pos, numbers), rtol=0, atol=1e-11)
    alone = [energies_and_slope(module, atoms, potential)[0] for atoms in (oxide(), oxide(repeat=2))]
    parts = [edges_of(atoms, potential) for atoms in (oxide(), oxide(repeat=2))]
    r = torch.cat([p[e[0]] - p[e[1]] + shift for p, _, e, shift in parts])
    sender, receiver = torch.cat([parts[0][2], parts[1][2] + 3], dim=1)
    together = module(r, sender, receiver, torch.cat([part[1] for part in parts]))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-11)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert module(torch.zeros(0, 3, dtype=torch.float64), nothing, nothing, nothing).shape == (0,)


def test_the_script_holds_operators_of_torch_alone(scripted):
    graph = str(scripted[1].inlined_graph)
    assert "ponita::" not in graph and "aten::embedding_bag" in graph


def test_no_device_is_fixed_and_energies_are_float64():
    potential = tables(dtype=torch.float32)
    pos, numbers, edges, shift = edges_of(oxide(), potential)
    inputs = (pos[edges[0]] - pos[edges[1]] + shift, *edges, numbers)
    assert plain(potential)(*inputs).dtype == torch.float64
    elsewhere = plain(potential).to("meta")(*(tensor.to("meta") for tensor in inputs))
    assert elsewhere.device.type == "meta" and elsewhere.shape == (3,)


def test_elements_that_are_not_known_fail():
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(IndexError, match="out of range"):
        plain(tables())(torch.zeros(0, 3, dtype=torch.float64), empty, empty, torch.tensor([26]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "kernel='mlp'"),
        ({"space": "R3"}, "space='R3'"),
        ({"mode": "cloud"}, "mode='cloud'"),
        ({"kernel": "spline", "lattice": NODES, "attention_channels": 2}, "attention_channels=2"),
        ({"cutoff": None, "kernel": "spline", "radius": 3.0, "lattice": NODES}, "cutoff=None"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_of_another_kind_are_named(changes, named):
    with pytest.raises(ValueError, match=named):
        ScriptedPotential(oxide_potential(**changes))


def test_a_missing_package_is_named(monkeypatch, capsys):
    for name in ("metatensor.torch", "metatomic.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("ponita.interfaces.metatomic", "ponita.tasks.export.command"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("ponita.interfaces.metatomic", raising=False)
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", "none.ckpt", "--out", "none.pt"])
    assert "pip install 'ponita[metatomic]'" in capsys.readouterr().err


def system_of(atoms, potential, options):
    """A system of metatomic with the neighbours that the potential finds."""
    from metatensor.torch import Labels, TensorBlock
    from metatomic.torch import System, register_autograd_neighbors

    pos, numbers, (sender, receiver), shift = edges_of(atoms, potential)
    pos.requires_grad_()
    cell = torch.tensor(atoms.cell.array)
    system = System(numbers.to(torch.int32), pos, cell, torch.tensor(atoms.pbc))
    cells = torch.round(shift @ torch.linalg.inv(cell)) if atoms.pbc.any() else shift
    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    block = TensorBlock(
        values=(pos[sender] - pos[receiver] + shift).detach()[..., None],
        samples=Labels(names, torch.cat([receiver[:, None], sender[:, None], cells.long()], 1).int()),
        components=[Labels.range("xyz", 3)],
        properties=Labels.range("distance", 1),
    )
    register_autograd_neighbors(system, block)
    system.add_neighbor_list(options, block)
    return system


def evaluate(model, systems, kind="system", selected=None):
    from metatomic.torch import ModelEvaluationOptions, ModelOutput

    options = ModelEvaluationOptions(
        length_unit="angstrom",
        outputs={"energy": ModelOutput(unit="eV", sample_kind=kind)},
        selected_atoms=selected,
    )
    return model(systems, options, check_consistency=True)["energy"].block()


@needs_metatomic
def test_metatomic_gets_energies_of_systems_and_of_selected_atoms():
    from metatensor.torch import Labels

    from ponita.interfaces.evaluator import Evaluator
    from ponita.interfaces.metatomic import wrap

    potential = tables()
    model = wrap(Evaluator(potential))
    (options,) = model.requested_neighbor_lists()
    assert options.full_list and options.strict and options.cutoff == 3.5
    structures = [oxide(), Atoms("O"), oxide(repeat=2)]
    systems = [system_of(atoms, potential, options) for atoms in structures]
    each = [expected(potential, structures[k])[0] if k != 1 else None for k in range(3)]
    each[1] = potential.atom_energies(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([8])).detach()
    each = [energies + potential.shift / energies.numel() for energies in each]

    totals = evaluate(model, systems)
    assert totals.samples.values.tolist() == [[0], [1], [2]]
    torch.testing.assert_close(totals.values.detach()[:, 0], torch.stack([e.sum() for e in each]), rtol=0, atol=1e-10)
    atoms = evaluate(model, systems, "atom")
    torch.testing.assert_close(atoms.values.detach()[:, 0], torch.cat(each), rtol=0, atol=1e-10)
    assert atoms.samples.values[:5].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]]

    chosen = Labels(["system", "atom"], torch.tensor([[2, 5], [0, 1], [2, 0]], dtype=torch.int32))
    atoms = evaluate(model, systems, "atom", chosen)
    assert atoms.samples.values.tolist() == chosen.values.tolist()
    values = torch.stack([each[2][5], each[0][1], each[2][0]])
    torch.testing.assert_close(atoms.values.detach()[:, 0], values, rtol=0, atol=1e-10)
    totals = evaluate(model, systems, selected=chosen)
    assert totals.samples.values.tolist() == [[0], [2]]
    sums = torch.stack([values[1], values[0] + values[2]])
    torch.testing.assert_close(totals.values.detach()[:, 0], sums, rtol=0, atol=1e-10)

    (slope,) = torch.autograd.grad(evaluate(model, systems[1:2]).values.sum(), systems[1].positions)
    assert float(slope.abs().max()) == 0  # and there is one
    none = Labels(["system", "atom"], torch.zeros(0, 2, dtype=torch.int32))
    assert evaluate(model, systems, selected=none).values.shape == (0, 1)


SIMULATION = """
import sys
sys.modules["ponita"] = None
import numpy as np
from ase.io import read
from metatomic_ase import MetatomicCalculator
calculator, results = MetatomicCalculator("model.pt", check_consistency=True), {}
for k, atoms in enumerate(read("structures.xyz", ":")):
    atoms.calc = calculator
    results[f"energy{k}"], results[f"forces{k}"] = atoms.get_potential_energy(), atoms.get_forces()
    results[f"energies{k}"] = atoms.get_potential_energies()
    if atoms.pbc.all():
        results[f"stress{k}"] = atoms.get_stress()
np.savez("results.npz", **results)
"""


@needs_metatomic
@needs_its_calculator
def test_another_program_reads_the_file_without_this_package(tmp_path, monkeypatch, capsys):
    from ase.io import write

    monkeypatch.chdir(tmp_path)
    potential = oxide_potential()
    save(potential, "potential.ckpt")
    command = ["export", "--ckpt_path", "potential.ckpt", "--out", "model.pt", "--tabulate", *map(str, NODES)]
    main(command)
    printed = capsys.readouterr().out
    assert "cut-off 3.5 Å" in printed and "20 x 14 nodes" in printed and "interaction range: 7 Å" in printed
    structures = [oxide(repeat=2), oxide(cell=np.eye(3) * 4, pbc=False), Atoms("Mg")]
    structures[1].cell = None
    write("structures.xyz", structures, format="extxyz")
    subprocess.run([sys.executable, "-W", "ignore", "-c", SIMULATION], check=True, timeout=120)
    results = np.load("results.npz")
    for k, atoms in enumerate(structures):
        atoms.positions = np.round(atoms.positions, 8)  # as the file has them
        atoms.calc = PonitaCalculator(potential, tabulate=NODES)
        assert abs(results[f"energy{k}"] - atoms.get_potential_energy()) < 1e-6
        np.testing.assert_allclose(results[f"forces{k}"], atoms.get_forces(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(results[f"energies{k}"], atoms.get_potential_energies(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(results["stress0"], structures[0].get_stress(), rtol=0, atol=1e-6)
    with pytest.raises(SystemExit):
        main(command)
    assert "model.pt exists already" in capsys.readouterr().err
