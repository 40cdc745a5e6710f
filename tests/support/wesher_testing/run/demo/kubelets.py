"""The kubelets' part while agents run: when the operator writes into a pod, its files are mounted again."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from wesher_common.names import NUDGE_ANNOTATION
from wesher_testing.cluster.api_server import ApiServer, KubectlFailed
from wesher_testing.run import toolbox

_LINE = "{.spec.nodeName} {.metadata.annotations.%s}{'\\n'}"


class Kubelets:
    """One watch of a mesh's pods; use it as a context.

    Args:
        api: the API server.
        mesh: whose pods.
        namespace: the operator's.
        mount: given a node's name and the annotation of its pod after each change of that annotation.

    """

    def __init__(
        self, api: ApiServer, mesh: str, namespace: str, mount: Callable[[str, str], object]
    ) -> None:
        annotation = NUDGE_ANNOTATION.replace(".", "\\.")
        self._argv = [
            *(*api.enter, str(toolbox.kubernetes_binary("kubectl")), f"--kubeconfig={api.kubeconfig}"),
            *("get", "pods", f"--namespace={namespace}", f"--selector=wesher.dev/mesh={mesh}", "--watch"),
            f"--output=jsonpath={_LINE % annotation}",
        ]
        self._mount = mount
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._process = self._start()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._process.kill()
        self._watcher.join()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def _watch(self) -> None:
        mounted: dict[str, str] = {}
        while not self._ended.is_set():
            with self._process as watch:
                for line in watch.stdout or ():
                    node, _, nudge = line.rstrip("\n").partition(" ")
                    if mounted.get(node, "") == nudge:
                        continue
                    try:
                        self._mount(node, nudge)
                    except KubectlFailed:
                        continue
                    mounted[node] = nudge
            # An API server ends each watch after some time.
            if not self._ended.wait(1.0):
                self._process = self._start()
