"""Backend `ray`: the shards of a run over a pool of Ray actors.

The driver (this process) hands a shard to whichever worker has the fewest at hand, at most two to each: one is computed
while the other is prepared or saved. A worker looks at the store, computes if it must, commits, and returns the record.

What Ray does: it places the actors, restarts those whose process or node died (`max_restarts`), and reports every task
that such a death cut off. What is left to the driver: it gives such a shard to an idle worker once more, alone, so
that a shard that kills its worker takes no other with it and is given up after `ATTEMPTS_MAX` deaths. Ray's own retries
of tasks (`max_task_retries`) would tie a shard to its actor, which may find no place to restart once a node is lost; it
would wait for ever beside idle workers.

A death repeats no committed shard: whoever gets the shard looks at the store first. Of what was computed but not yet
committed there is at most one shard a worker. A worker that was only thought dead may commit a shard a second time; it
has the same content, so the same name, and the commit protocol makes one of the two.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from virnuc_dagster.backends import BackendError
from virnuc_dagster.backends.ray_cluster import Crew, connected
from virnuc_dagster.backends.ray_worker import Job, Worker, describe_job
from virnuc_dagster.checkpoints import CheckpointStore, NoSpaceError
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.ensure import ShardResult, current_states, reuse
from virnuc_dagster.stages.shards import ShardStage
from virnuc_dagster.stages.staleness import ShardState, state_of

IN_FLIGHT = 2
ATTEMPTS_MAX = 3
_TICK_SECONDS = 1.0
#: With no worker at all for this long, the run fails: its shards can be had later.
PATIENCE_SECONDS = 600.0
_STOP_SECONDS = 10.0


class WorkerLostError(BackendError):
    """A shard's worker died each time it had the shard (fields: `stage`, `shard`)."""


@dataclass(eq=False)
class _Member:
    """A worker as the driver sees it."""

    handle: Any
    begun: bool = False
    shards: set[str] = field(default_factory=set)


class RayPool:
    """A pool of workers, from the first shard that must be computed until `close`; a `Backend`.

    Args:
        address: Of a Ray cluster; empty for `RAY_ADDRESS`, or else one that is started here.
        options: How to compute, and with how many workers; its device is `auto`, `cpu` or `cuda`.
    """

    def __init__(self, address: str, options: ComputeOptions) -> None:
        self.address, self.options = address, options
        self._stack = contextlib.ExitStack()
        self._members: list[_Member] = []
        self._crew: Crew | None = None

    def __call__(
        self,
        stage: ShardStage,
        shards: Sequence[str],
        store: CheckpointStore,
        progress: Progress,
        writer: Mapping[str, str],
        /,
    ) -> Iterator[tuple[str, ShardResult | Exception]]:
        """Compute shards as a `Backend` does, as they finish; start no worker if none must be computed."""
        rest = _Unfinished(stage, shards, store, progress)
        first = rest.take()
        if first is not None:
            rest.put_back(first)
            crew = self._hire()
            options = self.options.model_copy(update={"device": crew.device, "threads": crew.threads})
            job = describe_job(stage, first, store, options, writer)
            try:
                yield from _Run(self._members, job, rest, progress)
            except BaseException:
                self.close()  # nobody waits for what the workers still have
                raise
        yield from rest.known_outcomes()

    def _hire(self) -> Crew:
        """Return the workers' number and size; start them the first time."""
        if self._crew is None:
            crew = self._stack.enter_context(
                connected(self.address, self.options.device, self.options.threads, self.options.workers)
            )
            self._stack.callback(self._dismiss)
            import ray

            actor = ray.remote(Worker).options(
                num_cpus=crew.threads, num_gpus=crew.gpus, max_restarts=-1, max_concurrency=IN_FLIGHT + 1
            )
            self._members.extend(_Member(actor.remote()) for _ in range(crew.workers))
            self._crew = crew
        return self._crew

    def _dismiss(self) -> None:
        """Let saves finish, then end the workers."""
        import ray

        stops = [member.handle.stop.remote() for member in self._members if member.begun]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(stops, num_returns=len(stops), timeout=_STOP_SECONDS) if stops else None
        for member in self._members:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(member.handle)
        self._members.clear()

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        self._crew = None
        self._stack.close()


