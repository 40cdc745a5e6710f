from __future__ import annotations

import asyncio
from typing import Any

from wesher_operator.kube import MESH
from wesher_operator.reconcile.control import Controller
from wesher_operator.reconcile.manifests import AgentSettings
from wesher_testing.answering import answering


def mesh(version: int) -> dict[str, Any]:
    metadata = {"name": "demo", "uid": "u", "generation": version, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"overlayCIDR": "10.189.0.0/16"}}


async def test_an_api_server_in_trouble_is_not_asked_the_more_often_the_more_happens() -> None:
    loop = asyncio.get_running_loop()
    async with answering((503, {"kind": "Status", "message": "overloaded"})) as (cluster, asked):
        controller = Controller(cluster, AgentSettings(image="wesher:test"))
        began = loop.time()
        for version in range(1, 25):
            controller.observed(MESH, mesh(version))
            await asyncio.sleep(0.05)
        tries, seconds = len(asked), loop.time() - began
        await controller.stop()
    assert 1 <= tries <= 1 + seconds / 1.0  # and a run every 0.2 s would have made many more
