"""What each exit code of the command ``wesher`` means, for its help and the documentation."""

from __future__ import annotations

from collections.abc import Mapping

EXIT_CODES: Mapping[str, Mapping[int, str]] = {
    "agent": {
        0: "the agent ended after SIGTERM, SIGINT, SIGHUP or `wesher leave`",
        1: "a flag is invalid, the agent could not start, or an error ended it",
    },
    "status": {
        0: "the agent answered, ready or not; with --check: this host is in the mesh",
        1: "a flag is invalid, or no agent answered; with --check also: this host is not in the mesh",
    },
    "members": {
        0: "the agent answered",
        1: "a flag is invalid, no member has the given name, or no agent answered",
    },
    "ping": {
        0: "the member answered at least once",
        1: "the member did not answer, or it has no tunnel",
        2: "a flag is invalid, there is no such member, or no agent answered",
    },
    "join-command": {
        0: "the commands were printed",
        1: "a flag is invalid, no agent answered, or Kubernetes manages the mesh",
    },
    "key": {
        0: "the key was printed",
        1: "a flag is invalid, no agent answered, or Kubernetes manages the mesh",
    },
    "rekey": {
        0: "the new WireGuard key is saved, and the agent restarts with it",
        1: "a flag is invalid, no agent answered, or the new key could not be saved",
    },
    "news": {
        0: "the agent has the revocations",
        1: "a flag is invalid, the file cannot be read, its revocations do not count, or no agent answered",
    },
    "leave": {
        0: "this host has left the mesh",
        1: "a flag is invalid, or no agent answered; with --forget also: keys could not be deleted",
    },
    "cleanup": {
        0: "wesher's device and files are removed; a device of another program is kept",
        1: "a flag is invalid, an agent runs, or something could not be removed",
    },
    "keygen": {
        0: "the key was printed",
        1: "a flag is invalid, or the key could not be written",
    },
    "completion": {
        0: "the script was printed",
        1: "a flag is invalid, or there is no script for this shell",
    },
    "help": {
        0: "the help was printed",
        1: "a flag is invalid, or there is no such command",
    },
    "version": {
        0: "the version was printed",
        1: "a flag is invalid",
    },
}


def exit_code_help(command: str) -> str:
    """Return the lines that end a command's help."""
    lines = (f"  {code}  {meaning}" for code, meaning in EXIT_CODES[command].items())
    return "\n".join(["exit codes:", *lines])
