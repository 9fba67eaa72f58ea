"""torch.compile of a whole energy and force loss, the derivative in the positions inside the graph."""

import warnings

import pytest
import torch
from support.graphs import random_graph, small_ponita

from ponita.geometry import EdgeSet
from ponita.ops import force_pass


def make_loss(kernel):
    """A loss of energy and forces as a function of positions, and its network."""
    channels = {"in_vector_channels": 0, "out_vector_channels": 0, "out_channels": 1}
    model = small_ponita(**channels, kernel=kernel, cutoff=4.0, lattice=(12, 8))
    graph = random_graph((5, 4), vectors=0)
    edges = EdgeSet.from_edge_index(graph["edge_index"], 9)
    assert edges.graph  # made once, outside the compiled part

    def loss(pos):
        energy = model(pos, edges, x=graph["x"], batch=graph["batch"], num_graphs=2).scalars.sum()
        with force_pass():
            (gradient,) = torch.autograd.grad(energy, pos, create_graph=True)
        return energy.square() + gradient.square().sum()

    return loss, model, graph["pos"]


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_a_compiled_force_loss_has_the_parameter_gradients_of_the_eager_one(kernel):
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch cannot trace torch.autograd.grad")
    loss, model, pos = make_loss(kernel)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(loss(pos.clone().requires_grad_()), parameters)
    with torch._dynamo.config.patch(trace_autograd_ops=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what dynamo says of cached functions and of its own internals
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        ours = torch.autograd.grad(compiled(pos.clone().requires_grad_()), parameters)
    torch._dynamo.reset()
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
