"""CUDA graphs: buffers, checks and restored states without a GPU, and the real thing with one."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch

from ponita import EdgeSet, Ponita, Potential
from ponita.geometry import fully_connected
from ponita.training import cuda_graphs
from ponita.training.cuda_graphs import Captured, capture_inference, capture_training_step

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def without_a_gpu(monkeypatch):
    """A recording that is none: a replay calls the work and puts its results where the first ones are."""

    def record(work, device, warm_ups, after_warm_ups):
        for _ in range(warm_ups):
            work()
        after_warm_ups()
        outputs = work()
        after_warm_ups()  # a real recording computes nothing

        def replay():
            for target, source in zip(outputs, work(), strict=True):
                target.copy_(source)

        return replay, outputs

    monkeypatch.setattr(cuda_graphs, "_record", record)
    monkeypatch.setattr(cuda_graphs, "_device_of", lambda model: torch.device("cpu"))
    monkeypatch.setattr(Captured, "_check_device", staticmethod(lambda device: None))


def small_potential():
    torch.manual_seed(0)
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, "num_orientations": 6}
    return Potential(Ponita(2, **sizes), [1, 6])


def inputs(seed=0, loops=True):
    generator = torch.Generator().manual_seed(seed)
    batch = torch.tensor([0] * 5 + [1] * 4)
    return {
        "pos": 2 * torch.randn(9, 3, generator=generator),
        "numbers": torch.tensor([6, 1, 1, 1, 1, 6, 6, 1, 1]),
        "edge_index": EdgeSet.from_edge_index(fully_connected(batch, loops=loops), 9),
        "batch": batch,
        "num_graphs": 2,
    }


def force_loss(model, given):
    arguments = {name: value for name, value in given.items() if name != "target"}
    out = model.energy_forces(**arguments, create_graph=True)
    return out.energy.square().mean() + (out.forces - given["target"]).square().mean()


def test_a_captured_potential_gives_energies_and_forces_of_new_positions(without_a_gpu):
    potential = small_potential()
    run = capture_inference(potential, inputs())
    first, second = run(pos=inputs(1)["pos"]), run(pos=inputs(2)["pos"], numbers=inputs()["numbers"].flip(0))
    expected = potential.energy_forces(**inputs(1))
    assert torch.equal(first.energy, expected.energy) and torch.equal(first.forces, expected.forces)
    other = {**inputs(2), "numbers": inputs()["numbers"].flip(0)}
    assert torch.equal(second.forces, potential.energy_forces(**other).forces)
    assert torch.equal(run().forces, second.forces)  # what is not given stays


def test_edges_of_the_same_numbers_can_be_changed(without_a_gpu):
    potential, given = small_potential(), inputs()
    run = capture_inference(potential, given)
    turned = torch.tensor([8, 7, 6, 5, 4, 3, 2, 1, 0])  # the graphs' sizes in the other order
    edges = EdgeSet.from_edge_index(turned[fully_connected(given["batch"], loops=True)], 9)
    batch = torch.tensor([0] * 4 + [1] * 5)
    found = run(edge_index=edges, batch=batch)
    expected = potential.energy_forces(**{**given, "edge_index": edges, "batch": batch})
    torch.testing.assert_close(found.forces, expected.forces)
    assert not torch.allclose(found.forces, potential.energy_forces(**given).forces)
    assert given["edge_index"].pair_index.max() == 8  # the caller's edges are not written to
    assert torch.equal(given["edge_index"].pair_index, inputs()["edge_index"].pair_index)


def test_other_shapes_and_names_are_refused(without_a_gpu):
    run = capture_inference(small_potential(), inputs())
    with pytest.raises(ValueError, match=r"pos has shape \[8, 3\].*captured for \[9, 3\]"):
        run(pos=torch.zeros(8, 3))
    with pytest.raises(ValueError, match=r"float64.*captured for"):
        run(pos=torch.zeros(9, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="num_graphs is 3; the graph was captured with 2"):
        run(num_graphs=3)
    with pytest.raises(ValueError, match="'cell' was not recorded"):
        run(cell=torch.eye(3))
    with pytest.raises(ValueError, match=r"edge_index has \(9, 32, 16, 16\)"):
        run(edge_index=inputs(loops=False)["edge_index"])
    with pytest.raises(ValueError, match="edge_index is a Tensor"):
        run(edge_index=torch.zeros(2, 41, dtype=torch.long))


def test_what_would_wait_is_refused_before():
    with pytest.raises(ValueError, match="need a CUDA device, and this is on cpu"):
        capture_inference(small_potential(), inputs())
    with pytest.raises(ValueError, match="expected an EdgeSet"):
        capture_inference(small_potential(), {**inputs(), "edge_index": inputs()["edge_index"].edge_index})
    with pytest.raises(ValueError, match="num_graphs is missing"):
        capture_inference(small_potential(), {k: v for k, v in inputs().items() if k != "num_graphs"})
    model = small_potential()
    for optimizer, words in (
        (torch.optim.SGD(model.parameters(), lr=0.1), "SGD; expected torch.optim.Adam"),
        (torch.optim.Adam(model.parameters(), lr=0.1), "capturable=True"),
    ):
        with pytest.raises(ValueError, match=words):
            capture_training_step(force_loss, model, optimizer, inputs())


@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_captured_steps_train_as_steps_do_and_the_recording_changes_nothing(without_a_gpu, max_norm, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_check_optimizer", lambda optimizer: None)  # capturable ones need CUDA tensors
    model = small_potential()
    batches = [{**inputs(seed), "target": torch.randn(9, 3)} for seed in range(4)]
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (model, twin)]

    def plain_step(model, optimizer, batch):
        optimizer.zero_grad()
        loss = force_loss(model, batch)
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        return loss.detach()

    plain_step(model, optimizers[0], batches[0])  # it starts from an optimiser that has a history
    plain_step(twin, optimizers[1], batches[0])
    step = capture_training_step(force_loss, model, optimizers[0], batches[1], max_norm)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    for batch in batches[1:]:
        assert torch.equal(step(**batch), plain_step(twin, optimizers[1], batch))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_fresh_optimiser_is_fresh_after_the_recording(without_a_gpu, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_check_optimizer", lambda optimizer: None)
    model = small_potential()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    capture_training_step(force_loss, model, optimizer, {**inputs(), "target": torch.zeros(9, 3)})
    assert len(optimizer.state) == len(list(model.parameters()))
    assert all(not value.any() for state in optimizer.state.values() for value in state.values())


def test_a_recording_follows_warm_ups_on_another_stream(monkeypatch):
    log = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            log.append("replay")

    @contextmanager
    def within(what, *_):
        log.append(f"enter {getattr(what, 'name', type(what).__name__)}")
        yield
        log.append("leave")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    for name in ("stream", "graph", "device"):
        monkeypatch.setattr(torch.cuda, name, within)

    def work():
        log.append("work")
        return ("out",)

    replay, outputs = cuda_graphs._record(work, torch.device("cuda", 0), 2, lambda: log.append("restore"))
    expected = ["enter device", "side waits for main", "enter side", "work", "work", "restore", "leave"]
    assert log == [*expected, "main waits for side", "enter Graph", "work", "leave", "leave"]
    replay()
    assert outputs == ("out",) and log[-1] == "replay"


@needs_cuda
def test_captured_inference_on_a_gpu():
    potential = small_potential().cuda()
    run = capture_inference(potential, inputs())
    device = torch.device("cuda")
    for seed in (1, 2):
        found = run(pos=inputs(seed)["pos"])
        on_gpu = {k: v.to(device) if isinstance(v, torch.Tensor | EdgeSet) else v for k, v in inputs(seed).items()}
        expected = potential.energy_forces(**on_gpu)
        torch.testing.assert_close(found.forces, expected.forces)
        torch.testing.assert_close(found.energy, expected.energy)


@needs_cuda
def test_captured_training_on_a_gpu():
    model = small_potential().cuda()
    twin = copy.deepcopy(model)
    batches = [{**inputs(seed), "target": torch.randn(9, 3)} for seed in range(3)]
    options = {"lr": torch.tensor(1e-3, device="cuda"), "capturable": True}
    ours, theirs = (torch.optim.Adam(m.parameters(), **options) for m in (model, twin))
    step = capture_training_step(force_loss, model, ours, batches[0])
    for batch in batches:
        loss = step(**batch)
        on_gpu = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        on_gpu["edge_index"] = batch["edge_index"].to("cuda")
        theirs.zero_grad()
        expected = force_loss(twin, on_gpu)
        expected.backward()
        theirs.step()
        torch.testing.assert_close(loss, expected.detach())
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
