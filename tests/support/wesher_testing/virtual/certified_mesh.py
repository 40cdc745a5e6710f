"""Agents on the virtual network whose certificates an authority has signed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from wesher_agent.mesh.local import Local
from wesher_agent.mesh.place import Place
from wesher_common.certificate import Authority, Subject, name_hash
from wesher_common.mesh_document import IdentitySettings
from wesher_common.news import Statement, revocation_second, sign_statement
from wesher_common.overlay import IPAddress, candidate_address
from wesher_testing.virtual.mesh import EPOCH, VirtualAgent, VirtualMesh


class CertifiedMesh(VirtualMesh):
    """Agents of one mesh in Kubernetes, bound to an authority.

    Args:
        seed: as of `VirtualNetwork`.
        settings: further ones of `VirtualMesh`.

    """

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        super().__init__(seed, **settings)
        self.authority = Authority(bytes(range(32)))
        self.identity = IdentitySettings(
            mode="Verified", bound=True, form="Compact", authorities=(self.authority.key,)
        )
        self._places: dict[str, Place] = {}

    @property
    def wall_ms(self) -> int:
        """The time as an authority signs it."""
        return int((EPOCH + self.now) * 1000)

    def prepared(self, local: Local) -> Local:
        """Give an agent its overlay address and certificate; one that starts again has what it had."""
        document = replace(local.document, uid="u", identity=self.identity)
        place = self._places.get(local.name)
        if place is None:
            place = self._places[local.name] = self._issued(
                local, candidate_address(local.name, self.overlay)
            )
        options = replace(local.options, in_kubernetes=True, leaves_on_exit=False)
        return replace(local, document=document, options=options, place=place)

    def issue_again(self, agent: VirtualAgent) -> None:
        """Give a running agent a new certificate."""
        place = self._places[agent.name] = self._issued(agent.local, agent.overlay_address)
        agent.change(lambda member, now: member.node_given(place, now=now))

    def revocation(self, names: Iterable[str]) -> Statement:
        """Sign now that the certificates which these names have are void."""
        second = revocation_second(self.wall_ms)
        revoked = {name_hash(name): second for name in names}
        return sign_statement(self.authority, number=self.wall_ms, revoked=revoked)

    def _issued(self, local: Local, address: IPAddress) -> Place:
        subject = Subject(name=local.name, public_key=local.private_key.public, address=address)
        return Place(overlay_address=address, certificate=self.authority.issue(subject, serial=self.wall_ms))
