"""What to run on another machine so that it joins a mesh; pure.

Both ``wesher join-command`` and ``kubectl wesher join-command`` print it. The cluster key is not part
of it: it goes from its place into a file, never through an argument list that other users of a machine
can read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from wesher_common.printable import shell_line

KEY_FILE = "/etc/wesher/key"
"""Where the other machine keeps the key."""
MAX_SEEDS = 3
TAKE_KEY = f"ssh root@MACHINE 'umask 077; mkdir -p /etc/wesher; cat > {KEY_FILE}'"
"""Writes the key on its standard input into `KEY_FILE`, which only root can read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFlags:
    """The flags with which a machine joins a mesh."""

    seeds: Sequence[str]
    """Members to join through, as ``--join`` takes them."""
    overlay: str
    gossip_port: int
    wireguard_port: int
    gossip_profile: str
    label: str = ""
    mtu: int = 0
    """Bytes; 0 if each member derives it from its underlay."""
    writes_hosts_file: bool = True
    authority: str = ""
    """Public key of the authority of a Verified mesh: without it, a machine accepts no certificate."""

    def command(self, *, defaults: Mapping[str, str] = MappingProxyType({})) -> str:
        """Return the command to run, as a line for a shell.

        Args:
            defaults: flags that are left out if they have this value.

        """
        values = {
            "--cluster-key-file": KEY_FILE,
            "--join": ",".join(self.seeds),
            "--overlay-net": self.overlay,
            "--cluster-port": str(self.gossip_port),
            "--wireguard-port": str(self.wireguard_port),
            "--gossip-profile": self.gossip_profile,
            "--label": self.label,
            "--mtu": str(self.mtu or ""),
            "--authority": self.authority,
        }
        words = ["wesher"]
        for name, value in values.items():
            if value not in {"", defaults.get(name)}:
                words += [name, value]
        return shell_line(words if self.writes_hosts_file else [*words, "--no-etc-hosts"])
