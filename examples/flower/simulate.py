"""The app in one process, with labs that Ray computes: `python simulate.py root=DIR server=fedau "options=--rounds 20"`.

Words are settings of pyproject.toml. `flwr run` with a SuperLink that simulates does the same by commands (README.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from labs.client_app import answer
from labs.server_app import serve
from labs.settings import federation
from run_settings import read_settings


def main(words: Sequence[str], processes: int = 2) -> None:
    """Simulate all labs of a configuration.

    Args:
        words: such as root=DIR.
        processes: that compute at a time.
    """
    settings = read_settings(words)
    server, client = ServerApp(), ClientApp()

    @server.main()
    def _(grid: Grid, context: Context) -> None:
        serve(grid, settings)

    @client.train()
    def _(message: Message, context: Context) -> Message:
        return answer(message, settings, context.node_config)

    resources = {"init_args": {"num_cpus": processes}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=len(federation(settings)[0].labs), backend_config=resources)


if __name__ == "__main__":
    main(sys.argv[1:])
