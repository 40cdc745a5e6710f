"""Breaks one place of the code at a time, and sees a named test fail: ``tests/sabotage.py [NAME ...]``.

A joint that nothing tests looks as sound as one that everything tests. Each entry
here breaks one decision of a member or the operator, or one deed of a shell, in a copy of the tree;
the test it names must fail there, and must pass in the copy that nothing was done to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MEMBER, AGENT = "agent/wesher_agent/mesh/member.py", "agent/wesher_agent/runtime/agent.py"
TESTS, SIM = "tests/unit/mesh/test_member.py", "tests/sim/test_names_and_addresses.py"
SHELL, NEWS = "tests/unit/runtime/test_agent.py", "tests/unit/mesh/test_news.py"
CERTIFIED = "tests/unit/mesh/test_certified_members.py"
DELIVERY, DELIVERED = "agent/wesher_agent/mesh/delivery.py", "tests/unit/mesh/test_delivery.py"
SECONDS = 300
"""For one test, however slow the machine is."""


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One place to break."""

    file: str
    old: str
    """Stands there once."""
    new: str
    test: str
    """Must fail."""


SABOTAGES = {
    "let-another-cluster-certify-our-names": Sabotage(
        "common/wesher_common/certificate.py",
        'if self.suffix and not subject.name.endswith(f".{self.suffix}"):',
        "if False:",
        "tests/sim/test_two_clusters.py::test_a_hostile_authority_of_another_cluster_changes_no_device"
        "[sign_a_name_that_only_looks_like_its_own]",
    ),
    "let-another-cluster-certify-our-addresses": Sabotage(
        "common/wesher_common/certificate.py",
        "if self.cidrs and not any(_is_inside(subject.address, network) for network in self.cidrs):",
        "if False:",
        "tests/sim/test_two_clusters.py::test_a_hostile_authority_of_another_cluster_changes_no_device"
        "[sign_an_address_outside_its_networks]",
    ),
    "cut-another-cluster-off-when-a-node-joins": Sabotage(
        "operator/wesher_operator/reconcile/trusted.py",
        "            if not is_kept:\n                return",
        "            return",
        "tests/unit/operator_reconcile/test_trusted.py::test_a_network_that_is_used_later_cuts_nothing_that_runs",
    ),
    "trust-a-cluster-whose-name-contains-ours": Sabotage(
        "operator/wesher_operator/reconcile/trusted.py",
        'return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")',
        "return one == other",
        "tests/unit/operator_reconcile/test_trusted.py::test_a_cluster_name_below_ours_or_above_it_is_refused",
    ),
    "miss-an-address-outside-node-cidrs": Sabotage(
        "operator/wesher_operator/kubectl/traffic_checks.py",
        "if not _is_inside(address, allowed):",
        "if not allowed:",
        "tests/unit/kubectl/test_traffic_checks.py"
        "::test_addresses_outside_the_allowed_networks_and_those_not_certified_are_named",
    ),
    "certify-networks-before-agents-accept": Sabotage(
        "operator/wesher_operator/reconcile/traffic.py",
        "any(held.values()) or (bool(ready) and not not_accepting)",
        "True",
        "tests/unit/operator_reconcile/test_traffic.py"
        "::test_networks_are_certified_once_every_agent_on_a_ready_node_accepts",
    ),
    "drop-networks-while-agents-route": Sabotage(
        "operator/wesher_operator/reconcile/traffic.py",
        "if not_stopped and not _is_wanted(each, settings)",
        "if False",
        "tests/unit/operator_reconcile/test_traffic.py"
        "::test_networks_stay_in_the_certificates_until_every_agent_has_stopped_routing",
    ),
    "certify-without-a-look-at-the-api-servers-address": Sabotage(
        "operator/wesher_operator/reconcile/traffic.py",
        "if settings.is_on and obstacle is not None:",
        "if False:",
        "tests/unit/operator_reconcile/test_traffic.py"
        "::test_through_the_mesh_too_nobody_is_certified_who_could_have_the_api_servers_address",
    ),
    "let-a-node-have-the-api-servers-address": Sabotage(
        "operator/wesher_operator/reconcile/routes.py",
        "if address in surroundings.api_servers and CONTROL_PLANE_LABEL not in node.labels:",
        "if False:",
        "tests/unit/operator_reconcile/test_routes.py"
        "::test_an_address_that_a_kubelet_may_not_claim_is_refused_with_the_rule",
    ),
    "forget-what-a-certificate-lists": Sabotage(
        "operator/wesher_operator/reconcile/authority.py",
        "networks=held_networks(member),",
        "networks=(),",
        "tests/unit/operator_reconcile/test_authority.py"
        "::test_a_key_stays_certified_when_networks_change_and_the_ledger_is_lost",
    ),
    "run-a-mesh-beside-the-machines-own-with-its-device": Sabotage(
        "operator/wesher_operator/reconcile/refusal.py",
        "if machines is None or not shared:",
        "if True:",
        "tests/unit/operator_reconcile/test_refusal.py::"
        "test_only_what_a_mesh_has_in_common_with_the_machines_own_is_to_be_changed",
    ),
    "call-the-service-ready-without-a-device": Sabotage(
        "agent/wesher_agent/runtime/systemd.py",
        "async with asyncio.timeout(READY_SECONDS):",
        "async with asyncio.timeout(0.0):",
        "tests/unit/runtime/test_systemd.py::test_the_service_is_ready_once_its_device_is_up_and_not_before",
    ),
    "forget-proven-endpoints": Sabotage(
        MEMBER,
        "endpoints=self._proven,",
        "endpoints={},",
        f"{TESTS}::test_where_a_handshake_proved_a_peer_to_be_is_saved_and_the_device_begins_there",
    ),
    "limit-uncertified-members-later": Sabotage(
        MEMBER,
        "self._engine.set_most_unproven(self._most_unproven)\n        self._engine.bury",
        "self._engine.bury",
        f"{TESTS}::test_a_bound_mesh_remembers_few_uncertified_members_from_the_start",
    ),
    "believe-a-clock-that-is-years-ahead": Sabotage(
        "agent/wesher_agent/mesh/identity.py",
        "if certificate.authority in self._own and not self._trusted[certificate.authority].newest:",
        "if False:",
        f"{CERTIFIED}::test_on_the_first_start_our_own_certificate_tells_the_time_better_than_a_clock_"
        "that_is_years_ahead",
    ),
    "save-what-older-releases-cannot-read": Sabotage(
        "agent/wesher_agent/mesh/roster.py",
        "else in_gob_form(member.raw_meta, member.meta),",
        "else member.raw_meta,",
        f"{CERTIFIED}::test_the_members_of_a_bound_mesh_are_saved_in_the_form_that_an_older_release_reads",
    ),
    "admit-a-second-key-with-one-invite": Sabotage(
        "operator/wesher_operator/reconcile/invites.py",
        "return key_of(entry.key) if entry.incarnation == admission(peer) else None",
        "return None",
        "tests/unit/operator_reconcile/test_peers.py"
        "::test_the_ledger_decides_which_key_used_an_invite_where_the_status_was_lost",
    ),
    "admit-after-the-end-of-an-invite": Sabotage(
        "operator/wesher_operator/reconcile/invites.py",
        "    if situation.now > until:",
        "    if False:",
        "tests/unit/operator_reconcile/test_peers.py::test_an_invite_ends",
    ),
    "move-a-machine-whose-address-is-claimed": Sabotage(
        "operator/wesher_operator/reconcile/peer_addresses.py",
        "    used = set(nodes)",
        "    used = {*nodes, *outside}",
        "tests/unit/operator_reconcile/test_peer_addresses.py"
        "::test_the_address_that_a_machine_has_stays_whatever_others_claim",
    ),
    "publish-a-certificate-that-is-not-in-the-status": Sabotage(
        "operator/wesher_operator/reconcile/peer_keeper.py",
        "            if peer.status.certificate != certificate.to_base64():",
        "            if False:",
        "tests/unit/operator_reconcile/test_peer_keeper.py"
        "::test_a_certificate_is_published_once_it_is_in_the_status",
    ),
    "renew-too-late": Sabotage(
        "operator/wesher_operator/reconcile/authority.py",
        "life * (1 - _JITTER * share)",
        "life * (1 + _JITTER * share)",
        "tests/unit/operator_reconcile/test_authority.py"
        "::test_renewals_are_spread_over_the_last_five_per_cent_of_two_thirds_of_the_life",
    ),
    "let-a-revoked-node-register-again": Sabotage(
        "operator/wesher_operator/reconcile/revocations.py",
        "elif not is_out and bar is not None and bar.node == uid:",
        "elif not is_out and bar is not None:",
        "tests/unit/operator_reconcile/test_revocations.py"
        "::test_a_revoked_node_that_was_deleted_and_registers_again_stays_out_until_it_is_readmitted",
    ),
    "sign-before-agents-have-reported": Sabotage(
        "operator/wesher_operator/reconcile/revoker.py",
        "can_sign=self._has_heard(members, now)",
        "can_sign=True",
        "tests/unit/operator_reconcile/test_revoker.py"
        "::test_the_first_statement_after_a_start_waits_for_a_report_where_agents_have_reported_before",
    ),
    "let-an-external-machine-wait-for-the-kubelets": Sabotage(
        "operator/wesher_operator/reconcile/nudge.py",
        "passes_on = awaited > 0 and pod.name in first",
        "passes_on = False",
        "tests/unit/operator_reconcile/test_nudge.py"
        "::test_three_agents_are_nudged_for_a_certificate_that_an_external_machine_awaits_once",
    ),
    "certify-within-the-revoked-second": Sabotage(
        "operator/wesher_operator/reconcile/certifier.py",
        "each.after + 1)",
        "0)",
        "tests/unit/operator_reconcile/test_revoker.py"
        "::test_a_node_that_comes_back_gets_a_certificate_that_is_later_than_its_revocation",
    ),
    "ignore-roster-changes": Sabotage(
        MEMBER,
        "if self._roster.observe(event, now=now):",
        "if self._roster.observe(event, now=now) and False:",
        f"{TESTS}::test_a_burst_of_news_is_applied_once_more_after_the_apply_under_way",
    ),
    "keep-a-clashing-address": Sabotage(
        MEMBER,
        "if moved_to == peer.address:",
        "if moved_to:",
        f"{TESTS}::test_of_two_claimants_of_an_address_the_one_that_must_move_announces_and_applies_the_next",
    ),
    "take-the-tunnel-of-one-that-moves": Sabotage(
        MEMBER,
        "if member.state is MemberState.LEFT and now < until:",
        "if False:",
        f"{TESTS}::test_one_that_leaves_keeps_its_tunnel_for_as_long_as_a_move_takes",
    ),
    "spread-names-that-displace-others": Sabotage(
        "agent/wesher_agent/swim/membership.py",
        "is_spread = not self._make_room(is_proven=is_proven) or is_proven",
        "self._make_room(is_proven=is_proven)",
        "tests/unit/swim/test_standing.py::test_names_that_take_the_place_of_others_are_not_spread",
    ),
    "check-every-forged-certificate": Sabotage(
        "agent/wesher_agent/mesh/identity.py",
        "if not self._budget.allows(source, has_tunnel=self.has_tunnel_to(source.holder), now=now):",
        "if False:",
        "tests/unit/mesh/test_signature_budget.py::test_a_flood_is_checked_up_to_the_limit_of_each_second",
    ),
    "keep-preferring-what-is-not-proven-any-more": Sabotage(
        "agent/wesher_agent/swim/membership.py",
        "            self._unproven.add(name)\n            self._table.proven.discard(name)",
        "            self._unproven.add(name)",
        "tests/unit/swim/test_standing.py::"
        "test_what_is_proven_later_or_no_more_is_preferred_from_then_on_or_no_more",
    ),
    "forget-who-shows-an-invite-for-a-name-in-use": Sabotage(
        "agent/wesher_agent/mesh/roster.py",
        "return known is not None and self._note_claimant(known, event, now)",
        "return False",
        "tests/unit/mesh/test_certified_members.py::"
        "test_machines_that_show_an_invite_for_a_name_in_use_are_remembered_up_to_a_limit",
    ),
    "search-for-invented-members": Sabotage(
        "agent/wesher_agent/mesh/roster.py",
        "not (is_displaced or self._identity.is_bound)",
        "not is_displaced",
        "tests/unit/mesh/test_certified_members.py::"
        "test_a_bound_mesh_searches_for_no_member_that_would_get_no_tunnel",
    ),
    "drop-a-certified-member-with-a-false-endpoint": Sabotage(
        "agent/wesher_agent/mesh/desired.py",
        "if endpoint.address in inside and not claim.member.verdict.is_certified:",
        "if endpoint.address in inside:",
        "tests/unit/mesh/test_certified_members.py::"
        "test_a_forged_endpoint_inside_the_overlay_takes_no_certified_members_tunnel",
    ),
    "keep-the-tunnel-of-a-revoked-member": Sabotage(
        MEMBER,
        """        if is_new:
            self._judge(now)
""",
        """        if is_new:
""",
        f"{NEWS}::test_a_revoked_member_loses_tunnel_hosts_entry_and_standing_at_once_in_every_mode",
    ),
    "pass-no-revocation-on": Sabotage(
        MEMBER,
        "self._news.pass_on(now=now)",
        "pass",
        f"{NEWS}::test_a_new_statement_goes_to_four_members_once",
    ),
    "take-an-older-revocation": Sabotage(
        "agent/wesher_agent/mesh/news.py",
        "if number <= known.number:",
        "if number == known.number:",
        f"{NEWS}::test_an_older_statement_is_dropped_unread_and_the_same_one_silently",
    ),
    "forget-what-was-revoked-before": Sabotage(
        "agent/wesher_agent/mesh/identity.py",
        "revoked = _union(self._known_of(trust.key).revoked, statement.revoked_ms, newest)",
        "revoked = _union({}, statement.revoked_ms, newest)",
        f"{NEWS}::test_what_was_revoked_stays_so_when_a_later_statement_leaves_it_out",
    ),
    "leave-a-member-behind-in-a-state-exchange": Sabotage(
        MEMBER,
        "self._news.exchanged(state, address, asked_for=False, now=now)",
        "pass",
        f"{NEWS}::test_a_member_that_is_behind_is_sent_the_statement_once_in_a_while",
    ),
    "never-settle-a-name-conflict": Sabotage(
        MEMBER,
        "self._settle_conflict(event.claimed, asked_for=event.asked_for, is_copy=is_copy, now=now)",
        "pass",
        f"{SIM}::test_an_agent_restarted_at_another_address_is_found_there_by_all",
    ),
    "forget-addresses-of-the-gone": Sabotage(
        MEMBER,
        "former = self._former_addresses.addresses",
        "former: frozenset[IPAddress] = frozenset()",
        f"{TESTS}::test_a_member_that_left_is_covered_for_a_day_over_restarts_too",
    ),
    "save-no-addresses-of-the-gone": Sabotage(
        MEMBER,
        "former_addresses=self._former_addresses.saved(now=now),",
        "",
        f"{TESTS}::test_a_member_that_left_is_covered_for_a_day_over_restarts_too",
    ),
    "say-on-each-apply-what-is-not-covered": Sabotage(
        MEMBER,
        "self._reported_cover = cover = self._cover",
        "cover = self._cover",
        f"{TESTS}::test_it_says_once_that_only_members_are_covered_as_soon_as_they_are",
    ),
    "leave-a-lost-state-file": Sabotage(
        AGENT,
        "self._driver.tell(self._member.state_lost)",
        "pass",
        f"{SHELL}::test_a_state_directory_that_another_program_removed_is_back_with_the_same_keys",
    ),
    "never-save-a-lost-state": Sabotage(
        MEMBER,
        "if not self._saving.problem and not self._saving.is_under_way:",
        "if False:",
        f"{TESTS}::test_a_state_that_another_program_removed_is_saved_again_though_nothing_changed",
    ),
    "believe-a-false-endpoint": Sabotage(
        "agent/wesher_agent/tunnel/endpoint_trials.py",
        "if doubt.phase is _Phase.ASKED and has_answered(doubt.received, session.rx_bytes):",
        "if doubt.phase is _Phase.ASKED and False:",
        "tests/unit/tunnel/test_endpoint_trials.py::test_a_false_announcement_moves_no_peer_that_answers",
    ),
    "demand-a-leave-before-another-port": Sabotage(
        "agent/wesher_agent/swim/members.py",
        "return self.versions.delegate_min == 0 < self.versions.delegate_max",
        "return False",
        "tests/sim/test_healing.py::"
        "test_members_that_all_get_another_gossip_port_lose_no_tunnel_and_nobody_leaves[12-1-0.1]",
    ),
    "let-others-have-it-failed-elsewhere": Sabotage(
        MEMBER,
        "case FailedElsewhere(address=address) if self._conflicts.is_former(address):",
        "case FailedElsewhere(address=address) if False:",
        f"{SIM}::test_a_machine_that_replaces_another_under_its_name_is_found_at_once_at_its_new_address",
    ),
    "forget-where-the-node-reported-from": Sabotage(
        MEMBER,
        "if self._conflicts.was_at(former):",
        "if False:",
        f"{SIM}::test_a_machine_that_replaces_another_under_its_name_is_found_at_once_at_its_new_address",
    ),
    "never-retry-a-save": Sabotage(
        "agent/wesher_agent/mesh/chore.py",
        "self._retry_at = now + self.retry if problem else inf",
        "pass",
        f"{TESTS}::test_a_state_that_cannot_be_written_is_said_once_counted_each_time_and_written_once_it_can_be",
    ),
    "never-save-a-refutation": Sabotage(
        MEMBER,
        "case SelfRefuted():",
        "case SelfRefuted() if False:",
        f"{TESTS}::test_an_incarnation_that_was_forced_up_is_saved_so_that_a_restart_begins_above_it",
    ),
    "dial-without-limit": Sabotage(
        "agent/wesher_agent/mesh/seeker.py",
        "room = max(0, MOST_DIALS - self._engine.open_streams)",
        "room = 1000",
        f"{TESTS}::test_saved_members_are_dialled_one_a_call_as_many_as_there_is_room_for_and_the_rest_stay_due",
    ),
    "never-dial": Sabotage(
        "agent/wesher_agent/mesh/seeker.py",
        "self._dials.append(target)",
        "pass",
        f"{TESTS}::test_no_more_are_dialled_in_a_second_than_the_mesh_can_bear",
    ),
    "leave-without-a-word": Sabotage(
        MEMBER,
        "self._engine.leave(now=now, timeout=LEAVE_SECONDS)",
        "self._has_left = True",
        f"{TESTS}::test_one_that_leaves_tells_all_saves_once_more_and_touches_the_device_no_more",
    ),
    "leave-at-every-signal": Sabotage(
        MEMBER,
        "if gone or self._local.options.leaves_on_exit:",
        "if True:",
        f"{TESTS}::test_a_termination_signal_means_leaving_outside_kubernetes_and_a_restart_inside",
    ),
    "announce-a-move-before-listening": Sabotage(
        MEMBER,
        "if address != former and self._listens_as_wanted:",
        "if address != former:",
        f"{TESTS}::test_a_move_to_another_address_is_announced_only_once_it_listens_there",
    ),
    "never-announce-a-move": Sabotage(
        MEMBER,
        "self._engine.change_address(address, now=now)",
        "pass",
        f"{TESTS}::test_one_that_listens_everywhere_announces_another_address_at_once",
    ),
    "never-restart": Sabotage(
        MEMBER,
        "if self._local.needs_restart_for(document):",
        "if False:",
        f"{TESTS}::test_what_takes_a_restart",
    ),
    "end-before-the-last-save": Sabotage(
        MEMBER,
        "if not self._is_last_saved:",
        "if False:",
        f"{TESTS}::test_one_that_leaves_has_not_left_before_its_last_save",
    ),
    "shell-saves-nothing": Sabotage(
        AGENT,
        "await asyncio.to_thread(self._startup.state_file.save, output.state)",
        "pass",
        f"{SHELL}::test_two_agents_meet_keep_each_other_and_one_that_leaves_is_known_to_have_left",
    ),
    "shell-resolves-nothing": Sabotage(
        AGENT,
        'answers, problem = await self._startup.resolver.resolve(output.seed.host), ""',
        'answers, problem = (), ""',
        f"{SHELL}::test_two_agents_meet_keep_each_other_and_one_that_leaves_is_known_to_have_left",
    ),
    "shell-judges-only-when-asked": Sabotage(
        AGENT,
        "            self._snapshot()\n            await asyncio.sleep",
        "            await asyncio.sleep",
        f"{SHELL}::test_the_time_of_a_transition_does_not_depend_on_when_it_is_asked_for",
    ),
    "shell-forgets-the-routes-to-members": Sabotage(
        AGENT,
        "endpoints=self._endpoints,",
        "endpoints=frozenset(),",
        f"{SHELL}::test_the_routes_to_the_members_are_looked_at_while_it_runs",
    ),
    "shell-answers-no-probe": Sabotage(
        AGENT,
        "jobs.append(self._health.run())",
        "pass",
        f"{SHELL}::test_probes_are_answered_from_the_agents_own_state",
    ),
    "shell-forgets-to-leave": Sabotage(
        AGENT,
        "self._driver.tell(partial(self._member.leave, forget=forget))",
        "pass",
        f"{SHELL}::test_two_agents_meet_keep_each_other_and_one_that_leaves_is_known_to_have_left",
    ),
    "follow-an-older-key-ring": Sabotage(
        DELIVERY,
        " or item.number <= local.ring.number:",
        ":",
        f"{DELIVERED}::test_the_higher_number_of_two_rings_wins",
    ),
    "answer-the-door-without-a-limit": Sabotage(
        DELIVERY,
        " or not self._answers.take(now):",
        ":",
        f"{DELIVERED}::test_the_door_answers_five_times_a_second_and_guesses_cost_no_answer",
    ),
    "take-another-external-machine-for-a-node": Sabotage(
        "agent/wesher_agent/mesh/roster.py",
        "is_node = certificate is not None and certificate.kind is Kind.NODE",
        "is_node = certificate is not None and certificate.kind in Kind",
        f"{DELIVERED}::test_a_machine_that_finds_no_node_for_a_minute_knocks_and_goes_on_knocking",
    ),
    "keep-the-former-key-in-the-state-file": Sabotage(
        MEMBER,
        "private_key=self._next_key or local.private_key",
        "private_key=local.private_key",
        f"{TESTS}::test_another_wireguard_key_is_saved_before_the_device_changes",
    ),
    "send-before-others-accept": Sabotage(
        "agent/wesher_agent/mesh/carry_steps.py",
        "if since + CARRY_AFTER <= now}",
        "if since <= now + CARRY_AFTER}",
        "tests/unit/mesh/test_carry_steps.py::test_each_network_has_its_own_time",
    ),
    "wait-again-after-a-restart": Sabotage(
        MEMBER,
        "CarrySteps(saved.carried if saved.name == local.name else ())",
        "CarrySteps(())",
        "tests/sim/test_traffic.py::test_a_member_that_is_restarted_goes_on_carrying_at_once",
    ),
    "accept-only-while-it-is-on": Sabotage(
        "agent/wesher_agent/mesh/carrying.py",
        "accepted = _accepted(own, question.members, overlay, problems)",
        "accepted = _accepted(own, question.members, overlay, problems) if own.settings.is_on else []",
        "tests/unit/mesh/test_carrying.py::test_a_node_that_does_not_send_yet_or_any_more_accepts[off]",
    ),
    "carry-what-a-certificate-does-not-prove": Sabotage(
        "agent/wesher_agent/mesh/carrying.py",
        "if member.verdict.is_certified and member.meta is not None and member.meta.networks",
        "if member.meta is not None and member.meta.networks",
        "tests/property/test_carrying.py"
        "::test_each_member_brings_what_its_certificate_lists_and_its_authority_may_certify",
    ),
    "carry-what-another-cluster-may-not-certify": Sabotage(
        "agent/wesher_agent/mesh/carrying.py",
        "and any(_contains(cidr, network) for cidr in inside)",
        "",
        "tests/unit/mesh/test_carrying.py::test_another_cluster_brings_only_pod_networks_inside_its_cidrs",
    ),
    "leave-gossip-unmarked": Sabotage(
        "agent/wesher_agent/net/sockets.py",
        "            mark_packets(sock, mark)\n            sock.bind",
        "            sock.bind",
        "tests/lab/test_gossip_marks.py"
        "::test_every_packet_of_gossip_is_marked_also_on_connections_that_others_open[128]",
    ),
    "carry-packets-without-a-source-in-clear": Sabotage(
        "agent/wesher_agent/wireguard/carrying_plan.py",
        "                yield Rule(version, first + _OTHER_SOURCES, GOTO, target=end, source=half)",
        "                yield Rule(version, first + _OTHER_SOURCES, NOP, source=half)",
        "tests/unit/wireguard/test_carrying_plan.py"
        "::test_packets_of_ipv6_without_a_source_are_those_that_have_none_in_either_half",
    ),
    "take-over-the-rules-of-another-program": Sabotage(
        "agent/wesher_agent/wireguard/carrying_plan.py",
        "    if wanted.rules and observed.conflicts and not _serves(wanted, observed):",
        "    if False:",
        "tests/unit/wireguard/test_carrying_plan.py"
        "::test_with_a_conflict_nothing_is_begun_and_what_is_carried_stays",
    ),
    "take-a-moved-network-from-its-former-peer": Sabotage(
        "agent/wesher_agent/wireguard/plan.py",
        "there.allowed_ips - wanted - moved",
        "there.allowed_ips - wanted",
        "tests/unit/wireguard/test_plan.py"
        "::test_a_network_that_moves_is_given_to_its_new_peer_and_taken_from_nobody",
    ),
    "sign-with-an-authority-that-agents-do-not-trust": Sabotage(
        "operator/wesher_operator/reconcile/authorities.py",
        "    if any(in_use.values()) and waiting:",
        "    if False:",
        "tests/unit/operator_reconcile/test_authorities.py"
        "::test_the_new_one_signs_once_each_agent_on_a_ready_node_trusts_it",
    ),
}


