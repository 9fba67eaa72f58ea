"""An adapter of a potential in a folder: what `peft` stores, and what the potential needs beside it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from ponita.models import Potential, load
from ponita.sharing.adapters.layers import OutputLayer

DESCRIPTION = "potential.json"


def save_adapter(model: PeftModel, folder: Path | str, base: Path | str) -> None:
    """Write an adapter without the weights of the potential that it is for. A folder that is there is replaced at once.

    Args:
        model: `get_peft_model(potential, config)`.
        folder: to write.
        base: checkpoint of the potential, which `load_adapted` reads.

    Raises:
        ValueError: if the model is not that of a `Potential`, or its adapter is merged.
    """
    potential = _potential(model)
    if any(getattr(module, "merged_adapters", None) for module in model.modules()):
        raise ValueError("the adapter is merged into the weights; call unmerge_adapter() before it is stored.")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(written)
        (written / "README.md").unlink(missing_ok=True)  # an empty form for a model that is published
        text = json.dumps(_description(potential, Path(base)), indent=1)
        (written / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        written.chmod(0o755)
        if folder.exists():
            os.replace(folder, written / ".old")
        os.replace(written, folder)
        shutil.rmtree(folder / ".old", ignore_errors=True)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def load_adapted(folder: Path | str, base: Potential | Path | str | None = None, merge: bool = True) -> Potential:
    """The potential with an adapter that `save_adapter` wrote.

    Args:
        folder: written by `save_adapter`.
        base: the potential it is for, or its checkpoint; the one noted in the folder where None. It is changed where it
            is given.
        merge: put updates of weights into the weights, so that the potential is an ordinary one. Bottlenecks, which
            cannot be merged, stay layers of their own.

    Raises:
        FileNotFoundError: if the folder or the checkpoint is not there.
        ValueError: if the adapter is for another potential.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no adapter of a potential: there is no {DESCRIPTION}.")
    description = json.loads(path.read_text(encoding="utf-8"))
    if base is None:
        base = description["base"]
    potential = base if isinstance(base, Potential) else _load_base(Path(base), folder)
    if fingerprint(potential.network) != description["fingerprint"]:
        raise ValueError(
            f"{folder} is an adapter of {description['base']}, whose weights differ from those of the potential given. Adapters "
            "only fit the potential that they were trained on; name it with base."
        )
    model = PeftModel.from_pretrained(potential, str(folder))
    with torch.no_grad():
        potential.shift.fill_(description["shift"])
        potential.scale.fill_(description["scale"])
        potential.reference_energies.copy_(torch.tensor(description["reference_energies"]))
    potential.requires_grad_(False)
    if merge and not any(isinstance(module, OutputLayer) for module in model.modules()):
        return model.merge_and_unload().eval()
    return potential.eval()


def fingerprint(network: nn.Module) -> str:
    """A hash of the weights of a network without adapters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _description(potential: Potential, base: Path) -> dict[str, Any]:
    return {
        "base": str(base.resolve()),
        "fingerprint": fingerprint(_load_base(base, "the adapter").network),
        "shift": float(potential.shift),
        "scale": float(potential.scale),
        "reference_energies": potential.reference_energies.tolist(),
    }


def _potential(model: PeftModel) -> Potential:
    potential = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(model, PeftModel) or not isinstance(potential, Potential):
        raise ValueError(
            f"{type(model).__name__} is not an adapted Potential; expected get_peft_model(potential, config)."
        )
    return potential


def _load_base(path: Path, adapter: Path | str) -> Potential:
    if not path.is_file():
        raise FileNotFoundError(f"the potential of {adapter} is not at {path}; name it with base.")
    potential = load(path)
    if not isinstance(potential, Potential):
        raise ValueError(f"{path} holds a {type(potential).__name__}; expected a Potential.")
    return potential
