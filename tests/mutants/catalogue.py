"""Planted bugs: each is one that somebody might really make, and each must be killed by the tests named beside it.

A mutant is a piece of the package's text and what to put in its place. The old text must occur exactly once, or the list has rotted
(``test_mutants.py`` checks that at every run of the suite; ``run.py`` plants the bugs).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """``file`` is relative to the package, ``tests`` to the tests' folder."""

    name: str
    why: str
    """The rule that it breaks, in a sentence."""
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


CAMPAIGN = tuple(f"simulation/test_campaign.py::test_generated_worlds_hold_every_invariant[{part}]" for part in range(5))
"""Killed by a quarter of the generated worlds alone."""

MUTANTS = (
    Mutant(
        name="no_dedupe_at_the_aggregator",
        why="A repeated contribution must change nothing; here it is admitted again.",
        file="agents/aggregator.py",
        old="        elif step.number in member.answers:\n",
        new="        elif member.answers.get(step.number, 0) is None:\n",
        tests=("agents/test_aggregator.py",),
    ),
    Mutant(
        name="acknowledged_before_it_is_durable",
        why="Accepted must follow Persist; a crash between the two would lose an acknowledged step.",
        file="agents/aggregator.py",
        old="        self._effects.append(Persist(EntryCommitted(entry)))\n",
        new="        for term in terms:\n"
        "            self._send(term.step.client, Accepted(term.step, entry.version, self.log.head, self.over))\n"
        "        self._effects.append(Persist(EntryCommitted(entry)))\n",
        tests=("agents/test_machines.py::TestAggregatorAlone", "agents/test_machines.py::TestWholeSystem"),
    ),
    Mutant(
        name="answers_not_rebuilt_after_a_restart",
        why="A restarted aggregator must know what is in its log, or it takes a repeated contribution twice.",
        file="agents/aggregator.py",
        old="            self.log.restore(record.entry)\n",
        new="            self.log.restore(record.entry)\n"
        "            self._accepted_before += len(record.entry.terms)\n"
        "            continue\n",
        tests=("agents/test_aggregator.py", "agents/test_stories.py"),
    ),
    Mutant(
        name="fencing_off",
        why="Only the latest incarnation counts; here a former life's steps are admitted under the names of the new one.",
        file="agents/membership.py",
        old="        return member if member is not None and member.incarnation == incarnation else None\n",
        new="        return member\n",
        tests=("agents/test_aggregator.py", "agents/test_membership.py"),
    ),
    Mutant(
        name="old_boots_may_rejoin",
        why="A late Join of an earlier boot must not fence off the later one.",
        file="agents/membership.py",
        old="        if member is not None and join.boot < member.boot:\n",
        new="        if False:\n",
        tests=("agents/test_aggregator.py", "agents/test_membership.py"),
    ),
    Mutant(
        name="staleness_sign",
        why="Staleness is the head minus the base version, not the reverse.",
        file="agents/aggregator.py",
        old="        staleness = self.log.head - message.base_version\n",
        new="        staleness = message.base_version - self.log.head\n",
        tests=("agents/test_aggregator.py",),
    ),
    Mutant(
        name="stale_weigh_more",
        why="A weight never grows with staleness; here the exponent has lost its sign.",
        file="agents/staleness.py",
        old="** -settings.exponent",
        new="** settings.exponent",
        tests=("agents/test_staleness.py",),
    ),
    Mutant(
        name="base_version_of_the_future",
        why="A contribution computed at a version that does not exist is malformed.",
        file="agents/aggregator.py",
        old="        if contribution.staleness < 0 or ",
        new="        if ",
        tests=("agents/test_aggregator.py",),
    ),
    Mutant(
        name="deadline_dropped",
        why="A buffer that does not fill must be committed at its deadline, or dropouts stall the system.",
        file="agents/aggregator.py",
        old="        elif len(self._buffer) == 1:\n",
        new="        elif len(self._buffer) == -1:\n",
        tests=("agents/test_aggregator.py", "agents/test_machines.py::TestWholeSystem"),
    ),
    Mutant(
        name="entry_in_order_of_arrival",
        why="An entry must not depend on the order in which its contributions arrived.",
        file="agents/update_buffer.py",
        old="        ordered = sorted(self._contributions.values(), key=lambda contribution: contribution.step)\n",
        new="        ordered = list(self._contributions.values())\n",
        tests=("agents/test_update_buffer.py",),
    ),
    Mutant(
        name="divided_by_k_twice",
        why="The mean over the buffer divides by K once (the published code does it twice, and AdamW hides it).",
        file="scaling.py",
        old="    divisor = contributions * probes\n",
        new="    divisor = contributions * contributions * probes\n",
        tests=("agents/test_update_buffer.py", "ground/test_scaling.py"),
    ),
    Mutant(
        name="not_divided_by_p",
        why="The estimate is the mean over the probes, not their sum.",
        file="scaling.py",
        old="    divisor = contributions * probes\n",
        new="    divisor = contributions\n",
        tests=("agents/test_update_buffer.py", "ground/test_scaling.py"),
    ),
    Mutant(
        name="entry_replayed_within_a_step",
        why="No entry between anchor and projection: the two-point estimate would be biased.",
        file="agents/edge_client.py",
        old="        if self._busy or self._phase is not Phase.RESTING:\n            return\n",
        new="        if not self._busy and self._phase is Phase.AWAITING_DUAL and (early := self._follower.job()):\n"
        "            self._run(early)\n"
        "        if self._busy or self._phase is not Phase.RESTING:\n            return\n",
        tests=("agents/test_edge_client.py",),
    ),
    Mutant(
        name="window_outrun",
        why="A client must not run so far ahead that the answer it waits for is forgotten.",
        file="agents/edge_client.py",
        old="        return self._number + 1 - oldest >= ANSWERS_REMEMBERED_MIN\n",
        new="        return self._number + 1 - oldest < 0\n",
        tests=("agents/test_edge_client.py",),
    ),
    Mutant(
        name="gap_not_seen",
        why="A page that begins beyond what was offered leaves a gap: it must be left alone.",
        file="agents/update_log.py",
        old="        if page.from_version > self._offered:\n",
        new="        if page.from_version < 0:\n",
        tests=("agents/test_update_log.py", "agents/test_edge_client.py"),
    ),
    Mutant(
        name="gap_accepted",
        why="Entries follow one another without a gap and continue the hash chain; here the next higher one is taken as it is.",
        file="agents/update_log.py",
        old="            check_follows(entry, self._offered, self._chain)\n",
        new="            assert entry.version > self._offered\n",
        tests=("agents/test_update_log.py",),
    ),
    Mutant(
        name="snapshot_without_its_chain",
        why="What follows a snapshot must continue the chain at the snapshot, not the one before it.",
        file="agents/update_log.py",
        old="        self._pending, self._offered, self._chain = snapshot, snapshot.version, snapshot.chain\n",
        new="        self._pending, self._offered = snapshot, snapshot.version\n",
        tests=("agents/test_update_log.py", "agents/test_stories.py"),
    ),
    Mutant(
        name="split_brain_unseen",
        why="Parameters that differ from the aggregator's must stop the follower.",
        file="agents/update_log.py",
        old="        if page.digest != mine.digest:\n",
        new="        if len(page.digest) != len(mine.digest):\n",
        tests=("agents/test_update_log.py",),
    ),
    Mutant(
        name="snapshots_starve",
        why="A snapshot that is due goes first, or a busy log keeps its entries without bound.",
        file="agents/own_half.py",
        old="        if self.version - self.snapshot_version >= self._settings.snapshot_every_versions:\n",
        new="        if self.version == head and self.version - self.snapshot_version >= self._settings.snapshot_every_versions:\n",
        tests=("agents/test_aggregator.py",),
    ),
    Mutant(
        name="server_trains_a_repetition",
        why="A client step trains the server half at most once, whatever the network repeats.",
        file="agents/split_server.py",
        old="in self._newest_step and step <= self._newest_step",
        new="in self._newest_step and step < self._newest_step",
        tests=("agents/test_split_server.py",),
    ),
    Mutant(
        name="remembered_dual_forgotten",
        why="A repetition gets the dual that was computed first, or a lost answer costs the step.",
        file="agents/split_server.py",
        old="        elif remembered.answer is not None:\n            self._send(sender, remembered.answer)\n",
        new="",
        tests=("agents/test_split_server.py", "agents/test_stories.py"),
    ),
    Mutant(
        name="fresh_duals_overfill_the_queue",
        why="Whatever joins the server's queue keeps its bound.",
        file="agents/split_server.py",
        old="        if self._full(smashed):\n            remembered.requested",
        new="        if smashed is None:\n            remembered.requested",
        tests=("agents/test_split_server.py",),
    ),
    Mutant(
        name="company_waited_for_without_end",
        why="Who waits for a micro-batch to fill waits no longer than the setting says.",
        file="agents/cut_queue.py",
        old="        waited = self._ripe or now",
        new="        waited = len(self) > 1 and now",
        tests=("agents/test_cut_queue.py", "agents/test_split_server.py"),
    ),
    Mutant(
        name="misfit_costs_its_company",
        why="A micro-batch that fails is taken apart: only the guilty step is refused.",
        file="agents/split_server.py",
        old="            self._queue.take_apart(job.parts)\n",
        new='            for part in job.parts:\n                self._refuse_for_good(DualRefused(part.step, "malformed"))\n',
        tests=("agents/test_split_server.py",),
    ),
    Mutant(
        name="feedback_past_no_normalisation",
        why="What arrives at a writer has been scaled by every normalisation above it, token by token.",
        file="learning/skip_feedback.py",
        old="by_token * own, by_element",
        new="by_token, by_element",
        tests=("learning/test_skip_feedback.py",),
    ),
    Mutant(
        name="feedback_keeps_what_a_normalisation_takes_out",
        why="At its own normalisation a writer's gradient is exact: mean and scale of a row cannot be moved.",
        file="learning/skip_feedback.py",
        old="error.mean(dim=-1, keepdim=True) - along",
        new="error.mean(dim=-1, keepdim=True)",
        tests=("learning/test_skip_feedback.py",),
    ),
    Mutant(
        name="dual_shrinks_with_company",
        why="A client's dual is that of its own mean loss, not its share of the micro-batch's.",
        file="learning/first_order.py",
        old="dual * (len(labels) / own)",
        new="dual * 1.0",
        tests=("learning/test_first_order.py",),
    ),
    Mutant(
        name="nan_in_scalars_passes_the_codec",
        why="A number that is not finite is refused at the door.",
        file="codec/soundness.py",
        old="    if not all(map(isfinite, message.projected_gradients)):\n",
        new="    if not message.projected_gradients and isfinite(0.0) is False:\n",
        tests=("ground/test_codec.py",),
    ),
    Mutant(
        name="nan_in_tensors_passes_the_codec",
        why="One activation that is not finite poisons both halves.",
        file="codec/soundness.py",
        old="    if not finite.all():\n",
        new="    if finite.size and not finite.any():\n",
        tests=("ground/test_codec.py",),
    ),
    Mutant(
        name="residue_after_a_probe",
        why="Adding mu u and subtracting it again leaves about half of all float32 parameters changed.",
        file="learning/zeroth_order.py",
        old="theta, direction_key(self._run_key, step, probe, base_version), self._mu, out=self._scratch\n            )\n",
        new="theta, (key := direction_key(self._run_key, step, probe, base_version)), self._mu\n            )\n"
        "            np.copyto(self._scratch, theta)\n"
        "            self._perturber.add_scaled_direction(theta, key, -self._mu)\n",
        tests=("learning/test_zeroth_order.py",),
    ),
    Mutant(
        name="blocks_rounded_down",
        why="Who cuts a layer into other blocks follows the log to other parameters.",
        file="learning/low_rank.py",
        old="else -(-rows // rank)",
        new="else rows // rank",
        tests=("learning/test_low_rank.py",),
    ),
    Mutant(
        name="sign_of_a_bias_forgotten",
        why="Probes without a perturbed copy must move every parameter exactly as replay does; here biases forget their one column.",
        file="learning/low_rank_prober.py",
        old="torch.from_numpy(signs[:, None] * sign)",
        new="torch.from_numpy(signs[:, None])",
        tests=("learning/test_zeroth_order.py", "learning/test_low_rank.py"),
    ),
    Mutant(
        name="direction_without_incarnation",
        why="A restarted client counts its steps anew; its directions must be new ones.",
        file="learning/randomness.py",
        old="    return _STEP_HEAD.pack(len(client), step.incarnation, step.number) + client\n",
        new="    return _STEP_HEAD.pack(len(client), 1, step.number) + client\n",
        tests=("learning/test_perturbation.py",),
    ),
    Mutant(
        name="replay_adds",
        why="An update lowers the surrogate: coefficients are subtracted.",
        file="learning/zeroth_order.py",
        old="[-coefficient for coefficient in coefficients]",
        new="list(coefficients)",
        tests=("learning/test_zeroth_order.py",),
    ),
    Mutant(
        name="first_coefficients_for_every_group",
        why="Directions are written out in groups; each has its own coefficient, in whichever group it comes.",
        file="learning/perturbation.py",
        old="        terms *= scales[begin : begin + group]\n",
        new="        terms *= scales[: len(terms)]\n",
        tests=("learning/test_low_rank.py",),
    ),
    Mutant(
        name="digest_without_the_moments",
        why="Two machines whose moments differ will part at the next entry; their digests must differ at once.",
        file="learning/version_store.py",
        old="parameter_digest(held.state)",
        new="parameter_digest(held.theta)",
        tests=("learning/test_update_rule.py",),
    ),
    Mutant(
        name="moments_counted_from_the_snapshot",
        why="Corrections follow from the version, or a replay from a snapshot parts from one from the start.",
        file="learning/update_rule.py",
        old="        for entry in entries:\n            self._step.fill(0)\n",
        new="        first = None\n"
        "        for entry in entries:\n"
        "            first = first or entry.version - 1\n"
        "            entry = type(entry)(entry.version - first, entry.terms, entry.chain)\n"
        "            self._step.fill(0)\n",
        tests=("learning/test_update_rule.py",),
    ),
    Mutant(
        name="local_training_upside_down",
        why="What a client of FedBuff sends is subtracted: where it began minus where it came to.",
        file="learning/whole_model.py",
        old="np.subtract(theta, own, out=own)",
        new="np.subtract(own, theta, out=own)",
        tests=("learning/test_forward_only.py",),
    ),
    Mutant(
        name="server_left_at_its_last_probe",
        why="After its own probes a server that only runs forward passes computes at its parameters again.",
        file="learning/zeroth_order_server.py",
        old="            self._trainer.bind(theta)\n",
        new="",
        tests=("learning/test_forward_only.py",),
    ),
    Mutant(
        name="head_announced_at_every_version",
        why="Nothing is announced for each commit: the split server is told at multiples of a version.",
        file="agents/aggregator.py",
        old="        if every and entry.version % every == 0 and not self.over:\n",
        new="        if every and not self.over:\n",
        tests=("agents/test_estimators.py",),
    ),
    Mutant(
        name="alarm_rings_for_another_timer",
        why="A cancelled timer must not fire, nor may its alarm fire the node's next timer before its time.",
        file="simulation/timeline.py",
        old="        due = timer[1] == alarm[1]\n",
        new="        due = True\n",
        tests=("simulation/test_timeline.py", "simulation/test_simulation_host.py"),
    ),
    Mutant(
        name="fetched_file_not_compared",
        why="A fetched file must be the pinned one; here any file of the right length is kept.",
        file="assets/archives.py",
        old="    if size != file.size or digest.hexdigest() != file.sha256:\n",
        new="    if size != file.size:\n",
        tests=("assets/test_fetching.py",),
    ),
    Mutant(
        name="package_asked_for_its_metadata",
        why="Nothing of a fetched package may run; here pip asks the package's own build script.",
        file="assets/fetching.py",
        old='        environment |= {"PYTHONPATH": str(backend.parent), "PYTHONDONTWRITEBYTECODE": "1"}\n',
        new="",
        tests=("assets/test_fetching.py",),
    ),
    Mutant(
        name="padding_is_looked_at",
        why="What shares a batch must change nothing: the server half masks what is not there.",
        file="learning/encoders.py",
        old="        hidden, present = padded(rows, lengths)\n        mask = present[:, None, None, :]\n",
        new="        hidden, present = padded(rows, lengths)\n        mask = torch.ones_like(present)[:, None, None, :]\n",
        tests=("learning/test_encoders.py",),
    ),
    Mutant(
        name="frozen_parameters_learnt",
        why="Only what the setting names may be in the vector.",
        file="learning/split_model.py",
        old="for name, parameter in module.named_parameters() if parameter.requires_grad]",
        new="for name, parameter in module.named_parameters()]",
        tests=("learning/test_encoders.py",),
    ),
    Mutant(
        name="lengths_not_added_up",
        why="Rows that no length accounts for would be read as another sample's.",
        file="codec/soundness.py",
        old="    if not lengths.all() or lengths.sum(dtype=np.int64) != tensor.shape[0]:\n",
        new="    if not lengths.all():\n",
        tests=("ground/test_codec.py",),
    ),
    Mutant(
        name="patience_never_grows",
        why="A client whose way to the server is longer than all its pauses must become more patient, or it never makes a step.",
        file="agents/edge_client.py",
        old=" * 2 ** min(self._given_up, PATIENCE_DOUBLINGS_MAX)",
        new="",
        tests=CAMPAIGN,
    ),
    Mutant(
        name="answer_forgotten_once_admitted",
        why="Whatever repeats or reorders, a contribution is in the log at most once.",
        file="agents/membership.py",
        old="            answers[number] = answer\n        elif",
        new="            if answer is not None:\n                answers[number] = answer\n        elif",
        tests=CAMPAIGN,
    ),
    Mutant(
        name="incarnation_not_persisted",
        why="A restarted aggregator must know whom it granted which incarnation, or two lives of a client share one.",
        file="agents/aggregator.py",
        old="            self._effects.append(Persist(ClientJoined(sender, join.boot, incarnation)))\n",
        new="",
        tests=CAMPAIGN,
    ),
    Mutant(
        name="poison_admitted",
        why="A coefficient near the end of float32 makes a client half with which nobody can make a step.",
        file="agents/update_buffer.py",
        old="        bound = self._settings.coefficient_max\n",
        new="        bound = FLOAT32_MAX\n",
        tests=("agents/test_update_buffer.py",),
    ),
    Mutant(
        name="wishes_are_not_repeated",
        why="A wish for a place may be lost, and so may the grant.",
        file="agents/edge_client.py",
        old="            self._wishing = False  # _advance wishes again\n",
        new="            pass\n",
        tests=CAMPAIGN,
    ),
    Mutant(
        name="handed_over_unchecked",
        why="A message that is handed over as it was sent must pass the checks that its bytes would.",
        file="codec/envelope.py",
        old="        if check is not None:\n            try:\n                check(message)\n            except BAD_BYTES as error:\n"
        '                raise CodecError(f"{kind.__name__}: {quoted(error)}") from None\n',
        new="",
        tests=("simulation/test_simulation_host.py",),
    ),
    Mutant(
        name="lost_messages_uncounted",
        why="Every copy of a message has exactly one fate.",
        file="simulation/traffic.py",
        old='        self._network.counts["lost"] += messages\n',
        new="",
        tests=CAMPAIGN,
    ),
    Mutant(
        name="outbox_after_the_message",
        why="A contribution is durable before it is sent; else a crash between the two loses a step that somebody has seen.",
        file="agents/edge_client.py",
        old="        if self._settings.durable_outbox:\n            self._effects.append(Persist(ContributionMade(message)))\n"
        "        self._smashed = self._dual = None\n        self._enter(Phase.RESTING)\n        self._send(AGGREGATOR, message)\n",
        new="        self._smashed = self._dual = None\n        self._enter(Phase.RESTING)\n        self._send(AGGREGATOR, message)\n"
        "        if self._settings.durable_outbox:\n            self._effects.append(Persist(ContributionMade(message)))\n",
        tests=("agents/test_durability.py", "agents/test_machines.py::TestWholeSystem"),
    ),
    Mutant(
        name="joins_before_the_outbox_is_empty",
        why="What an earlier life left is answered before joining; the next incarnation fences it off.",
        file="agents/edge_client.py",
        old="        if not self._unanswered:\n            self._ask_to_join()\n",
        new="        self._ask_to_join()\n",
        tests=("agents/test_durability.py",),
    ),
    Mutant(
        name="journal_of_what_has_arrived",
        why="The journal holds the steps that are in the server half, not those that wait: else what waited is lost for ever.",
        file="agents/split_server.py",
        old="        steps = tuple(self._trained_step.values())\n",
        new="        steps = tuple(self._newest_step.values())\n",
        tests=("agents/test_durability.py",),
    ),
    Mutant(
        name="journal_not_restored",
        why="A restarted server knows which steps its half has learnt from; else a repetition trains it twice.",
        file="agents/split_server.py",
        old="        self._newest_step = {step.client: step for step in kept.steps}\n"
        "        self._trained_step = dict(self._newest_step)\n",
        new="        self._trained_step = {step.client: step for step in kept.steps}\n",
        tests=("agents/test_durability.py", "agents/test_machines.py::TestWholeSystem"),
    ),
    Mutant(
        name="rename_before_sync",
        why="A file takes its name when its content is on disk, not before.",
        file="durable_files.py",
        old="        os.fsync(file)\n    finally:\n",
        new="        pass\n    finally:\n",
        tests=("ground/test_durable_files.py",),
    ),
    Mutant(
        name="checkpoint_believed_unseen",
        why="A checkpoint with a flipped bit must be refused, not trained on.",
        file="checkpoint_store.py",
        old="    if _digest(told, arrays) != digest:\n",
        new="    if not digest:\n",
        tests=("ground/test_checkpoint_store.py",),
    ),
    Mutant(
        name="mixed_batches_cut",
        why="A client half that mixes samples makes a probe depend on who shares its batch.",
        file="learning/splitting.py",
        old=" or not torch.allclose(both[:1], one, rtol=1e-3, atol=1e-5):\n",
        new=":\n",
        tests=("learning/test_own_models.py",),
    ),
    Mutant(
        name="overlapping_windows_on_both_sides",
        why="A window in training must not overlap one that is held out.",
        file="learning/signals.py",
        old="[(values[:late], False), (values[late:], True)]",
        new="[(values, False), (values[late:], True)]",
        tests=("learning/test_signals.py",),
    ),
)
