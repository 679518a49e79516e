"""`benchmark.py search`: finds the noise schedule of a number of steps that scores best with a network."""

import math
import sys
from functools import partial
from pathlib import Path

from benchmarking.candidates import FINAL_NOISE_LEVEL, ScheduleCurves, default_ladder, grid_candidates, propose
from benchmarking.excerpts import file_digest, listed
from benchmarking.measuring import Measuring, System, measurer_of, score
from benchmarking.metrics import METRICS
from benchmarking.results import Results, progress
from benchmarking.workers import default_jobs, in_processes
from common.errors import InputError, positive_float, positive_int, seed_int
from common.files import check_not_input
from model.noise_schedule import NoiseSchedule, find_schedule, split_text
from model.samplers import find_sampler, sampler_name

METHODS = ["tpe", "grid"]


def _candidates(text):
    """`type=` of --candidates: a number, or None for all."""
    return None if text == "all" else positive_int(text)


def add_arguments(parser):
    parser.add_argument("-ch", "--checkpoint", required=True, help="network to find a schedule for")
    parser.add_argument("-o", "--output", type=Path, required=True, help="schedule file to write (.json); the journal is written beside it")
    parser.add_argument("--filelist", required=True, help="recordings to tune on: training or validation, never test")
    parser.add_argument("--steps", type=positive_int, required=True, help="number of denoising steps")
    parser.add_argument("--method", choices=METHODS, default="tpe", help="(default: %(default)s)")
    parser.add_argument("--candidates", type=_candidates, default=200, help="schedules to score, or 'all' of a grid (default: %(default)s)")
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


def _check(arguments, journal):
    if arguments.output.suffix != ".json" or arguments.output.is_dir():
        raise InputError(f"{arguments.output}: cannot be written (expected: the name of a .json file)")
    start = split_text(arguments.start)[0] if arguments.start else None
    check_not_input(arguments.output, [start, arguments.checkpoint, arguments.filelist])
    if arguments.output.exists() and not journal.exists():
        raise InputError(f"{arguments.output}: is there already, and not of this search: {journal} is missing (expected: another --output)")
    levels = arguments.final_noise_level
    if levels is not None and not 0.001 <= levels[0] < levels[1] <= 0.999:
        raise InputError(f"--final_noise_level is {levels[0]:g} {levels[1]:g} (expected: two rising numbers, .001 to .999)")


def _method(arguments):
    """The search that the arguments ask for, a function of `Search.losses`, and its number of candidates."""
    if arguments.method == "grid":
        if arguments.start:
            raise InputError("--start is for tpe, a grid has no start")
        ladder = default_ladder(arguments.steps) if arguments.ladder is None else arguments.ladder
        if len(ladder) != arguments.steps:
            raise InputError(f"--ladder has {len(ladder)} values (expected: {arguments.steps}, one a step)")
        limits = arguments.non_decreasing, arguments.final_noise_level
        candidates = grid_candidates(ladder, arguments.candidates, arguments.seed, *limits)
        return lambda losses: losses(candidates.tolist()), len(candidates)
    if arguments.candidates is None or arguments.ladder is not None or arguments.non_decreasing:
        raise InputError("--candidates all, --ladder and --non_decreasing are for the grid, not for tpe")
    if arguments.knots < 2:
        raise InputError(f"--knots is {arguments.knots} (expected: 2 or more)")
    curves = ScheduleCurves(arguments.steps, arguments.knots, arguments.final_noise_level or FINAL_NOISE_LEVEL)
    start = curves.point(find_schedule(arguments.start)) if arguments.start else curves.middle
    return partial(propose, curves, start, arguments.seed, arguments.candidates), arguments.candidates


