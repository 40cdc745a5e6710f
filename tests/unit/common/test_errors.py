"""Errors are one line that a user can be shown."""

import pytest

from wesher_common.errors import ClusterUnavailable, InvalidSpec, PeerMisbehaved, WesherError


def test_a_bad_value_is_shown_with_its_field_and_rule() -> None:
    error = InvalidSpec("--cluster-port", "must be a number", value="x\ny")
    assert str(error) == r"--cluster-port 'x\ny': must be a number"
    assert (error.field, error.rule) == ("--cluster-port", "must be a number")


def test_of_a_long_value_the_beginning_is_shown() -> None:
    """An annotation may hold 256 KiB, which no status and no Event takes."""
    assert (
        str(InvalidSpec("--name", "must be short", value="n" * 5000))
        == f"--name '{'n' * 300}'…: must be short"
    )


def test_a_secret_is_left_out_by_giving_no_value() -> None:
    assert (
        str(InvalidSpec("--cluster-key", "must be standard base64"))
        == "--cluster-key: must be standard base64"
    )


def test_a_peers_fault_is_counted_by_its_reason_whatever_the_detail() -> None:
    assert str(PeerMisbehaved("truncated")) == "truncated"
    error = PeerMisbehaved("truncated", "4 of 9 bytes")
    assert (str(error), error.reason) == ("truncated: 4 of 9 bytes", "truncated")


@pytest.mark.parametrize("kind", [InvalidSpec, ClusterUnavailable, PeerMisbehaved])
def test_every_error_is_ours(kind: type[Exception]) -> None:
    assert issubclass(kind, WesherError)
