"""Self-contained checkpoints: class, arguments, weights, grid and scales in one file that loads with weights_only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ponita._version import __version__
from ponita.data.atomic import replacing
from ponita.models.ponita import Ponita
from ponita.models.potential import Potential
from ponita.models.property_model import PropertyModel

FORMAT_VERSION = 1
#: What wraps a network, and is rebuilt by its `from_config`.
WRAPPERS: tuple[type[nn.Module], ...] = (Potential, PropertyModel)
Model = Ponita | Potential | PropertyModel


def save(model: nn.Module, path: Path | str) -> None:
    """Write a `Ponita`, `Potential` or `PropertyModel`, atomically.

    Args:
        model: the model.
        path: file to write.

    Raises:
        ValueError: for any other class, or a model with adapters or parametrisations in it.
    """
    state, description = model.state_dict(), describe(model)
    added = [name for name in state if ".base_layer." in name or ".parametrizations." in name]
    if added:
        raise ValueError(
            f"the model holds what was put into its layers (such as {added[0]}), which a checkpoint of it cannot: merge or "
            "unload the adapter, or remove the parametrisation, and save then."
        )
    with replacing(path) as temporary:
        torch.save({"ponita": description, "state_dict": state}, temporary)


def load(path: Path | str, map_location: str | torch.device = "cpu") -> Model:
    """Rebuild a model from a file written by `save`, or from a checkpoint of training.

    Of a training checkpoint made with weight averaging, the averaged weights are returned.

    Args:
        path: the file.
        map_location: device to put the model on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, of another program, of a newer format, or does not fit its description.
    """
    payload = read_checkpoint(path, map_location)
    if "adapter_of" in payload:
        raise ValueError(
            f"{path} is a checkpoint of an adapter, without the weights of {payload['adapter_of']} that it was trained on. Use the "
            "folder 'adapter' of the run: ponita md --ckpt_path RUN/adapter, or ponita.sharing.adapters.load_adapted."
        )
    if "ponita" not in payload:
        raise ValueError(
            f"{path} is not a checkpoint of ponita: it has keys {sorted(map(str, payload))[:8]} and no description of the "
            "model. For weights of the reference code use load_reference_checkpoint."
        )
    description = payload["ponita"]
    if description["version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {description['version']}, written by ponita {description['package']}; this version "
            f"reads up to {FORMAT_VERSION}. Update the package."
        )
    model = _build(description)
    prefix = description.get("prefix", "")
    state = {k.removeprefix(prefix): v for k, v in payload["state_dict"].items() if k.startswith(prefix)}
    dtypes = [value.dtype for name, value in state.items() if name.endswith("lift.embedding.weight")]
    model.to(dtypes[0] if dtypes else None)
    load_state(model, state, str(path))
    return model.to(map_location)


def read_checkpoint(path: Path | str, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint file, tensors and plain values only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}.")
    try:
        payload = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # the unpickler raises whatever foreign bytes lead it to
        raise ValueError(f"{path} is truncated or not a checkpoint ({type(error).__name__}: {error}).") from error
    if not isinstance(payload, dict) or "state_dict" not in payload:
        raise ValueError(f"{path} is not a checkpoint: expected a dictionary with a 'state_dict'.")
    return payload


def describe(model: nn.Module, prefix: str = "") -> dict[str, Any]:
    """What `load` needs to rebuild a model, apart from its tensors.

    Args:
        model: a `Ponita`, `Potential` or `PropertyModel`.
        prefix: of the model's names in the state dict it is stored with.
    """
    if type(model) not in (Ponita, *WRAPPERS):
        expected = ", ".join(kind.__name__ for kind in (Ponita, *WRAPPERS))
        raise ValueError(f"cannot save a {type(model).__name__}; expected one of {expected}.")
    network = getattr(model, "network", model)
    if hasattr(network, "extract"):
        raise ValueError(
            f"the network is a {type(network).__name__}, which a checkpoint does not describe. Save one network of it: "
            "ponita.sharing.search.extract_potential(model, architecture)."
        )
    return {
        "version": FORMAT_VERSION,
        "package": __version__,
        "class": type(model).__name__,
        "config": model.config,
        "prefix": prefix,
    }


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load weights, with an error that says how the checkpoint differs from the model.

    Raises:
        ValueError: if names or shapes differ.
    """
    check_state(model, state, source)
    model.load_state_dict(state)


def check_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Raise ValueError, naming what differs, unless a state dict has the names and shapes of a model's.

    Args:
        model: that would load it.
        state: the state dict.
        source: what to call it in the message.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k}: {list(state[k].shape)} in the checkpoint, {list(own[k].shape)} in the model"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    if missing or unexpected or shapes:
        details = [f"missing {missing[:5]}"] * bool(missing) + [f"unexpected {unexpected[:5]}"] * bool(unexpected)
        raise ValueError(
            f"{source} is a checkpoint of another architecture: {'; '.join(details + sorted(shapes)[:5])}. "
            "Build the model with the arguments the checkpoint was made with."
        )


def _build(description: dict[str, Any]) -> Model:
    for wrapper in WRAPPERS:
        if description["class"] == wrapper.__name__:
            return wrapper.from_config(description["config"])
    return Ponita(**description["config"])
