"""Step 3: fine-tune on the prepared rows, from where a run with the same options was interrupted, if it was.

python train.py --model FOLDER_OR_NAME --prepared FOLDER [--out FOLDER]
"""

from __future__ import annotations

from problems import UserError

# isort: split
import gt as torch  # first: whether this says gt or torch decides where the other files run

# isort: split
import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lora
import numpy as np
import room
import yaml
from checkpoint_files import Save, Saving, save_in_background, save_now, write_folder, write_output
from checkpoints import OPTIMIZER, Checkpoints, State
from config import Config
from evaluation import Report, loss_sum
from folders import OPTIONS, identity, shown
from interrupts import Interrupts
from load_weights import element_bytes, entries, header, load, read
from model import Qwen3
from optimizers import Stepper, rate
from options import parse, resolved
from packing import batches
from prepared import Batch
from progress import Course, Reporter
from which_run import Run, finished, first_state, repeating, write_result

LOST = (
    (torch.errors.ConnectionLostError, torch.errors.WorkerLostError, torch.errors.PeerError)
    if hasattr(torch, "errors")
    else ()
)
"""What a program meets whose workers are gone."""


# -- the model -----------------------------------------------------------------------------------------------------------


def open_model(run: Run, checkpoint: Path | None) -> Qwen3:
    """The model to train: of the checkpoint to begin with, or of one of this run."""
    given, lora_given = run.given, as_lora(run.given)
    torch.manual_seed(given.seed)
    if lora_given is None:
        model = load(checkpoint or run.source)
        model = model.bfloat16() if given.precision == "bf16" else model.float()
    else:
        model = load(run.source)
        model = model.bfloat16() if given.precision == "bf16" else in_one_dtype(model)
        if checkpoint:
            lora.load_adapter(model, checkpoint)
        else:
            lora.add_adapter(model, lora_given)
    model.checkpointing = given.activation_checkpointing
    return model


def in_one_dtype(model: Qwen3) -> Qwen3:
    """A model in the dtype of its files; where they have several, in float32, which holds each of them exactly."""
    return model if len({parameter.dtype for parameter in model.parameters()}) == 1 else model.float()


def as_lora(given: argparse.Namespace) -> lora.Lora | None:
    """The adapter that the options describe; None: all weights are trained."""
    if not given.lora:
        return None
    targets = given.lora_targets or lora.ALL_LINEAR
    return lora.Lora(given.lora_rank, given.lora_alpha, given.lora_dropout, given.rslora, targets)


def trained(model: Qwen3) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name; a tied one once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def write_weights(run: Run, model: Qwen3, folder: Path, save: Save) -> list[Saving]:
    """Write what is trained: a folder that `transformers` loads, or PEFT if it is an adapter."""
    adapter = as_lora(run.given)
    if adapter is None:
        return write_folder(model, run.source, folder, save)
    return lora.save_adapter(model, adapter, identity(run.given.model, None), folder, save, run.given.revision)


def write_all(run: Run, model: Qwen3, folder: Path, save: Save) -> list[Saving]:
    """Write what is trained, and the options: `--config` with them is the same run."""
    (folder / OPTIONS).write_text(yaml.safe_dump(resolved(run.given)), encoding="utf-8")
    return write_weights(run, model, folder, save)


# -- training ------------------------------------------------------------------------------------------------------------


def accumulate(model: Qwen3, micro_batches: list[Batch], autocast: bool) -> torch.Tensor:
    """Accumulate the gradients of one batch; returns its loss. Each micro-batch is divided by the batch's target count."""
    count = sum(batch.count for batch in micro_batches)
    parts = []
    for batch in micro_batches:
        loss = loss_sum(model, batch, autocast) / count
        loss.backward()
        parts.append(loss.detach())
    return sum(parts[1:], parts[0])


