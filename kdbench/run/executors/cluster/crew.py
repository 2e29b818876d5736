"""The driver of a run on Ray: hands out units, hears of them, tries again what was lost with its process or node."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from kdbench.run.executors import strangers
from kdbench.run.executors.board import Board, Ended
from kdbench.run.executors.cluster import connect, luggage, parcel, task
from kdbench.run.executors.cluster.apart import pack
from kdbench.run.executors.cluster.needs import Needs
from kdbench.run.executors.cluster.orders import Apart, Began, Came, Finished, Order, Unfit
from kdbench.run.executors.cluster.parcel import Parcel, Roots
from kdbench.run.executors.cluster.post import Post
from kdbench.run.executors.cluster.token import Token, token
from kdbench.run.executors.cluster.tries import Try, first, joined, last, named, size, way
from kdbench.run.executors.cluster.wanted import Wanted
from kdbench.run.executors.merge import Merged
from kdbench.run.executors.messages import Raised
from kdbench.run.executors.processes import Lost
from kdbench.run.executors.unit import Unit
from kdbench.run.group import Work
from kdbench.run.outcome import CellEnded, Emit, Note, Stop, one_line
from kdbench.utils import environment
from kdbench.utils.wording import count

#: Seconds between two looks, and those that tasks have to end in when they are asked to.
LOOK, PATIENCE = 0.2, 60.0
#: Seconds between two looks at the head, and looks in a row without an answer after which it is gone.
ALIVE, MISSED = 3.0, 3
#: Seconds that nothing is begun after a loss; twice as many after the next one, at most so many.
BACKOFF, LONGEST = 1.0, 60.0
#: Nodes that may be lost in a row, nothing ending in between, and seconds after which a wait for the cluster is told.
NODES, WAIT = 8, 60.0


class OnRay(Wanted):
    """The executor of a cluster."""

    def run(self, units: Sequence[Unit], emit: Emit) -> Generator[Ended, None, None]:
        """See ``Executor``."""
        if not units:
            return
        known = strangers.known()
        gpus = self.workers if self.device.startswith("cuda") else 0
        with ExitStack() as held:
            runtime, plugins = held.enter_context(luggage.packed(known))
            mark = held.enter_context(token(units[0].work.out))
            ray = held.enter_context(
                connect.connected(
                    self.address,
                    runtime=runtime,
                    cpus=self.workers * environment.threads(),
                    gpus=min(gpus, sum(int(node.gpus) for node in connect.nodes_of(None))) if gpus else 0,
                    store=2 * size(self.images),
                )
            )
            crew = _Crew(ray, self, plugins, mark, emit)
            try:
                yield from crew.run(Board(units, emit))
            finally:
                crew.end()


class _Crew:
    def __init__(self, ray: Any, asked: OnRay, plugins: tuple[luggage.Plugin, ...], mark: Token, emit: Emit) -> None:
        self.ray, self.asked, self.plugins, self.mark, self.emit = ray, asked, plugins, mark, emit
        self.merged = Merged(emit)
        self.nodes = connect.nodes(ray)
        self.needs = Needs(self.nodes, asked.device, asked.workers, size(asked.images))
        self.head = ray.get_runtime_context().gcs_address
        self.post = self._made_post()
        self.do = ray.remote(max_retries=0)(task.do)
        self.images = self._put_images()
        self.tries: dict[Any, Try] = {}  # by the reference of the answer
        self.again: list[Try] = []  # to be sent with all they need, see ``Apart``
        self.apart: set[str] = set()  # nodes that do not see the output folder
        self.left_out: set[str] = set()  # nodes whose device is not in order
        self.tickets = 0
        self.losses = self.lost_nodes = self.missed = 0  # in a row
        self.wait_until, self.looked = 0.0, time.monotonic()
        self.idle_since: float | None = time.monotonic()

    def _made_post(self) -> Any:
        made = self.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Post)
        return made.remote()

    def _put_images(self) -> tuple[Any, ...]:
        """Where they lie in memory, they are sent; other sources are read where they are needed."""
        some = self.asked.images
        if not (isinstance(some.train_images, Tensor) and isinstance(some.test_images, Tensor)):
            return ()
        with suppress(Exception):  # too large for the object store, say
            return (self.ray.put(some),)
        return ()

    # -- until every unit has ended

    def run(self, board: Board) -> Iterator[Ended]:
        """Until every unit has ended."""
        while board.more:
            yield from self._give(board)
            references = list(self.tries)
            if references:
                ready, _ = self.ray.wait(references, num_returns=1, timeout=LOOK)
            else:
                ready = []
                time.sleep(LOOK)
            self._listen()
            self._look()
            for reference in ready:
                yield from self._answered(reference, board)

    def _give(self, board: Board) -> Iterator[Ended]:
        """Send what can be begun."""
        while self.again and len(self.tries) < self.asked.workers:
            yield from self._send_parcel(self.again.pop(0), board)
        while time.monotonic() >= self.wait_until:
            idle = self.asked.workers - len(self.tries) - len(self.again)
            unit = board.take(idle=idle) if idle > 0 else None
            if unit is None:
                return
            one = Try(unit, self._here(unit.work), self._ticket())
            if self.apart >= {node.name for node in self.nodes}:
                yield from self._send_parcel(one, board)
            else:
                self._send(one, None)

    def _here(self, work: Work) -> Work:
        """With folders that mean the same in another process, whatever its current one is."""
        return parcel.moved(
            replace(work, device=self.asked.device, data_dir=work.data_dir and work.data_dir.absolute()),
            Roots.of(work),
            Roots(work.out.absolute(), work.home.absolute()),
        )

    def _ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def _send(self, one: Try, packed: Parcel | None) -> None:
        order = Order(
            one.ticket,
            one.work,
            self.plugins,
            self.mark,
            self.images,
            self.asked.images.fingerprint,
            packed,
            self.needs.sharing,
            self.needs.rooms,
        )
        options = self.needs.of(one.work)
        if self.left_out:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self.left_out))})"}
        self.tries[self.do.options(**options).remote(order, self.post)] = one

    def _send_parcel(self, one: Try, board: Board) -> Iterator[Ended]:
        """Send a unit with all it reads; where nothing of it is left to do, it has ended."""
        packed = pack(one, self.asked.images, self.emit)
        if packed is not None:
            self._send(one, packed)
            return
        one.held.close()
        yield from board.ended(one.unit, one.known)

    # -- what is heard

    def _listen(self) -> None:
        """Hear what tasks have said since."""
        by_ticket = {one.ticket: one for one in self.tries.values()}
        try:
            letters = self.ray.get(self.post.take.remote(), timeout=10 * ALIVE)
        except self.ray.exceptions.RayError:  # it is begun again; answers come another way
            return
        for ticket, messages in letters:
            one = by_ticket.get(ticket)
            for message in messages:
                if one is not None:  # else it was given up
                    self._hear(one, message)

    def _hear(self, one: Try, message: object) -> None:
        match message:
            case Began():
                one.began, self.idle_since = message, None
                self._compare(message)
            case Came(files):
                parcel.returned(files, Roots.of(one.work))
            case _:
                event: Any = message
                event = named(event, one)
                if one.pulse is not None:
                    one.pulse.hear(event)
                self.merged.hear(one.ticket, one.unit.number, event)

    def _compare(self, began: Began) -> None:
        """Say where a node is another kind of machine: there, and only there, last bits may differ."""
        mine = environment.describe("cpu")
        differing = [name for name in ("torch", "instructions") if began.facts.get(name) != mine[name]]
        if differing:
            what = ", ".join(f"{name} {began.facts.get(name)} (here {mine[name]})" for name in differing)
            self.merged.hear(0, -1, Note(f"{began.host} has {what}: the last bits of its results may differ"))

    def _look(self) -> None:
        """Is the cluster there, and does it have room?

        Raises:
            Stop: its head is gone.
        """
        now = time.monotonic()
        if now - self.looked < ALIVE:
            return
        self.looked = now
        why = connect.answers(self.head)
        self.missed = self.missed + 1 if why else 0
        if self.missed >= MISSED:
            raise self._gone(why)
        with suppress(Exception):
            self.nodes = connect.nodes(self.ray) or self.nodes
        running = any(one.began is not None for one in self.tries.values())
        if running or not self.tries:
            self.idle_since = None if running else now
        elif self.idle_since is None:
            self.idle_since = now
        elif now - self.idle_since > WAIT:
            self.idle_since = now + 9 * WAIT
            self.emit(
                Note(f"the cluster has had no room for a task for {WAIT:.0f} s; waiting (`ray status` shows why)")
            )

    def _gone(self, why: str) -> Stop:
        self.missed = MISSED
        return Stop(f"the Ray cluster at {self.head} is gone ({why}); what was finished is kept, repeat the command")

    # -- what has ended

    def _answered(self, reference: Any, board: Board) -> Iterator[Ended]:
        one = self.tries[reference]
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except errors.LocalRayletDiedError as error:
            raise self._gone("the Ray of this machine has ended") from error
        except errors.RuntimeEnvSetupError as error:
            raise ValueError(f"a node cannot set up what kdbench sends: {one_line(first(error))}") from error
        except errors.TaskUnschedulableError as error:
            raise ValueError(f"no node of the cluster can run a task of kdbench: {one_line(first(error))}") from error
        except (errors.TaskCancelledError, errors.RayTaskError) as error:
            ended = errors.TaskCancelledError, KeyboardInterrupt, SystemExit
            if not isinstance(error, ended) and not isinstance(getattr(error, "cause", None), ended):
                raise ValueError(f"a node of the cluster cannot run kdbench: {last(error)}") from error
            yield from self._lost(reference, "it was told to end", board)
        except errors.RayError as error:
            yield from self._lost(reference, way(error, errors), board)
        else:
            del self.tries[reference]
            yield from self._told(one, answer, board)

    def _told(self, one: Try, answer: object, board: Board) -> Iterator[Ended]:
        match answer:
            case Finished(done, files, work):
                self._listen_once_more(one)
                if files:
                    parcel.returned(files, Roots.of(one.work))
                    self._forget(one, work, files)
                one.held.close()
                self.losses = self.lost_nodes = 0
                self.merged.over(one.unit.number)
                yield from board.ended(one.unit, joined(one.known, done))
            case Apart(node, host):
                if node not in self.apart:
                    self.apart.add(node)
                    self.emit(Note(f"{host} does not see {one.work.out}: what it reads and makes is sent"))
                one.ticket = self._ticket()
                self.again.append(one)
            case Unfit(node, host, sentence):
                self.left_out.add(node)
                self.emit(Note(f"left out: {host}: {sentence}"))
                if self.left_out >= {each.name for each in self.nodes}:
                    raise ValueError(f"no node is left for {board.abandoned()}; the last one said: {sentence}")
                one.held.close()
                yield from board.lost(one.unit, self.merged.lost(one.unit.number), sentence, counts=False)
            case Raised(kind, sentence):
                one.held.close()
                if not kind:
                    raise ValueError(sentence)
                raise Lost(f"{kind}: {sentence}")

    def _listen_once_more(self, one: Try) -> None:
        """What a task has said before its answer, which came another way."""
        self.tries[one.ticket] = one
        self._listen()
        del self.tries[one.ticket]

    def _lost(self, reference: Any, why: str, board: Board) -> Iterator[Ended]:
        """A process or node is gone: the unit goes back, and nothing is begun for a while."""
        one = self.tries[reference]
        self._listen()
        del self.tries[reference]
        one.held.close()
        gone = False
        if one.began is not None:
            with suppress(Exception):
                gone = one.began.node not in {node.name for node in connect.nodes(self.ray)}
        self.losses += 1
        self.lost_nodes += gone
        if self.lost_nodes > NODES:
            raise Stop(
                f"{count(self.lost_nodes, 'node')} in a row were lost; what was finished is kept, see `ray status`"
            )
        pause = min(LONGEST, BACKOFF * 2 ** (self.losses - 1))
        self.wait_until = time.monotonic() + pause
        where = f" on {one.began.host}" if one.began else ""
        what = "a node was lost" if gone else "a worker was lost"
        sentence = f"{what}{where} ({why}); what it trained goes on from its last checkpoint in {pause:.0f} s"
        ended = self.merged.lost(one.unit.number)
        ended |= {cell: CellEnded(cell, "failed", failed) for cell, failed in one.known.failed.items()}
        ended |= {cell: CellEnded(cell, "elsewhere", "") for cell in one.known.elsewhere}
        ended |= {cell: CellEnded(cell, "done", "") for cell in one.known.found}
        self.emit(Note(sentence))
        unit = one.unit
        if one.began is not None and not gone:  # memory, as like as not: the next one trains fewer lanes at once
            unit = replace(unit, work=replace(unit.work, killed=True))
        yield from board.lost(unit, ended, why, counts=not gone)

    def _forget(self, one: Try, work: Work, files: parcel.Files) -> None:
        """What is written here by now need not stay on the node."""
        if one.began is None:
            return
        with suppress(Exception):
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            there = NodeAffinitySchedulingStrategy(one.began.node, soft=False)
            self.ray.remote(parcel.forget).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(
                work, list(files)
            )

    # -- the end

    def end(self) -> None:
        """Ask all tasks to end, and wait until they have kept what is to be kept; a second Ctrl-C does not wait."""
        until = time.monotonic() + PATIENCE
        try:
            for reference in self.tries:
                with suppress(Exception):
                    self.ray.cancel(reference, force=False)
            while self.tries and time.monotonic() < until and self.missed < MISSED:
                ready, _ = self.ray.wait(list(self.tries), num_returns=1, timeout=LOOK)
                with suppress(Exception):
                    self._listen()
                for reference in ready:
                    one = self.tries.pop(reference)
                    with suppress(Exception):
                        answer = self.ray.get(reference)
                        if isinstance(answer, Finished) and answer.files:
                            parcel.returned(answer.files, Roots.of(one.work))
                    one.held.close()
                with suppress(Stop):
                    self._look()
        finally:
            for one in [*self.tries.values(), *self.again]:
                one.held.close()
