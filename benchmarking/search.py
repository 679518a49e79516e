"""`benchmark.py search`: finds the noise schedule of a number of steps that scores best with a network."""

import math
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarking.candidates import FINAL_NOISE_LEVEL, OPTIMIZERS, ScheduleCurves, default_ladder, grid_candidates, rounded
from benchmarking.excerpts import file_digest, fingerprint, listed, say_which_are_shorter
from benchmarking.journal import Journal, progress
from benchmarking.measuring import Measurer, Measuring, System
from benchmarking.metrics import METRICS
from benchmarking.workers import default_jobs, start_workers
from common.errors import InputError, positive_float, positive_int, seed_int
from common.files import check_not_input
from model.noise_schedule import NoiseSchedule, find_schedule, split_text
from model.samplers import find_sampler, sampler_name

METHODS = ["grid", *OPTIMIZERS]
WORST_LOSS = 1e6  # where a metric has no value; an optimiser needs a number


class Scorer(Measurer):
    """`Scorer(measuring, sampler, device)(betas)` is the mean of the metric over the excerpts; NaN where one of them has no value."""

    def __init__(self, measuring, sampler, device):
        super().__init__(measuring, device)
        [name] = measuring.metrics
        self.sampler, self.metric = sampler, METRICS[name]

    def score(self, waveforms):
        """The metric of each excerpt and its waveform."""
        return [self.metric.measure(excerpt.waveform, y, self.mel_transform) for excerpt, y in zip(self.excerpts, waveforms)]

    def __call__(self, betas):
        system = System("", "", NoiseSchedule(betas), self.sampler)
        return float(np.mean(self.score(self.synthesize(system, index) for index in range(len(self.excerpts)))))


class Search:
    """Goes through candidates, writes their scores to the journal, and the best schedule so far to a file.

    Args:
        journal: a `Journal`; what it holds is not scored again.
        score: takes an iterable of betas, yields their scores in order.
        metric: a `metrics.Metric`.
        save: called with betas, score and number of candidates scored whenever there is a better one, and by `finish`.
        bar: progress bar.
    """

    def __init__(self, journal, score, metric, save, bar):
        self.journal, self.score, self.metric, self.save, self.bar = journal, score, metric, save, bar
        self.n_scored = 0
        self.best = None  # (loss, betas, score)

    def losses(self, candidates):
        """Losses of a list of betas, lower is better: the scores, or their negatives."""
        n_known = min(len(self.journal.entries) - self.n_scored, len(candidates))
        known = self.journal.entries[self.n_scored : self.n_scored + n_known]
        for entry, betas in zip(known, candidates):
            if entry["betas"] != betas:
                raise InputError(
                    f"{self.journal.path}: candidate {entry['betas']} is not the one that follows from its settings "
                    f"({betas}); remove it to start anew"
                )
        losses = [self._note(betas, entry["score"]) for entry, betas in zip(known, candidates)]
        rest = candidates[n_known:]
        for betas, score in zip(rest, self.score(rest)):
            score = score if math.isfinite(score) else None  # JSON has no NaN
            self.journal.append({"betas": betas, "score": score})
            losses.append(self._note(betas, score))
        return losses

    def _note(self, betas, score):
        self.n_scored += 1
        loss = WORST_LOSS
        if score is not None:
            loss = -score if self.metric.higher_is_better else score
            if self.best is None or loss < self.best[0]:
                self.best = (loss, betas, score)
                self.save(betas, score, self.n_scored)
                self.bar.set_postfix_str(f"best {self.metric.label} {score:.4f}")
        self.bar.update()
        return loss

    def finish(self):
        """Saves the best once more, with the final number of candidates, and returns its betas and score."""
        if self.best is None:
            raise InputError("no candidate has a score: the metric has no value for these recordings")
        _, betas, score = self.best
        self.save(betas, score, self.n_scored)
        return betas, score