class Training:
    """The steps of a run, its checkpoints and evaluations, from a state on."""

    def __init__(self, run: Run, model: Qwen3, checkpoints: Checkpoints, state: State) -> None:
        self.run, self.model, self.checkpoints, self.state = run, model, checkpoints, state
        self.given = run.given
        self.stepper = Stepper(trained(model), run.given)
        if state.step:
            kinds = checkpoints.optimizer_files(state.step)
            self.stepper.restore({kind: read(held := header(file), [*held]) for kind, file in kinds.items()}, state.step)
        self.reporter = Reporter(run.given.epochs, run.steps_per_epoch, run.steps, run.given.log_every, state.step)
        self.course = Course(run.steps_per_epoch, state.losses, checkpoints.said)

    def steps(self, interrupts: Interrupts) -> State:
        """Train to the end; returns the state there. Raises UserError for a loss or final weights that are not finite.

        Raises SystemExit after a checkpoint, if a signal asks for the end.
        """
        self.model.train()
        try:
            for step, chosen in batches(self.run.rows, self.given):
                if step == self.run.steps or self._is_patience_over():
                    break
                if step >= self.state.step:
                    self._step(step, chosen)
                    self._after(step + 1, interrupts)
            self._look()
        finally:
            self.reporter.close()
        self.checkpoints.finish()
        self._check_weights()
        return self.state

    def _step(self, step: int, chosen: list[np.ndarray]) -> None:
        if self.given.lora_dropout:  # so that what a step drops does not depend on the steps before
            torch.manual_seed((self.given.seed * 1_000_003 + step) % 2**63)
        micro_batches = [self.run.rows.batch(rows, self.run.held_out.pad) for rows in chosen]
        loss = accumulate(self.model, micro_batches, self.given.precision == "bf16-autocast")
        warmup = max(1, int(self.given.warmup * self.run.steps))
        norm = self.stepper.step(rate(self.given.schedule, step, self.run.steps, warmup))
        self.course.add(loss, norm)
        self.reporter.step(step, sum(map(self.run.rows.tokens, chosen)), self.course.look)

    def _after(self, done: int, interrupts: Interrupts) -> None:
        """After `done` steps: evaluate, or write a checkpoint, where it is time for that."""
        self.checkpoints.look()
        is_best = bool(self.given.eval_every) and done % self.given.eval_every == 0 and self._evaluate()
        if is_best or done % self.given.save_every == 0 or interrupts.wanted:
            self._look()
            self._check_weights()
            self.checkpoints.begin(self.state, self._write, self.stepper.state())
        if interrupts.wanted:
            self.checkpoints.finish()
            interrupts.stop_if_wanted(
                f"Stopped after step {done} of {self.run.steps}; {repeating(self.given)} goes on from there"
            )

    def _write(self, folder: Path, save: Save) -> list[Saving]:
        return write_weights(self.run, self.model, folder, save)

    def _look(self) -> None:
        """Fetch all losses that are not known yet."""
        self.course.look()
        self.state = self.state.after(self.course.losses)

    def _check_weights(self) -> None:
        """What is saved can be gone on from: a step with a finite loss may have made weights that are not."""
        if not torch.nn.utils.get_total_norm(list(trained(self.model).values())).isfinite():
            kept = self.checkpoints.said()
            raise UserError(f"the weights are not finite after step {self.state.step}; {kept}. Try a lower --lr")

    def _evaluate(self) -> bool:
        """Evaluate on the held-out rows; returns whether the loss is the lowest so far."""
        self._look()
        try:
            loss = self.run.held_out.loss(self.model)
        except UserError as error:
            raise UserError(f"{error}; {self.checkpoints.said()}") from None
        self.state = self.state.evaluated(loss)
        best = f"best: {self.state.best_loss:.4f} after step {self.state.best_step}"
        self.reporter.say(f"  Step {self.state.step}: held-out loss {loss:.4f} ({best})")
        return self.state.best_step == self.state.step

    def _is_patience_over(self) -> bool:
        return bool(self.given.patience) and self.state.evaluations_since >= self.given.patience


