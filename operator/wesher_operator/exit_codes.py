"""What each exit code of ``wesher-operator`` and ``kubectl wesher`` means, for help and documentation."""

from __future__ import annotations

from collections.abc import Mapping

_MISNAMED = "a flag is invalid, or names an object that does not exist"
_NO_ANSWER = "the API server did not answer"

OPERATOR: Mapping[str, Mapping[int, str]] = {
    "run": {
        0: "the operator ended after SIGTERM, SIGINT or SIGHUP",
        1: "the API server rejected the operator, an error ended it, or it did not stop within a minute of a "
        "signal",
        2: "a flag is invalid, or a CustomResourceDefinition is missing",
        3: "the operator lost its leadership: another replica leads, or the API server was restored from "
        "a backup",
    },
    "check": {
        0: "the mesh is ready, and its nodes reach each other",
        1: "the mesh is not ready, or a node cannot reach another, after the timeout",
        2: "a flag is invalid",
    },
    "sign-revocation": {
        0: "the statement was written",
        2: "a flag is invalid, or a file cannot be read or written",
    },
    "uninstall": {
        0: "the agents have left; the log names those that have not",
        2: "a flag is invalid",
    },
}
"""Of ``wesher-operator``, by command."""
PLUGIN: Mapping[str, Mapping[int, str]] = {
    "status": {
        0: "all meshes shown are Ready, and none is Degraded",
        1: f"a mesh is not Ready or is Degraded, or {_NO_ANSWER}",
        2: _MISNAMED,
    },
    "doctor": {
        0: "no check failed",
        1: f"a check failed, or {_NO_ANSWER}",
        2: _MISNAMED,
    },
    "join-command": {
        0: "the commands were printed",
        1: _NO_ANSWER,
        2: _MISNAMED,
    },
    "revoke": {
        0: "the operator has signed that the certificates of this member are void",
        1: f"nothing is signed yet, or {_NO_ANSWER}",
        2: _MISNAMED,
    },
    "invite": {
        0: "the WesherPeer was created, and the join file was written",
        1: f"the API server refused the WesherPeer, the key Secret cannot be used, or {_NO_ANSWER}",
        2: f"{_MISNAMED}, or the machine was admitted before, or the file cannot be written",
    },
    "admit": {
        0: "the key is admitted, or was certified already",
        1: f"there is nothing to admit, or {_NO_ANSWER}",
        2: f"{_MISNAMED}, or the name and the key belong to different machines",
    },
    "authority": {
        0: "the key was printed",
        1: _NO_ANSWER,
        2: f"{_MISNAMED}, or the mesh has no authority yet",
    },
    "new-authority": {
        0: "the operator replaces the authority",
        1: f"an earlier replacement has not ended, or {_NO_ANSWER}",
        2: f"{_MISNAMED}, or the mesh has no authority yet",
    },
    "sysdump": {
        0: "the file was written; standard error lists what is missing from it",
        1: _NO_ANSWER,
        2: "a flag is invalid, or the file cannot be written",
    },
}
"""Of ``kubectl wesher``, by command."""


def exit_code_help(codes: Mapping[int, str]) -> str:
    """Return the lines that end a command's help."""
    return "\n".join(["exit codes:", *(f"  {code}  {meaning}" for code, meaning in codes.items())])
