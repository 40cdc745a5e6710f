"""What an agent, or a command that asks one, says when it lacks a right."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from wesher_testing.agents.process import KEY, WESHER
from wesher_testing.lab.namespaces import Host, Lab

pytestmark = pytest.mark.needs_root

WITHOUT = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"]
ASK = [sys.executable, "-c", "from wesher_agent.netlink.rights import check_rights; check_rights()"]


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("a")


@pytest.mark.parametrize(
    ("wrapper", "says"),
    [
        (WITHOUT, "is missing, so the agent cannot create its interface: run it as root, or "),
        (
            ["unshare", "--user", "--map-root-user"],
            "has no effect on this network, because ",
        ),
    ],
    ids=["without the capability", "root of a user namespace on the host's network"],
)
def test_without_the_right_to_change_the_network_it_says_so_and_writes_nothing(
    host: Host, wrapper: list[str], says: str
) -> None:
    done = host.run([*wrapper, WESHER, "--cluster-key", KEY], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"wesher: error: CAP_NET_ADMIN: {says}")
    for directory in ("var/lib/wesher", "run/wesher"):
        assert not (host.root / directory).exists()


def test_a_bad_flag_is_named_first(host: Host) -> None:
    done = host.run([*WITHOUT, WESHER, "--mtu=1"], check=False)
    assert done.stderr.startswith("wesher: error: --mtu '1': ")


def test_root_of_a_user_namespace_has_the_right_in_its_own_network(host: Host) -> None:
    """As in a rootless container."""
    host.run(["unshare", "--user", "--map-root-user", "--net", *ASK])


def test_the_question_changes_nothing(host: Host) -> None:
    before = host.run(["ip", "-d", "address"]).stdout
    host.run(ASK)
    assert host.run(["ip", "-d", "address"]).stdout == before


def test_a_command_that_may_not_ask_the_agent_says_so(host: Host) -> None:
    """Root, without the right to pass over modes, is denied what the owner denies itself."""
    without = "-dac_override,-dac_read_search"
    asker = ["setpriv", f"--inh-caps={without}", f"--bounding-set={without}", WESHER, "status"]
    host.run(["mkdir", "-p", "/run/closed", "/run/open"])
    host.run(["chmod", "0", "/run/closed"])
    make = "import os, socket; socket.socket(socket.AF_UNIX).bind('/run/open/wg0.sock')"
    host.run([sys.executable, "-c", f"{make}; os.chmod('/run/open/wg0.sock', 0)"])
    for directory, says in (
        ("/run/closed", "not allowed to read /run/closed: run this as the agent's user"),
        (
            "/run/open",
            "not allowed to connect to the agent at /run/open/wg0.sock: run this as the agent's user",
        ),
    ):
        done = host.run([*asker, f"--run-dir={directory}"], check=False)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"wesher: error: {says}\n")
