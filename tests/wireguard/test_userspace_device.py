"""A real wireguard-go under our user-space backend, in namespaces of this machine."""

from __future__ import annotations

import sys

import pytest

from wesher_testing.device.cases import names, tell
from wesher_testing.device.harness import Carrier
from wesher_testing.run.toolbox import REPOSITORY, go_binary

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tun]


@pytest.fixture(scope="session")
def carrier() -> Carrier:
    module = REPOSITORY / "tests/support/go/wireguard"
    return Carrier("Userspace", str(go_binary(module, "golang.zx2c4.com/wireguard", "wireguard")))


@pytest.mark.parametrize("story", names("Userspace"))
def test_in_user_space(story: str, carrier: Carrier, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tell(story, carrier)
    with capsys.disabled():
        for what, seconds in (figures or {}).items():
            sys.stdout.write(f"\n  {what}: {seconds * 1000:.1f} ms")
