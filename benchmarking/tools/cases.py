"""`benchmark.py rtf --cases`: several networks side by side, each in one variant and with its own denoising steps."""

import re
import statistics

import numpy as np

from benchmarking.tools.excerpts import load_excerpts
from benchmarking.tools.tables import markdown_table, number
from benchmarking.tools.timing import Timed, any_schedule, machine, measure
from benchmarking.tools.variants import NAMES, make_variants, network_of, operations_per_sample, synthesis_of_graph
from common.errors import InputError
from model.mel.transform import LogMelSpectrogram
from model.schedule_text import find_schedule

HEADINGS = [
    *("network, variant, steps", "parameters (M)", "multiply-adds of a call for a second (G)", "frames of context on each side"),
    *("real-time factor", "standard deviation", "times as fast as the first"),
]
FACTS = ["parameters", "multiply_adds_per_second", "context_frames", "steps", "griffin_lim", "look_ahead", "gla_grad"]


def split_case(text):
    """The parts of a case: path of the network, variant, number of steps or noise schedule, and iterations of GLA-Grad."""
    match = re.fullmatch(r"([^:]+):([^:]+):(.+?)(?:\+([0-9]{1,4}))?", text)
    if not match or match[2] not in NAMES:
        raise InputError(f"{text}: no case (wanted: NETWORK:VARIANT:STEPS or NETWORK:VARIANT:STEPS+N, VARIANT one of {', '.join(NAMES)})")
    return match[1], match[2], match[3], int(match[4] or 0)


def case_schedule(steps):
    """The noise schedule of a case: any of so many steps, or the one that the text names."""
    return any_schedule(int(steps)) if steps.isdecimal() and int(steps) else find_schedule(steps)


def make_case(text, arguments, device):
    """The `Timed` of a case, and the facts about its network; a text that ends in `.onnx` is the graph of a whole synthesis."""
    if text.endswith(".onnx"):
        synthesize, graph = synthesis_of_graph(text, arguments.threads or 0)
        schedule, config, facts = any_schedule(graph.n_steps), graph.config, dict.fromkeys(FACTS) | {"steps": graph.n_steps}
    else:
        path, variant, steps, gla_grad = split_case(text)
        network, config = network_of(path, device)
        schedule = case_schedule(steps)
        [synthesize] = make_variants([variant], network, config, arguments, device, gla_grad).values()
        of_network = (
            sum(parameter.numel() for parameter in network.parameters()),
            operations_per_sample(network, config.mel.n_mels) * config.mel.sample_rate / 2,
            network.context_frames,
        )
        facts = dict(zip(FACTS, (*of_network, len(schedule), schedule.griffin_lim, schedule.look_ahead, gla_grad)))
    excerpts = load_excerpts(arguments.filelist, LogMelSpectrogram(config.mel), arguments.recordings, arguments.seconds)
    return Timed(synthesize, schedule, [[excerpt.mel] for excerpt in excerpts], config.mel), facts


def run_cases(arguments, device):
    """Compares networks, each with its own variant and steps; returns lines to show, and the same as JSON values."""
    made = {text: make_case(text, arguments, device) for text in dict.fromkeys(arguments.cases)}
    timings = measure({text: timed for text, (timed, _) in made.items()}, arguments.repeats, device)
    reference = next(iter(timings.values())).factors
    results = []
    for text, (_, facts) in made.items():
        factors = timings[text].factors
        times = {"real_time_factor": float(np.mean(factors)), "standard_deviation": float(np.std(factors)), "n_timings": len(factors)}
        speed_ratio = statistics.median(a / b for a, b in zip(reference, factors))
        results.append({"case": text} | facts | times | {"speed_ratio": speed_ratio})
    timed = next(iter(made.values()))[0]
    heading = f"{machine(device)}; {timed.total_duration():.1f} s of audio, {len(reference)} timings of each in turn"
    rows = [
        [
            *(result["case"], *(result[key] and f"{result[key] / unit:.2f}" for key, unit in zip(FACTS, (1e6, 1e9)))),
            *(result["context_frames"], number(result["real_time_factor"], 4), number(result["standard_deviation"], 4)),
            number(result["speed_ratio"], 1),
        ]
        for result in results
    ]
    return [heading, "", markdown_table(HEADINGS, rows)], {"machine": heading, "results": results}
