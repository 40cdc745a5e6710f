"""What one of the two carriers alone must do: stories of the kernel and of the user-space program."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

from wesher_testing.device.harness import (
    INTERFACE,
    Carrier,
    a_peer,
    a_wish,
    addresses,
    an_agent,
    carrier_pid,
    configure,
    connect,
    equal,
    hide_programs,
    hold_a_tun,
    holds,
    kind_of,
    link,
    looks_as_wished,
    lost_pings,
    made_up_peers,
    nothing,
    open_again,
    open_it,
    open_with_a_secret,
    open_without_tun,
    ping,
    refusal,
    remove,
    remove_and_watch_the_loop,
    repair_at_once_when_gone,
    repair_until_it_answers,
    repair_when_lost,
    routes,
    wait_for_it,
    wish_of,
)
from wesher_testing.device.private_hosts import (
    make_host,
    two_hosts,
)
from wesher_testing.device.registry import Chapter

CHAPTER = Chapter()


@CHAPTER.only("Kernel")
def auto_picks_the_kernel(carrier: Carrier) -> None:
    agent = make_host().agent(partial(open_it, "Auto", None))
    equal(agent.call(kind_of), "Kernel", "kind")


@CHAPTER.only("Kernel")
def removing_a_thousand_peers_does_not_hold_up_the_event_loop(carrier: Carrier) -> dict[str, float]:
    agent = an_agent(make_host(), carrier)
    stalls = []
    # What a machine itself holds up once, it does not hold up each time.
    for _ in range(3):
        agent.call(configure, a_wish(*made_up_peers(1000)))
        took, longest_stall = agent.call(remove_and_watch_the_loop)
        if longest_stall < max(took / 2, 0.25):
            return {"removing 1000 peers": took, "longest stall": longest_stall}
        stalls.append(f"stalled {longest_stall:.3f} of {took:.3f} s")
    raise AssertionError(", ".join(stalls))


@CHAPTER.only("Userspace")
def a_killed_program_is_started_again_with_everything_back(carrier: Carrier) -> dict[str, float]:
    first, second = two_hosts()
    agent, _ = connect(first, second, carrier)
    first.run(*ping("10.189.0.2", 1))
    victim = agent.call(carrier_pid)
    os.kill(victim, signal.SIGKILL)
    start = time.perf_counter()
    outcome = agent.call(repair_when_lost)
    took = time.perf_counter() - start
    equal((outcome.changed, outcome.sessions_lost), (True, True), "outcome")
    holds(agent.call(carrier_pid) != victim, "another process")
    looks_as_wished(first, wish_of(first, second, 1))
    equal(lost_pings(first.run(*ping("10.189.0.2", 2, "-i", "0.2")), 2), set(), "pings lost")
    return {"back after": took}


@CHAPTER.only("Userspace")
def the_program_gets_none_of_our_environment(carrier: Carrier) -> None:
    """Show that what an agent was started with, perhaps the cluster key, stays with it."""
    agent = make_host().agent(partial(open_with_a_secret, carrier.binary))
    agent.call(configure, a_wish(a_peer(2)))
    environment = Path(f"/proc/{agent.call(carrier_pid)}/environ").read_text()
    holds("LOG_LEVEL" in environment and "SECRET" not in environment, environment)


@CHAPTER.only("Userspace")
def address_and_routes_stay_while_the_program_is_away(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2))
    agent.call(configure, wish)
    victim = agent.call(carrier_pid)
    agent.kill()
    os.kill(victim, signal.SIGKILL)
    os.waitid(os.P_PID, victim, os.WEXITED)
    equal(addresses(host), {"10.189.0.1/32"}, "addresses")
    equal(routes(host), {"10.189.0.2/32"}, "routes")
    outcome, _ = an_agent(host, carrier).call(configure, wish)
    holds(outcome.sessions_lost, "a new program has no sessions")
    looks_as_wished(host, wish)


@CHAPTER.only("Userspace")
def another_program_s_tun_is_left_alone(carrier: Carrier) -> None:
    host = make_host()
    holder = host.agent(hold_a_tun)
    holder.call(wait_for_it)
    before = link(host)
    agent = an_agent(host, carrier)
    for ask in (lambda: agent.call(configure, a_wish(a_peer(2))), lambda: agent.call(remove)):
        error = refusal(ask)
        equal(
            (error.kind, "is used by a program without a WireGuard socket" in error.text),
            ("WireGuardUnavailable", True),
            error.text,
        )
    equal(link(host), before, "the other program's device")


@CHAPTER.only("Userspace")
def a_change_waits_for_the_end_of_a_program_whose_device_was_removed(carrier: Carrier) -> None:
    """On a busy machine it still answers for a while."""
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    program = agent.call(carrier_pid)
    os.kill(program, signal.SIGSTOP)
    host.run("ip", "link", "del", INTERFACE)
    threading.Timer(0.1, os.kill, (program, signal.SIGCONT)).start()
    wish = a_wish(a_peer(2), a_peer(3))
    agent.call(configure, wish)
    looks_as_wished(host, wish)


@CHAPTER.only("Userspace")
def a_program_that_hangs_is_replaced(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    wish = a_wish(a_peer(2))
    agent.call(configure, wish)
    victim = agent.call(carrier_pid)
    os.kill(victim, signal.SIGSTOP)
    failed = agent.call(repair_until_it_answers)
    holds(failed >= 2, f"a single look in vain is not a hang: {failed}")
    holds(agent.call(carrier_pid) != victim, "another process")
    looks_as_wished(host, wish)


@CHAPTER.only("Userspace")
def a_program_that_keeps_ending_is_held_back(carrier: Carrier) -> None:
    host = make_host()
    agent = an_agent(host, carrier)
    agent.call(configure, a_wish(a_peer(2)))
    # So often that the next is held back for two seconds, within which a busy machine looks.
    for _ in range(3):
        os.kill(agent.call(carrier_pid), signal.SIGKILL)
        agent.call(repair_when_lost)
    os.kill(agent.call(carrier_pid), signal.SIGKILL)
    error = refusal(lambda: agent.call(repair_at_once_when_gone))
    equal((error.kind, "keeps exiting" in error.text), ("WireGuardUnavailable", True), error.text)
    agent.call(repair_when_lost)
    looks_as_wished(host, a_wish(a_peer(2)))


@CHAPTER.only("Userspace")
def a_machine_without_tun_says_what_to_do(carrier: Carrier) -> None:
    agent = make_host().agent(partial(open_without_tun, carrier.binary))
    error = refusal(lambda: agent.call(configure, a_wish(a_peer(2))))
    equal((error.kind, "/dev/net/tun" in error.text, "modprobe tun" in error.text),
          ("WireGuardUnavailable", True, True), error.text)  # fmt: skip


@CHAPTER.only("Userspace")
def auto_without_a_kernel_module_takes_user_space(carrier: Carrier) -> None:
    agent = make_host().agent(nothing)
    equal(agent.call(open_again, "Auto", carrier.binary), "Userspace", "kind")
    agent.call(hide_programs)
    error = refusal(lambda: agent.call(open_again, "Auto", None))
    equal(
        (error.kind, "modprobe wireguard" in error.text, "install it" in error.text),
        ("WireGuardUnavailable", True, True),
        error.text,
    )
    error = refusal(lambda: agent.call(open_again, "Userspace", "/bin/true"))
    equal((error.kind, "--userspace-binary '/bin/true': is not wireguard-go" in error.text),
          ("InvalidSpec", True), error.text)  # fmt: skip
    error = refusal(lambda: agent.call(open_again, "Userspace", "/nonexistent"))
    equal(error.text, "--userspace-binary '/nonexistent': program not found", "text")
