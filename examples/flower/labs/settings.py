"""What the server and the labs read alike: the federation that a configuration of `ponita federate` describes."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonargparse import Namespace

import ponita
from ponita.tasks.federated.command import configured
from ponita.tasks.federated.problem import FederatedPotential


def federation(
    settings: Mapping[str, Any], node: Mapping[str, Any] | None = None
) -> tuple[FederatedPotential, Namespace]:
    """The labs with their data, and the options of `ponita federate`.

    Args:
        settings: of the run, those of pyproject.toml.
        node: of a SuperNode, where `root` is the folder of its data.
    """
    root = (node or {}).get("root") or settings["root"]
    words = ["--config", settings["config"], *shlex.split(settings["options"])]
    return _read(*words, *(["--problem.data.init_args.root", root] if root else []))


@cache  # a process of the simulation answers for many labs and rounds
def _read(*words: str) -> tuple[FederatedPotential, Namespace]:
    _, config, _, problem = configured(words)
    problem.setup()
    return problem, config


def fingerprint(config: Namespace) -> str:
    """Of the version of ponita and the problem, without the folder of its data: labs train one network only if they agree in it."""
    problem = config.problem.as_dict()
    problem["data"]["init_args"].pop("root", None)
    text = json.dumps([ponita.__version__, problem], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