class Pools:
    """A source of pools of workers, one a run.

    Args:
        kept: Whether runs that want the same workers share them until `close`; otherwise they end with the run.
    """

    def __init__(self, *, kept: bool = False) -> None:
        self._keeps = kept
        self._kept: dict[tuple[str, ComputeOptions], RayPool] = {}

    def take(self, address: str, options: ComputeOptions) -> RayPool:
        """Give out a pool, see `RayPool`; it is to be given back when the run is over."""
        wanted = address, options
        return self._kept.setdefault(wanted, RayPool(*wanted)) if self._keeps else RayPool(*wanted)

    def give_back(self, pool: RayPool) -> None:
        """Take back a pool at the end of its run."""
        if not self._keeps:
            pool.close()

    def close(self) -> None:
        """End the workers that are kept."""
        while self._kept:
            self._kept.popitem()[1].close()


class _Unfinished:
    """The shards of a run that no worker has: looked at as their turn comes, so that finished ones go to none."""

    def __init__(self, stage: ShardStage, shards: Sequence[str], store: CheckpointStore, progress: Progress) -> None:
        self.stage, self.store, self.progress = stage, store, progress
        self.full = False
        self._fresh = zip(shards, current_states(stage, shards, store), strict=True)
        self._returned: list[str] = []
        self._known: list[tuple[str, ShardResult | Exception]] = []

    def take(self) -> str | None:
        """Return the next shard that must be computed."""
        while following := (self._returned.pop(), None) if self._returned else next(self._fresh, None):
            shard, known = following
            outcome = self._look(shard, known)
            if outcome is None:
                return shard
            self._known.append((shard, outcome))
        return None

    def put_back(self, shard: str) -> None:
        """Make a shard the next one again."""
        self._returned.append(shard)

    def known_outcomes(self) -> Iterator[tuple[str, ShardResult | Exception]]:
        """Yield what became of the shards that no worker was needed for."""
        known, self._known = self._known, []
        yield from known

    def _look(self, shard: str, known: ShardState | None) -> ShardResult | Exception | None:
        try:
            state = known or state_of(self.stage, shard, self.store).or_raise()
            return reuse(self.stage, shard, state, self.progress, full=self.full)
        except Exception as error:  # whatever it is, the other shards must have their chance
            self.progress.shard_failed(self.stage.name, shard, error)
            return error


