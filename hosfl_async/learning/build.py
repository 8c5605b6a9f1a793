"""From settings and a seed to learners: the one place where the learning room is put together.

Every source of randomness is a named key derived from the seed, so two processes with the same settings, seed and client names build
learners that agree, whichever of them they build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from hosfl_async.errors import LearnerError, SettingsError
from hosfl_async.learning.activity_prober import ActivityProber
from hosfl_async.learning.cut_traffic import CutTraffic
from hosfl_async.learning.data import BatchSampler, load_dataset, own_test, partition
from hosfl_async.learning.directions import new_prober, perturbed_floats
from hosfl_async.learning.first_order import ServerTrainer
from hosfl_async.learning.flops import StepCost, step_cost
from hosfl_async.learning.forward_pool import ForwardPool
from hosfl_async.learning.learners import AggregatorLearner, ClientLearner, ServerLearner, Workbench
from hosfl_async.learning.models import build_model
from hosfl_async.learning.randomness import named_key
from hosfl_async.learning.samples import Indices
from hosfl_async.learning.sequences import take
from hosfl_async.learning.settings import (
    DEFAULT_CUT,
    DEFAULT_PERSONAL,
    DEFAULT_UPDATE,
    CutSettings,
    FirstOrderSettings,
    PersonalSettings,
    TaskSettings,
    UpdateSettings,
    ZerothOrderSettings,
)
from hosfl_async.learning.skip_feedback_causal import new_feedback
from hosfl_async.learning.split_model import SplitModel, initial_theta_c, initial_theta_s
from hosfl_async.learning.update_rule import MOMENTS, UpdateRule
from hosfl_async.learning.version_store import VersionStore
from hosfl_async.learning.zeroth_order_server import ZerothOrderTrainer


def run_key_of(seed: int) -> bytes:
    """The key under which all perturbation directions of a run are named."""
    return named_key("run", seed)


class LearnerFactory:
    """Makes the learners of one run; calling it again for the same agent gives a fresh learner, as after a crash.

    ``shared``: all learners share one workbench and one copy of the client half for each live version (the simulator: one thread).
    Otherwise each learner stands alone, replays by itself, and may run in a thread of its own.
    Set ``torch.set_num_threads`` before: it is the process's affair.
    """

    def __init__(
        self,
        task: TaskSettings,
        zeroth_order: ZerothOrderSettings,
        first_order: FirstOrderSettings,
        cut: CutSettings = DEFAULT_CUT,
        update: UpdateSettings = DEFAULT_UPDATE,
        personal: PersonalSettings = DEFAULT_PERSONAL,
        *,
        seed: int,
        clients: Sequence[str],
        learning_rate: float = 1.0,
        shared: bool = False,
        forwards_together_max: int = 1,
        client_only: bool = False,
    ) -> None:
        """``client_only``: of one edge client's process, which keeps no server half. ``learning_rate``: eta of the client half, for the
        update rules that take it at replay. ``forwards_together_max``: see ``forward_pool``; for shared learners only."""
        self.update, self.learning_rate, self.personal = update, learning_rate, personal
        self.task, self.zeroth_order, self.first_order, self.cut, self.seed = task, zeroth_order, first_order, cut, seed
        self.run_key = run_key_of(seed)
        data = load_dataset(task, seed)
        self._image_shape = data.image_shape
        self._client_only = client_only
        self.model = build_model(task.model, data.image_shape, data.classes, data.vocabulary, client_only=client_only)
        self.data = data.shaped(self.model.input_shape)
        self._position = {name: position for position, name in enumerate(clients)}
        self._order, self._bounds = partition(data.train_labels, len(clients), task.partition, seed, data.train_owners)
        self._images = torch.from_numpy(self.data.train_images)
        self._shared = (self._new_store(self.model), self._new_bench(self.model, forwards_together_max)) if shared else None

    def client(self, name: str) -> ClientLearner:
        """The learner of one edge client, at version 0."""
        if name not in self._position:
            raise LearnerError(f"no data were dealt to a client named {name!r}")
        store, bench = self._shared or self._alone()
        return ClientLearner(store, bench, self.shard(name))

    def server(self) -> ServerLearner:
        """The split server's learner: theta_s(0), and the client half at version 0."""
        if self._client_only:
            raise LearnerError("an edge client's process has no server half")
        model = self._new_model()
        store = self._shared[0] if self._shared else self._new_store(model)
        trainer = ServerTrainer(model.server, initial_theta_s(model, self.seed), self.first_order)
        return ServerLearner(
            store,
            model,
            trainer,
            CutTraffic(self.cut, self.run_key),
            self.data,
            self.first_order.evaluation_batch,
            lambda: ZerothOrderTrainer(trainer, self.run_key, self.zeroth_order.mu),
        )

    def aggregator(self) -> AggregatorLearner:
        """The aggregator's learner, at version 0."""
        return AggregatorLearner(self._shared[0] if self._shared else self._new_store(self._new_model()))

    def step_cost(self, probes: int) -> StepCost:
        """Counted operations and modelled memory of one client step."""
        first = torch.arange(self.task.batch_size) % len(self._images)
        model = self._new_model()
        beside = MOMENTS[self.update.rule] * model.client.size + perturbed_floats(model.client, self.zeroth_order)
        return step_cost(model, take(self._images, first), probes, beside)

    def size_of_whole(self) -> float:
        """Operations of a forward pass of this client half, in those of the client half that ends at the cut layer."""
        if self.task.model.cut == "layer":
            return 1.0
        batch = take(self._images, torch.arange(self.task.batch_size) % len(self._images))
        half = build_model(replace(self.task.model, cut="layer"), self._image_shape, self.data.classes)
        return step_cost(self._new_model(), batch, 0, 0).forward_flops / step_cost(half, batch, 0, 0).forward_flops

    def shard(self, name: str) -> Indices:
        """Positions of the samples on which a client trains."""
        return self._parted(name)[0]

    def own_test(self, name: str) -> Indices:
        """Positions of the samples that a client keeps back as its own test; none where there is no personal fine-tuning."""
        return self._parted(name)[1]

    def _parted(self, name: str) -> tuple[Indices, Indices]:
        position = self._position[name]
        whole = self._order[self._bounds[position] : self._bounds[position + 1]]
        if not self.personal.steps:
            return whole, whole[:0]
        training, test = own_test(whole, self.data.train_labels, self.personal.held_out, self.personal.gap)
        if not len(training):
            found = f"{name} has {len(whole)}"
            raise SettingsError("personal.gap", "nothing is left to train on", expected="fewer, or more samples", found=found)
        return training, test

    def _alone(self) -> tuple[VersionStore, Workbench]:
        model = self._new_model()
        return self._new_store(model), self._new_bench(model)

    def _new_model(self) -> SplitModel:
        return build_model(self.task.model, self._image_shape, self.data.classes, self.data.vocabulary, client_only=self._client_only)

    def _new_store(self, model: SplitModel) -> VersionStore:
        rule = UpdateRule(self.update, model.client.size, self.learning_rate)
        return VersionStore(model.client, lambda: initial_theta_c(model, self.seed), self.run_key, self.zeroth_order, rule)

    def _new_bench(self, model: SplitModel, together_max: int = 1) -> Workbench:
        prober = new_prober(model.client, self.run_key, self.zeroth_order)
        sampler = BatchSampler(self.seed, self.task.batch_size)
        cut, shared = CutTraffic(self.cut, self.run_key), self.zeroth_order.directions == "per_version"
        feedback = cache(lambda: new_feedback(model.client, self.zeroth_order.feedback))
        activities = cache(lambda: ActivityProber(model.client, self.run_key, self.zeroth_order.mu))
        pool = ForwardPool(model.client, together_max) if together_max > 1 else None
        return Workbench(
            model, prober, sampler, self._images, self.data.train_labels, self.zeroth_order.mu, cut, activities, feedback, shared, pool
        )
