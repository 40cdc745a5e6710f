"""The command behind ``make demo`` and, with the argument ``machines``, ``make demo-machines``.

Runs on the machine's own Python, before the developers' environment exists: it shows
the plain machines while that environment and the Kubernetes programs are made in the background,
and then becomes `wesher_testing.run.demo.kubernetes`.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from wesher_testing.run import system_packages, toolbox
from wesher_testing.run.cache import cache_dir
from wesher_testing.run.demo import machine_parts
from wesher_testing.run.demo.background import Background
from wesher_testing.run.demo.machines import Machines
from wesher_testing.run.demo.narrator import FAILURES, Narrator, tail
from wesher_testing.run.demo.plan import Cost, Plan
from wesher_testing.run.toolbox import REPOSITORY

INTERRUPTED = 130
_BUILD = "make --silent .venv/.installed && exec .venv/bin/python -m wesher_testing.run.demo.kubernetes_parts"
_ENVIRONMENT_MEGABYTES = 510
_BUILD_MEGABYTES = 4600
"""Go's caches of modules and of built packages, and the programs."""
_LOOK_SECONDS = 0.2
_REPORT_EVERY = 20.0
"""Seconds between two signs of life of the build."""


def main(arguments: list[str]) -> int:
    """Run the demo; return the exit status."""
    if arguments not in ([], ["machines"]):
        print("usage: demo [machines]", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("· the demo makes network namespaces: running it with sudo", file=sys.stderr)
        command = toolbox.as_root([sys.executable, "-m", "wesher_testing.run.demo", *arguments])
        os.execv(command[0], command)  # noqa: S606 - the words are ours
    # So that an end by SIGTERM unwinds like an end by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say = Narrator()
    only_machines = bool(arguments)
    packages = system_packages.missing_for("demo")
    _announce(say, packages, only_machines=only_machines)
    try:
        if status := system_packages.install(packages):
            return status
        status = _show_machines(say) if only_machines else _show_machines_and_build(say)
    except KeyboardInterrupt:
        say.verdict("ended; nothing is left")
        return INTERRUPTED
    except FAILURES as error:
        say.verdict(f"FAILED: {error}")
        return 1
    if status == 0 and not only_machines:
        sys.stdout.flush()
        command = [str(REPOSITORY / ".venv/bin/python"), "-m", "wesher_testing.run.demo.kubernetes"]
        os.execv(command[0], command)  # noqa: S606 - the words are ours
    return status


def _announce(say: Narrator, packages: list[str], *, only_machines: bool) -> None:
    """Say what it will take, before anything is fetched."""
    plan = Plan(cache_dir(), [("three plain machines", machine_parts.cost())])
    if not only_machines:
        plan.parts.append(("three Kubernetes nodes and a machine outside", _kubernetes_cost()))
        plan.elsewhere = ".venv and Go's caches"
    say.headline("wesher: hosts in one encrypted mesh")
    say.note("Network namespaces of this machine stand for the hosts. They are gone at the end.")
    for line in plan.lines():
        say.paragraph(line)
    if packages:
        say.note(f"System packages to install: {' '.join(packages)}")


def _kubernetes_cost() -> Cost:
    wanted = [name for name in ("kube-apiserver", "kubectl") if not toolbox.offered_kubernetes_binary(name)]
    environment = 0 if (REPOSITORY / ".venv/.installed").exists() else _ENVIRONMENT_MEGABYTES
    if not wanted:
        return Cost("3 minutes", environment)
    return Cost(
        "3 minutes, after 3 to 15 minutes of building",
        environment + _BUILD_MEGABYTES,
        f"{' and '.join(wanted)} will be built with Go. To skip that, set KUBEBUILDER_ASSETS to a directory "
        "with etcd, kube-apiserver and kubectl, version 1.32 or newer (see setup-envtest).",
    )


def _show_machines(say: Narrator) -> int:
    """Show the plain machines, and leave them up if that is asked for."""
    with _machines(say) as machines:
        if status := _show(say, machines):
            return status
        if os.environ.get("KEEP"):
            say.verdict(f"done: {say.claims} claims hold")
            print(machines.how_to_use(), flush=True)
            signal.pause()
    say.verdict(f"done: {say.claims} claims hold; nothing is left")
    return 0


def _show_machines_and_build(say: Narrator) -> int:
    """Show the plain machines while what comes after them is made."""
    log = cache_dir() / "demo-build.log"
    with Background(["sh", "-c", _BUILD], log) as build:
        say.note(f"The Kubernetes parts are made in the background: tail -f {log}")
        with _machines(say) as machines:
            if status := _show(say, machines):
                return status
            say.headline(f"plain machines: {say.claims} claims hold")
            if not build.has_ended():
                print(machines.how_to_use(f"until the Kubernetes parts are made, see {log}"), flush=True)
            _wait(build, say)
        if build.status == 0:
            return 0
    say.note(f"the end of {log}:")
    say.output(tail(log))
    say.verdict(f"FAILED: the Kubernetes parts could not be made: see {log}")
    return 1


def _machines(say: Narrator) -> Machines:
    with say.stage("What the hosts run", "The agent with its libraries, and WireGuard."):
        python = machine_parts.agent_python()
        wireguard = machine_parts.wireguard()
        say.note(f"agent: {REPOSITORY / 'agent'} with {python}")
        say.note(f"WireGuard: {wireguard or 'of this kernel'}")
    return Machines(say, python, wireguard)


def _show(say: Narrator, machines: Machines) -> int:
    try:
        machines.show()
    except FAILURES as error:
        say.failure(error, machines.logs)
        return 1
    return 0


def _wait(build: Background, say: Narrator) -> None:
    reported = say.elapsed
    while not build.has_ended():
        time.sleep(_LOOK_SECONDS)
        if say.elapsed - reported > _REPORT_EVERY:
            reported = say.elapsed
            say.note(f"waiting for the Kubernetes parts, {reported:.0f} s so far: {tail(build.log, lines=1)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
