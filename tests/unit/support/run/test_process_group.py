"""Ending what a tool has started, also if the interruption comes while it is started."""

import signal
import threading

import pytest

from wesher_testing.run.process_group import signals_held


def test_an_interruption_is_held_until_the_process_is_known() -> None:
    reached: list[str] = []

    def start() -> None:
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert reached == ["the end of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_an_interruption_nothing_changes() -> None:
    with signals_held():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_holds_nothing() -> None:
    """Python sets handlers in the main thread only."""

    def hold() -> None:
        with signals_held():
            held.append(signal.getsignal(signal.SIGINT))

    held: list[object] = []
    thread = threading.Thread(target=hold)
    thread.start()
    thread.join(timeout=10.0)
    assert held == [signal.default_int_handler]