# -- a whole run ---------------------------------------------------------------------------------------------------------


def fit(run: Run, checkpoints: Checkpoints, state: State, interrupts: Interrupts) -> tuple[State, Report | None]:
    """Train from a state on, save and evaluate; returns the state at the end. With --patience the best weights are saved."""
    given, checkpoint = run.given, checkpoints.path(state.step) if state.step else None
    with interrupts:
        with naming(checkpoint):
            model = open_model(run, checkpoint)
            if not checkpoint and not given.no_eval:
                print(f"Held-out before training: {run.held_out.report(model)}", flush=True)
            training = Training(run, model, checkpoints, state)
        state = training.steps(interrupts)
        del training  # and the state of its optimizer
        if given.patience and state.best_step not in (0, state.step):
            print(f"The weights after step {state.best_step} have the lowest held-out loss: {state.best_loss:.4f}")
            model = open_model(run, checkpoints.path(state.best_step))
        write_output(given.out, run.made_of, lambda folder, save: write_all(run, model, folder, save))
        print(f"Saved {shown(given.out)}", flush=True)
        if given.losses_out:
            given.losses_out.write_text("".join(f"{loss.hex()}\n" for loss in state.losses))
    print("Training Complete!", flush=True)
    if given.no_eval:
        return state, None
    interrupts.stop_if_wanted(f"Stopped before the evaluation; {repeating(given)} makes it")
    return state, run.held_out.report(model)


@contextmanager
def naming(checkpoint: Path | None) -> Iterator[None]:
    """Name the checkpoint that is read, if something of it is missing or damaged, and what to do. None: none is read."""
    try:
        yield
    except (UserError, FileNotFoundError, KeyError) as error:
        if checkpoint is None:
            raise
        what = f"no {error} in its {OPTIMIZER}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{checkpoint} is damaged ({what}): remove it, to go on from the one before or begin anew") from None


def fit_whatever_dies(run: Run, checkpoints: Checkpoints) -> tuple[State, Report | None]:
    """As `fit`, in a new session from the last checkpoint if workers or the service die; not twice at the same one."""
    state, lost_at, interrupts = first_state(run, checkpoints), -1, Interrupts()
    while True:
        try:
            return fit(run, checkpoints, state, interrupts)
        except LOST as error:
            checkpoints.drop_partial()
            state, what = checkpoints.last() or run.begin(), str(error).splitlines()[0]
            interrupts.stop_if_wanted(f"{what}; {repeating(run.given)} goes on after step {state.step}")
            if state.step == lost_at:
                raise UserError(f"{what}, again after step {lost_at}; {repeating(run.given)} goes on from there") from None
            lost_at = state.step
            print(f"{what}; going on after step {lost_at} in a new session", flush=True)
            torch.reopen()


def main() -> int:
    given = parse(__doc__, "train.py")
    print("Step 3: Training model...", flush=True)
    run = Run.open(given)
    if result := finished(run):
        said = ", ".join(f"{name}: {value}" for name, value in result.items())
        print(f"Finished already: {shown(given.out)} ({said}); --fresh trains anew", flush=True)
        return 0
    config = Config.from_json(run.source / "config.json")
    verdict = room.check(config, given, element_bytes(entries(run.source)), room.available())
    checkpoints = Checkpoints(given.checkpoints, given.keep, save_in_background if verdict.copies else save_now)
    with checkpoints.alone():
        state, report = fit_whatever_dies(run, checkpoints)
    if report is not None:
        print(f"Held-out after training: {report}", flush=True)
        for asked, answer in list(zip(run.held_out.asked, report.made, strict=True))[:3]:
            print(f"  {' '.join(asked.question.split())}\n    -> {answer}   (expected: {asked.answer})")
    write_result(run, report, state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