def _check_recordings(measurer, filelist):
    """Refuses recordings that have no value themselves, as no waveform will have one beside them."""
    [name], excerpts = measurer.measuring.metrics, measurer.excerpts
    values = [measurer.figures(excerpt.waveform, index)[name] for index, excerpt in enumerate(excerpts)]
    if silent := [excerpt.name for excerpt, value in zip(excerpts, values) if value is None]:
        raise InputError(
            f"{filelist}: {METRICS[name].label} has no value for {len(silent)} of {len(excerpts)} excerpts, too short or silent: "
            f"{listed(silent)} (expected: other recordings, more --seconds, or another --metric)"
        )


class Search:
    """Scores candidates, and writes the best schedule so far to a file. What the journal knows is not scored again.

    Attributes:
        n_scored: number of candidates so far.
        best: (loss, betas, score), the lowest loss first; None before there is one.
    """

    def __init__(self, arguments, measurer, results, bar):
        self.arguments, self.measurer, self.results, self.bar = arguments, measurer, results, bar
        self.n_scored, self.best = 0, None

    def losses(self, candidates):
        """Losses of a list of betas, lower is better: the scores, or their negatives; infinity where there is no score."""
        source = self.measurer.source, self.arguments.sampler
        unknown = (betas for betas in dict.fromkeys(map(tuple, candidates)) if self.results.get(*source, betas) is None)
        tasks = ((self.measurer.measuring, System("", "", NoiseSchedule(betas), self.arguments.sampler)) for betas in unknown)
        scores = in_processes(score, tasks, self.arguments.jobs)
        losses = []
        for betas in candidates:
            if self.results.get(*source, betas) is None:
                self.results.add({"betas": betas, "score": next(scores)}, *source, betas)
            losses.append(self._note(betas, self.results.get(*source, betas)["score"]))
        return losses

    def _note(self, betas, found):
        self.n_scored += 1
        self.bar.update()
        metric = METRICS[self.arguments.metric]
        loss = math.inf if found is None else -found if metric.higher_is_better else found
        if found is not None and (self.best is None or loss < self.best[0]):
            self.best = loss, betas, found
            self.save()
            self.bar.set_postfix_str(f"best {metric.label} {found:.4f}")
        return loss

    def save(self):
        """Writes the best schedule, with how it was found."""
        arguments, (_, betas, found) = self.arguments, self.best
        source = (
            f"{arguments.method} search, {self.n_scored} of {self.bar.total} candidates, seed {arguments.seed}: "
            f"{arguments.metric} {found:.5f} with the sampler {arguments.sampler} on {len(self.measurer.excerpts)} excerpts "
            f"from {Path(arguments.filelist).name}, noise seed {arguments.noise_seed}, "
            f"network {Path(arguments.checkpoint).name} (sha256 {file_digest(arguments.checkpoint)})"
        )
        NoiseSchedule(betas, arguments.output.stem, source, arguments.sampler).save(arguments.output)


def run(arguments):
    journal = arguments.output.with_suffix(".journal.jsonl")
    _check(arguments, journal)
    arguments.sampler = sampler_name(find_schedule(arguments.start) if arguments.start else None, arguments.sampler)
    find_sampler(arguments.sampler)
    limits = arguments.recordings, arguments.seconds
    method, n_candidates = _method(arguments)
    measurer = measurer_of(Measuring(arguments.checkpoint, arguments.filelist, *limits, (arguments.metric,), arguments.noise_seed))
    _check_recordings(measurer, arguments.filelist)
    results = Results(journal)
    with progress(n_candidates, "schedule") as bar:
        search = Search(arguments, measurer, results, bar)
        try:
            method(search.losses)
        except (KeyboardInterrupt, SystemExit):
            best = f"the best so far is in {arguments.output}; " if search.best else ""
            bar.write(f"interrupted: {best}the same command goes on from here", file=sys.stderr)
            raise
    if search.best is None:
        raise InputError("no candidate has a score: the metric has no value for these recordings")
    search.save()
    _, betas, found = search.best
    print(f"{arguments.output}: {arguments.metric} {found:.5f}, betas {' '.join(f'{beta:.6g}' for beta in betas)}")
    print(f"{search.n_scored} candidates of {len(measurer.excerpts)} excerpts and {arguments.steps} steps")
    return 0
