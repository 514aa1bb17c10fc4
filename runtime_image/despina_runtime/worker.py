"""The process that holds the program: load, warm up, serve, drain. The supervisor starts it.

It says one line of JSON on its control socket when it can serve, or why it cannot, and obeys one word a line:
`retire`, `activate`, `drain`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from pathlib import Path

from despina.wire import RuntimeConfig
from despina_runtime.app import Service
from despina_runtime.program.errors import ProgramError
from despina_runtime.program.load import load
from despina_runtime.program.warmup import warm_up
from despina_runtime.server import Server, make_server

log = logging.getLogger(__name__)


def main(config_path: str, cache: str, listen_fd: str, control_fd: str) -> int:
    """Run until told to drain."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config = RuntimeConfig.model_validate_json(Path(config_path).read_bytes())
    control = socket.socket(fileno=int(control_fd))
    try:
        loaded = load(config.model, Path(cache), config.allow_pickle)
        warm_up(loaded)
    except ProgramError as exc:
        log.error("Cannot serve reason=%s message=%s", exc.failure.reason, exc)
        control.sendall(exc.failure.model_dump_json().encode() + b"\n")
        return 1
    asyncio.run(_serve(Service(loaded, config), config, socket.socket(fileno=int(listen_fd)), control))
    return 0


async def _serve(service: Service, config: RuntimeConfig, listen: socket.socket, control: socket.socket) -> None:
    server = make_server(service, config.request_timeout_seconds)
    reader, writer = await asyncio.open_connection(sock=control)
    serving = asyncio.create_task(server.serve(sockets=[listen]))
    while not server.started:
        await asyncio.sleep(0.01)
    log.info("Serving program=%s version=%s", config.program, config.model.version)
    writer.write(json.dumps({"ready": True}).encode() + b"\n")
    obeying = asyncio.create_task(_obey(reader, service, server, config.drain_seconds))
    await serving
    obeying.cancel()


async def _obey(reader: asyncio.StreamReader, service: Service, server: Server, drain_seconds: int) -> None:
    """Follow the supervisor's words; its end is an order to drain."""
    while word := (await reader.readline()).decode().strip():
        if word == "drain":
            break
        service.is_retired = word == "retire"
    service.is_retired = True
    await asyncio.sleep(drain_seconds)
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
