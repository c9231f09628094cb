"""The checkpoints of a run: when they are written, which are kept, where a run goes on."""

import signal
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from types import FrameType
from typing import Any, Self

import torch
from accelerate import Accelerator

from blob_pyro.training.checkpoint_file import (
    DamagedCheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from blob_pyro.training.step_record import best_step
from blob_pyro.training.training_state import TrainingState

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterruptedError(Exception):
    """Training stopped because a signal asked it to, and everything is saved.

    Parameters
    ----------
    message
        Says where to go on from.
    signal_number
        The signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Notes SIGINT and SIGTERM while it is entered; a second Ctrl-C stops at once.

    Attributes
    ----------
    signal_number
        The first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere signals do what they did.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        # A launcher that got Ctrl-C too sends SIGTERM after it: that is no second request.
        self.signal_number = self.signal_number or number


_NAMES = f"step-{8 * '[0-9]'}.safetensors"


@dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often a run is saved, so that it can go on after a crash.

    Parameters
    ----------
    folder
        The run's own folder; made if absent.
    save_every
        Steps between two checkpoints.  One is also written before the first step, after the last,
        where validation finds a new best state, and when SIGTERM or Ctrl-C asks to stop.
    keep_last
        How many of the newest ones are kept, beside the best one's.
    resume
        Go on from the newest checkpoint in the folder.  False starts a new run, and refuses a
        folder that holds checkpoints.

    Raises
    ------
    ValueError
        If a number is below 1.
    """

    folder: str | Path
    save_every: int = 100
    keep_last: int = 2
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def of_member(self, number: int) -> Self:
        """Give the settings of one of several runs that follow each other, with its own folder.

        When the whole is resumed, a member after the first may not have begun.
        """
        folder = Path(self.folder) / f"member-{number}"
        begun = number == 0 or any(folder.glob(_NAMES))
        return replace(self, folder=folder, resume=self.resume and begun)


class Checkpoints:
    """Saves a run as it goes; a context manager that answers SIGTERM and Ctrl-C.

    Parameters
    ----------
    config
        Where and how often.
    run
        What is saved.
    identity
        From :func:`blob_pyro.training.training_state.run_identity`.
    num_steps
        Steps of the whole run.
    accelerator
        The processes, of which the main one writes.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        run: TrainingState,
        identity: Mapping[str, str],
        num_steps: int,
        accelerator: Accelerator,
    ) -> None:
        self._config, self._run, self._identity = config, run, dict(identity)
        self._num_steps, self._accelerator = num_steps, accelerator
        self._folder = Path(config.folder)
        self._interruption = Interruption()

    def __enter__(self) -> Self:
        self._begin()
        self._interruption.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._interruption.__exit__(*exc_info)

    def after_step(self) -> None:
        """Save if it is time to, and stop if a signal came.

        Raises
        ------
        TrainingInterruptedError
            After a signal, when everything is saved.
        OSError
            If a checkpoint cannot be written; those before it are whole.
        """
        taken = len(self._run.records)
        signal_number = self._signal() if taken < self._num_steps else None
        is_best = best_step(self._run.records) == taken - 1
        is_due = taken % self._config.save_every == 0 or taken == self._num_steps
        if is_due or is_best or signal_number is not None:
            self._save()
        if signal_number is not None:
            name = signal.Signals(signal_number).name
            raise TrainingInterruptedError(
                f"{name} after {taken} of {self._num_steps} steps; everything is saved in "
                f"{self._path(taken)}, resume from there",
                signal_number,
            )

    def _signal(self) -> int | None:
        # A signal to one process stops all of them, after the same step.
        number = self._interruption.signal_number or 0
        if self._accelerator.num_processes > 1:
            device = self._accelerator.device
            numbers = self._accelerator.gather(torch.tensor([number], device=device))
            number = int(numbers.max())
        return number or None

    def _begin(self) -> None:
        paths = self._paths()
        if self._config.resume:
            self._run.load_state_dict(self._newest(paths)["run"])
        elif paths:
            raise ValueError(
                f"{self._folder} holds checkpoints of a run (the newest is {paths[-1].name}); "
                "resume it, give another folder, or delete them"
            )
        self._accelerator.wait_for_everyone()
        if not self._config.resume:
            self._save()

    def _newest(self, paths: list[Path]) -> Any:
        """Read the newest whole checkpoint, which has to be of this run."""
        for path in reversed(paths):
            try:
                state = read_checkpoint(path)
            except DamagedCheckpointError as error:
                if self._accelerator.is_main_process:
                    warnings.warn(f"{error}; looking at the checkpoint before it", stacklevel=2)
                continue
            self._check_identity(path, state["identity"])
            return state
        raise ValueError(
            f"{self._folder} holds no whole checkpoint to resume from; give the folder of the run, "
            "or an empty one to start from the beginning"
        )

    def _check_identity(self, path: Path, found: Mapping[str, str]) -> None:
        for name in {**self._identity, **found}:
            theirs, ours = found.get(name), self._identity.get(name)
            if theirs != ours:
                raise ValueError(
                    f"{path} is of another run: its {name} is {_short(theirs)}, here it is "
                    f"{_short(ours)}; resume with the same settings and data"
                )

    def _save(self) -> None:
        # All processes, since each has a random state to give.
        state = {"identity": self._identity, "run": self._run.state_dict()}
        if self._accelerator.is_main_process:
            path = self._path(len(self._run.records))
            try:
                write_checkpoint(path, state)
            except OSError as error:
                raise OSError(
                    f"{path} cannot be written ({error.strerror}); mend it or give another folder. "
                    f"Whole ones there, to resume from: {[each.name for each in self._paths()]}"
                ) from error
            self._prune()
        self._accelerator.wait_for_everyone()

    def _prune(self) -> None:
        taken, best = len(self._run.records), best_step(self._run.records)
        paths = self._paths()
        # One of a later step was damaged, or this run would have gone on from it.
        past = [path for path in paths if path <= self._path(taken)]
        kept = {*past[-self._config.keep_last :]}
        if best is not None:
            kept.add(self._path(best + 1))
        # What a killed process was writing.
        drafts = self._folder.glob(".step-*.safetensors-*")
        for path in [*(path for path in paths if path not in kept), *drafts]:
            path.unlink()

    def _paths(self) -> list[Path]:
        """List the checkpoints, the oldest first."""
        return sorted(self._folder.glob(_NAMES))

    def _path(self, taken: int) -> Path:
        return self._folder / f"step-{taken:08d}.safetensors"


def _short(value: str | None) -> str:
    return shorten(str(value), 60, placeholder="...")
