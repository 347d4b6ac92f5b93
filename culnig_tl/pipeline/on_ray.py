"""A run on a Ray cluster: one machine or many, without a common disk.

Each worker is an actor with a model of its own. Pieces are tasks: the longest first, to whoever is
free. A worker that dies is replaced and its piece done again. Results come back to the driver,
which alone writes the run's folder. Ray reports no usage, and its dashboard stays off.
"""

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from accelerate.utils import patch_environment

from culnig_tl.errors import CulnigError, InvalidInputError, check_number, first_line
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.pipeline.questions import GivenQuestions
from culnig_tl.pipeline.settings import Settings
from culnig_tl.pipeline.work import Engine, Piece, Setup, piece_bar

_ATTEMPTS = 3
_PATIENCE = 5.0  # seconds
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


class WorkerError(CulnigError, RuntimeError):
    """A worker could not start, or a piece of work ended it again and again."""


class OnRay(Engine):
    """Workers of a Ray cluster, as the ``engine`` of ``culnig``.

    Args:
        load: loads the model on a worker: ``functools.partial(ct.load_model, "NAME", ...)``. What
            it names must be there on every machine: a name on the hub, or a folder of the same
            path.
        address: a running cluster, ``"auto"`` for that of this machine; None starts one here, which
            ends with the run.
        workers: their number; by default one for each ``gpus_per_worker`` GPUs of the cluster, or
            one for each machine where it has none.
        gpus_per_worker: GPUs of a worker; more than one for models loaded with
            ``device_map="auto"``.

    Raises:
        InvalidInputError: Ray is not installed, no cluster at the address, fewer GPUs than asked
            for, or numbers that are out of range.
        WorkerError: on running, a worker that dies as it loads the model, or a piece whose workers
            died three times.

    Example:
        >>> from functools import partial
        >>> import culnig_tl as ct
        >>> engine = OnRay(partial(ct.load_model, "atlas"), workers=2)
        >>> # ct.culnig(ct.load_model("atlas"), out="runs/mine", engine=engine)
    """

    scores_by_pieces = True

    def __init__(
        self,
        load: Callable[[], HookedModel],
        *,
        address: str | None = None,
        workers: int | None = None,
        gpus_per_worker: int = 1,
    ) -> None:
        if workers is not None:
            check_number("workers", workers, low=1, whole=True)
        check_number("gpus_per_worker", gpus_per_worker, low=1, whole=True)
        self._load, self._address, self._asked = load, address, workers
        self._gpus_per_worker = gpus_per_worker
        self._workers: list[Any] = []
        self._closing = ExitStack()
        self.n_workers = workers or 1

    def __enter__(self) -> "OnRay":
        self._ray = _ray()
        self._connect()
        total = self._ray.cluster_resources()
        n_gpus = int(total.get("GPU", 0))
        if n_gpus and n_gpus < self._gpus_per_worker * (self._asked or 1):
            self._closing.close()
            raise InvalidInputError(
                f"The cluster has {n_gpus} GPUs, and {self._asked or 1} workers of "
                f"{self._gpus_per_worker} GPUs were asked for; ask for fewer."
            )
        machines = sum(node["Alive"] for node in self._ray.nodes())
        self.n_workers = self._asked or n_gpus // self._gpus_per_worker or machines
        self._threads = max(1, int(total.get("CPU", 1)) // self.n_workers)
        self._actor = self._ray.remote(
            num_cpus=min(1, total.get("CPU", 0)),
            num_gpus=self._gpus_per_worker if n_gpus else 0,
            scheduling_strategy="SPREAD",
        )(_Worker)
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def run(self, setup: Setup, pieces: Sequence[Piece], name: str, progress: bool) -> None:
        if not pieces:
            return
        if not self._workers:
            self._settle(setup)
        waiting = deque(sorted(range(len(pieces)), key=lambda n: -pieces[n].tokens))
        starting: dict[Any, Any] = {}
        idle, running, deaths = list(self._workers), {}, Counter()
        with piece_bar(pieces, name, progress) as done:
            while waiting or running:
                while idle and waiting:
                    number, worker = waiting.popleft(), idle.pop()
                    running[worker.make.remote(pieces[number].make)] = number, worker
                (ready, *_), _ = self._ray.wait([*running, *starting], num_returns=1)
                if ready in starting:
                    idle.append(starting.pop(ready))
                    self._settled(ready)
                    continue
                number, worker = running.pop(ready)
                try:
                    pieces[number].keep(self._result(ready))
                except self._ray.exceptions.RayActorError as error:
                    deaths[number] += 1
                    if deaths[number] == _ATTEMPTS:
                        raise WorkerError(
                            f"A piece of {name} ended its worker {_ATTEMPTS} times "
                            f"({first_line(error)}); what is finished is kept. Fewer workers on a "
                            "machine, or a smaller token_budget, need less memory."
                        ) from error
                    waiting.appendleft(number)
                    self._workers.remove(worker)
                    starting |= self._started(1)
                else:
                    idle.append(worker)
                    done(pieces[number])

    def _connect(self) -> None:
        """Join the cluster, or start one; leave it when the run ends."""
        with patch_environment(**_QUIET):
            try:
                _knock(self._address)
                self._ray.init(
                    address=self._address or "local",
                    include_dashboard=None if self._address else False,
                    num_cpus=None if self._address else max(self._asked or 1, os.cpu_count() or 1),
                    logging_level="warning",
                    log_to_driver=False,
                )
            except OSError as error:
                raise InvalidInputError(
                    f"There is no Ray cluster at {self._address!r} ({first_line(error)}); start "
                    "one (ray start --head), or leave the address out to start one here."
                ) from error
        self._closing.callback(self._ray.shutdown)
        self._closing.callback(self._workers.clear)

    def _settle(self, setup: Setup) -> None:
        """Start the workers, and see that each has the model that this process has."""
        self._given = self._ray.put((GivenQuestions.of(setup.questions), setup.settings))
        expected = model_fingerprint(setup.model)
        for ready in self._started(self.n_workers):
            if (fingerprint := self._settled(ready)) != expected:
                raise InvalidInputError(
                    f"A worker loaded a model with fingerprint {fingerprint}, and this process "
                    f"has {expected}; have load= load the same weights, type and tokenizer."
                )

    def _started(self, number: int) -> dict[Any, Any]:
        """New workers by what they say when they are ready."""
        new = [self._actor.remote() for _ in range(number)]
        self._workers += new
        return {
            worker.settle.remote(self._load, self._given, self._threads): worker for worker in new
        }

    def _settled(self, ready: Any) -> str:
        """The fingerprint of a new worker's model."""
        try:
            return self._result(ready)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerError(
                f"A worker died while it loaded the model ({first_line(error)}); what is finished "
                "is kept. Fewer workers on a machine, or more GPUs a worker, leave it more memory."
            ) from error

    def _result(self, ready: Any) -> Any:
        """The result of a task, or the error that its own code raised."""
        try:
            return self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, CulnigError) else error) from error


class _Worker:
    """A process with a model of its own."""

    _setup: Setup

    def settle(
        self,
        load: Callable[[], HookedModel],
        given: tuple[GivenQuestions, Settings],
        threads: int,
    ) -> str:
        """Load the model, and say which it is."""
        torch.set_num_threads(threads)
        model, (questions, settings) = load(), given
        self._setup = Setup(model, settings, questions.on(model))
        return model_fingerprint(model)

    def make(self, make: Callable[[Setup], Any]) -> Any:
        return make(self._setup)


def _knock(address: str | None) -> None:
    """Fail where nothing listens at an address, which Ray ends the process for.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InvalidInputError(
            "A run on Ray needs Ray; install it with: pip install 'culnig-tl[ray]'"
        ) from error
    return ray