def copied(into: Path) -> Path:
    """Return a copy of the tree in which the tests run."""
    tree = into / "tree"
    for name in ("common", "agent", "operator", "tests", "deploy"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tree)
    return tree


def passes(tree: Path, test: str) -> bool:
    """Run one test on a tree; tell whether it passes.

    Raises:
        RuntimeError: there is no such test.

    """
    packages = os.pathsep.join(str(tree / name) for name in ("common", "agent", "operator", "tests/support"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"{test} did not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def undetected(sabotage: Sabotage, tree: Path) -> str:
    """Break the tree, run the test, restore the tree; return what is wrong, empty when the test failed."""
    path = tree / sabotage.file
    whole = path.read_text()
    if whole.count(sabotage.old) != 1:
        return f"{sabotage.file} must hold this once: {sabotage.old}"
    path.write_text(whole.replace(sabotage.old, sabotage.new))
    try:
        return f"{sabotage.test} passes all the same" if passes(tree, sabotage.test) else ""
    finally:
        path.write_text(whole)


def main(names: list[str]) -> int:
    """Try the named sabotages, or all; return the exit status."""
    if unknown := [name for name in names if name not in SABOTAGES]:
        print(f"no sabotage {unknown[0]!r}: there are {', '.join(SABOTAGES)}", file=sys.stderr)
        return 2
    chosen = {name: SABOTAGES[name] for name in names or SABOTAGES}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="wesher-sabotage-") as scratch:
        tree = copied(Path(scratch))
        if broken := [test for test in sorted({s.test for s in chosen.values()}) if not passes(tree, test)]:
            print(f"fails without any sabotage: {broken[0]}", file=sys.stderr)
            return 1
        for name, sabotage in chosen.items():
            problem = undetected(sabotage, tree)
            failed += bool(problem)
            print(
                f"{'MISSED' if problem else 'caught'} {name}{': ' + problem if problem else ''}", flush=True
            )
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