class _Run:
    """One job over the members of a pool; iterating it yields shards with their outcomes."""

    def __init__(self, members: list[_Member], job: Job, rest: _Unfinished, progress: Progress) -> None:
        self.members, self.job, self.rest, self.progress = members, job, rest, progress
        self.attempts: dict[str, int] = {}
        self.suspects: deque[str] = deque()  # were cut off by the death of a worker
        self.beginnings: dict[Any, _Member] = {}
        self.flights: dict[Any, tuple[_Member, str]] = {}
        self.alone_since = time.monotonic()

    def __iter__(self) -> Iterator[tuple[str, ShardResult | Exception]]:
        import ray

        for member in self.members:
            self._begin(member)
        while True:
            self._hand_out()
            yield from self.rest.known_outcomes()
            if not (self.flights or self.suspects or self._more()):
                return
            refs = [*self.beginnings, *self.flights]
            done, _ = ray.wait(refs, num_returns=1, timeout=_TICK_SECONDS)
            for ref in done:
                if ref in self.beginnings:
                    self._begun(self.beginnings.pop(ref), ref)
                else:
                    yield from self._landed(*self.flights.pop(ref), ref)
            self._check_patience()

    def _more(self) -> bool:
        """Tell whether shards are left that nobody has."""
        if (shard := self.rest.take()) is None:
            return False
        self.rest.put_back(shard)
        return True

    def _begin(self, member: _Member) -> None:
        """Ask a worker to get ready; Ray repeats this until the worker lives."""
        member.begun = False
        if member not in self.beginnings.values():
            self.beginnings[member.handle.begin.options(max_task_retries=-1).remote(self.job)] = member

    def _begun(self, member: _Member, ref: Any) -> None:
        import ray

        try:
            refusal = ray.get(ref)
        except ray.exceptions.RayError as error:
            self.members.remove(member)
            why = f"a Ray worker cannot start: {str(error).strip().splitlines()[-1]}"
            self.progress.note(why)
            if self.members:
                return
            raise BackendError(
                why, hint="every node needs the same Python, Ray and virnuc-dagster; Ray's logs are on the node"
            ) from error
        if refusal is not None:
            raise refusal
        member.begun = True

    def _hand_out(self) -> None:
        """Fill every worker, the emptiest first."""
        for depth in range(IN_FLIGHT):
            for member in self.members:
                if member.begun and len(member.shards) == depth and not self._has_suspect(member):
                    shard = self.suspects.popleft() if depth == 0 and self.suspects else self.rest.take()
                    if shard is None:
                        continue
                    ref = member.handle.ensure.remote(self.job, shard)
                    member.shards.add(shard)
                    self.flights[ref] = member, shard

    def _has_suspect(self, member: _Member) -> bool:
        return any(shard in self.attempts for shard in member.shards)

    def _landed(self, member: _Member, shard: str, ref: Any) -> Iterator[tuple[str, ShardResult | Exception]]:
        """Take a shard back from its worker, or note that the worker is lost."""
        import ray

        member.shards.discard(shard)
        try:
            outcome, notes = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            outcome, notes = RuntimeError(str(error)), ()
        except ray.exceptions.RayError as error:
            self._begin(member)
            self.attempts[shard] = self.attempts.get(shard, 0) + 1
            if self.attempts[shard] < ATTEMPTS_MAX:
                self.progress.note(f"a Ray worker was lost; {shard} is tried again")
                self.suspects.append(shard)
                return
            outcome, notes = self._given_up(shard, error), ()
        for note in notes:
            self.progress.note(note)
        yield shard, self._told(shard, outcome)

    def _told(self, shard: str, outcome: ShardResult | Exception) -> ShardResult | Exception:
        """Tell of an outcome; what a lost worker had still committed was computed by this run."""
        stage = self.job.stage
        if isinstance(outcome, Exception):
            self.rest.full = self.rest.full or isinstance(outcome, NoSpaceError)
            self.progress.shard_failed(stage, shard, outcome)
            return outcome
        ours = shard in self.attempts and outcome.record.writer.get("run_id") == self.job.writer.get("run_id")
        if outcome.reused and ours:
            outcome = replace(outcome, reused=False)
        if outcome.reasons:
            self.progress.shard_stale(stage, shard, outcome.reasons)
        if not outcome.reused:
            self.progress.advance(stage, outcome.record.rows)
        self.progress.shard_done(stage, shard, outcome.record.rows, reused=outcome.reused)
        return outcome

    def _given_up(self, shard: str, error: Exception) -> WorkerLostError:
        why = str(error).strip().splitlines()[0]
        return WorkerLostError(
            f"{self.job.stage} of {shard}: its Ray worker died {ATTEMPTS_MAX} times: {why}",
            hint="if memory ran out, use a smaller --token-budget, fewer workers a node or a smaller --shard-size",
            stage=self.job.stage,
            shard=shard,
        )

    def _check_patience(self) -> None:
        """Give up a run that has had no worker for long.

        Raises:
            BackendError: There is none.
        """
        if any(member.begun for member in self.members):
            self.alone_since = time.monotonic()
        elif time.monotonic() - self.alone_since > PATIENCE_SECONDS:
            raise BackendError(
                f"no Ray worker for {PATIENCE_SECONDS:.0f} s: the cluster has no room, or its nodes are gone",
                hint="look at `ray status`; what is finished is kept, the same command goes on",
            )