def optimizer_batches(name, curves, start, seed, n_candidates):
    """Batches of betas from an optimiser, as a generator that is sent their losses."""
    search = OPTIMIZERS[name](start, seed)
    points = next(search)
    while n_candidates > 0:
        points = points[:n_candidates]
        n_candidates -= len(points)
        losses = yield [rounded(curves.schedule(point)).betas.tolist() for point in points]
        if n_candidates > 0:
            points = search.send(losses)


def add_arguments(parser):
    parser.add_argument("-ch", "--checkpoint", required=True, help="network to find a schedule for")
    parser.add_argument("-o", "--output", type=Path, required=True, help="schedule file to write (.json); the journal is written beside it")
    parser.add_argument("--filelist", required=True, help="recordings to tune on: training or validation, never test")
    parser.add_argument("--steps", type=positive_int, required=True, help="number of denoising steps")
    parser.add_argument("--method", choices=METHODS, default="tpe", help="(default: %(default)s)")
    parser.add_argument("--candidates", default="200", help="schedules to score, or 'all' of a grid (default: %(default)s)")
    parser.add_argument("--metric", choices=METRICS, default="log_mel_l1", help="(default: %(default)s)")
    parser.add_argument("--sampler", help="as in inference.py (default: what the schedule to start from was made for)")
    parser.add_argument("--recordings", type=positive_int, default=8, help="spread over the filelist (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_float, default=2.0, help="of each recording (default: %(default)s)")
    parser.add_argument("--seed", type=seed_int, default=0, help="of the candidates (default: %(default)s)")
    parser.add_argument("--noise_seed", type=seed_int, default=0, help="of the noise that every candidate gets (default: %(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=default_jobs(), help="processes (default: one a GPU, or a core)")
    parser.add_argument("--final_noise_level", type=float, nargs=2, metavar=("LEAST", "MOST"), help="allowed at the noisiest step")
    grid = parser.add_argument_group("grid")
    grid.add_argument("--ladder", type=float, nargs="*", help="one value a step (default: 1e-6 to 0.1 at equal ratios)")
    grid.add_argument("--non_decreasing", action="store_true", help="only betas that never fall towards the noise")
    optimizer = parser.add_argument_group("optimisers")
    optimizer.add_argument("--start", help="schedule to start from, of any number of steps, as -ns of inference.py")
    optimizer.add_argument("--knots", type=positive_int, default=6, help="of the curve of noise levels (default: %(default)s)")


def _journal_path(arguments):
    return arguments.output.with_suffix(".journal.jsonl")


def _check(arguments):
    if arguments.output.suffix != ".json":
        raise InputError(f"{arguments.output}: a schedule file ends in .json")
    if arguments.output.is_dir():
        raise InputError(f"{arguments.output}: cannot be written (expected: the name of a file)")
    start = split_text(arguments.start)[0] if arguments.start else None
    check_not_input(arguments.output, [start, arguments.checkpoint, arguments.filelist])
    journal = _journal_path(arguments)
    if arguments.output.exists() and not journal.exists():
        raise InputError(f"{arguments.output}: is there already, and not of this search: {journal} is missing (expected: another --output)")
    if arguments.candidates != "all":
        try:
            arguments.candidates = int(arguments.candidates)
        except ValueError:
            raise InputError(f"--candidates is '{arguments.candidates}' (expected: a number, or 'all')") from None
        if arguments.candidates < 1:
            raise InputError(f"--candidates is {arguments.candidates} (expected: 1 or more)")
    levels = arguments.final_noise_level
    if levels is not None and not 0.001 <= levels[0] < levels[1] <= 0.999:
        raise InputError(f"--final_noise_level is {levels[0]:g} {levels[1]:g} (expected: two rising numbers, .001 to .999)")


def _batches(arguments):
    """The candidates that the arguments ask for, their number, and the settings that they follow from."""
    settings = {"final_noise_level": arguments.final_noise_level}
    n_candidates = None if arguments.candidates == "all" else arguments.candidates
    if arguments.method == "grid":
        if arguments.start:
            raise InputError("--start is for the optimisers, a grid has no start")
        ladder = default_ladder(arguments.steps) if arguments.ladder is None else arguments.ladder
        if len(ladder) != arguments.steps:
            raise InputError(f"--ladder has {len(ladder)} values (expected: {arguments.steps}, one a step)")
        settings |= {"ladder": ladder, "non_decreasing": arguments.non_decreasing}
        candidates = grid_candidates(ladder, n_candidates, arguments.seed, **{k: v for k, v in settings.items() if k != "ladder"})
        return (betas for betas in [candidates.tolist()]), len(candidates), settings
    if n_candidates is None or arguments.ladder is not None or arguments.non_decreasing:
        raise InputError(f"--candidates all, --ladder and --non_decreasing are for the grid, not for {arguments.method}")
    if arguments.knots < 2:
        raise InputError(f"--knots is {arguments.knots} (expected: 2 or more)")
    curves = ScheduleCurves(arguments.steps, arguments.knots, arguments.final_noise_level or FINAL_NOISE_LEVEL)
    start = curves.point(find_schedule(arguments.start)) if arguments.start else curves.middle
    settings |= {"knots": arguments.knots, "start": start.tolist()}
    batches = optimizer_batches(arguments.method, curves, start, arguments.seed, n_candidates)
    return batches, n_candidates, settings


def run(arguments):
    _check(arguments)
    arguments.sampler = sampler_name(find_schedule(arguments.start) if arguments.start else None, arguments.sampler)
    find_sampler(arguments.sampler)
    limits = {"n_recordings": arguments.recordings, "seconds": arguments.seconds}
    measuring = Measuring(arguments.checkpoint, arguments.filelist, metrics=(arguments.metric,), seed=arguments.noise_seed, **limits)
    batches, n_candidates, settings = _batches(arguments)
    scorer = Scorer(measuring, arguments.sampler, torch.device("cpu"))  # everything is checked here, before any process starts
    excerpts = scorer.excerpts
    say_which_are_shorter(excerpts, arguments.seconds, scorer.mel_transform.config)
    scores = scorer.score(excerpt.waveform for excerpt in excerpts)
    if silent := [excerpt.name for excerpt, score in zip(excerpts, scores) if not math.isfinite(score)]:
        raise InputError(
            f"{arguments.filelist}: {scorer.metric.label} has no value for {len(silent)} of {len(excerpts)} excerpts, too short or silent: "
            f"{listed(silent)} (expected: other recordings, more --seconds, or another --metric)"
        )
    checkpoint = file_digest(arguments.checkpoint)
    keys = ("steps", "method", "candidates", "metric", "sampler", "seed", "noise_seed")
    settings |= {key: getattr(arguments, key) for key in keys}
    settings |= {"checkpoint": checkpoint, "recordings": fingerprint(excerpts)}

    def save(betas, score, n_scored):
        source = (
            f"{arguments.method} search, {n_scored} of {n_candidates} candidates, seed {arguments.seed}: "
            f"{arguments.metric} {score:.5f} with the sampler {arguments.sampler} on {len(excerpts)} excerpts "
            f"from {Path(arguments.filelist).name}, noise seed {arguments.noise_seed}, "
            f"network {Path(arguments.checkpoint).name} (sha256 {checkpoint})"
        )
        NoiseSchedule(betas, arguments.output.stem, source, arguments.sampler).save(arguments.output)

    journal = Journal(_journal_path(arguments), settings)
    bar = progress(n_candidates, "schedule")
    with closing(journal), bar, start_workers(partial(Scorer, measuring, arguments.sampler), arguments.jobs) as score:
        search = Search(journal, score, METRICS[arguments.metric], save, bar)
        try:
            losses = None
            with suppress(StopIteration):
                while True:
                    losses = search.losses(batches.send(losses))
        except (KeyboardInterrupt, SystemExit):
            best = f"the best so far is in {arguments.output}; " if search.best else ""
            bar.write(f"interrupted: {best}the same command goes on from here", file=sys.stderr)
            raise
    betas, score = search.finish()
    print(f"{arguments.output}: {arguments.metric} {score:.5f}, betas {' '.join(f'{beta:.6g}' for beta in betas)}")
    print(f"{search.n_scored} candidates of {len(excerpts)} excerpts and {arguments.steps} steps")
    return 0
