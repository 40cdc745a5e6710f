"""One agent an interface, and nobody without rights who could keep it from starting."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from wesher_agent.runtime.claim import claim_interface
from wesher_common.errors import InvalidSpec
from wesher_testing.run.toolbox import system_program

pytestmark = pytest.mark.needs_root

HOLD = """
import os, socket, sys
name, kind, backlog, user = sys.argv[1:]
if int(user) != os.geteuid():
    os.setgroups([])
    os.setuid(int(user))
with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as holder:
    holder.bind("\\0" + name)
    if backlog:
        holder.listen(int(backlog))
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def interface() -> str:
    """Return a name that no other run of these tests uses."""
    return f"wg{os.getpid()}"


@contextmanager
def held(
    name: str, kind: str = "SOCK_STREAM", backlog: str = "1", *, user: int | None = None
) -> Iterator[int]:
    """Have another process, of another user, take an abstract name; yield its pid."""
    uid = os.geteuid() if user is None else user
    command = [sys.executable, "-I", "-c", HOLD, name, kind, backlog, str(uid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield holder.pid
        holder.communicate()


def test_an_interface_is_one_agents_and_the_other_learns_which(interface: str) -> None:
    with closing(claim_interface(interface)):
        for _ in range(3):
            with pytest.raises(InvalidSpec) as error:
                claim_interface(interface)
            assert str(error.value) == (
                f"interface '{interface}': is used by another agent on this host (pid {os.getpid()}): "
                "choose another --interface"
            )
    claim_interface(interface).close()


def test_another_interface_is_free_whatever_its_name_begins_with(interface: str) -> None:
    with closing(claim_interface(interface)), closing(claim_interface(f"{interface}0")):
        pass
    with closing(claim_interface(f"{interface}0")), closing(claim_interface(interface)):
        pass


def test_an_agent_in_another_process_is_named(interface: str) -> None:
    with held(f"wesher/{interface}/1") as pid, pytest.raises(InvalidSpec, match=re.escape(f"(pid {pid})")):
        claim_interface(interface)


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET"])
def test_what_does_not_listen_as_an_agent_does_is_none(interface: str, kind: str) -> None:
    with held(f"wesher/{interface}/1", kind, ""):
        claim_interface(interface).close()


@pytest.mark.parametrize("name", ["", "/", "/1", "/1 @wesher/x", "/\n@"])
@pytest.mark.parametrize(
    ("kind", "backlog"), [("SOCK_STREAM", "0"), ("SOCK_STREAM", "9"), ("SOCK_STREAM", ""), ("SOCK_DGRAM", "")]
)
def test_a_user_without_rights_keeps_no_agent_from_starting(
    interface: str, name: str, kind: str, backlog: str
) -> None:
    with (
        held(f"wesher/{interface}{name}", kind, backlog, user=65534),
        closing(claim_interface(interface)),
        pytest.raises(InvalidSpec, match=f"pid {os.getpid()}"),
    ):
        claim_interface(interface)


def test_a_user_who_fills_an_agents_queue_is_not_taken_for_an_agent(interface: str) -> None:
    name = f"wesher/{interface}/1"
    with held(name, backlog="0", user=65534), socket.socket(socket.AF_UNIX) as first:
        first.connect(f"\0{name}")
        claim_interface(interface).close()


def test_agents_in_two_containers_on_the_network_of_one_host_exclude_each_other(interface: str) -> None:
    """They share neither files nor process ids."""
    script = (
        "import sys; from wesher_agent.runtime.claim import claim_interface; claim_interface(sys.argv[1])"
    )
    contained = [system_program("unshare"), "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    with closing(claim_interface(interface)):
        refused = subprocess.run([*contained, interface], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    line = f"interface '{interface}': is used by another agent on this host: choose another --interface"
    assert line in refused.stderr
    subprocess.run([*contained, interface], check=True)
