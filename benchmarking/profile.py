"""`benchmark.py profile`: where the time of one network call goes, by operation and by convolution."""

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.tools.tables import markdown_table, number
from benchmarking.tools.timing import device_name, matmul_peak
from common.device import DTYPES, autocast, synchronized_time
from common.errors import positive_int
from model.config import load_config
from model.fast_layers import Conv1d
from model.network import new_network

WARM_UP_CALLS = 2


def time_convolutions(call, network, device, repeats):
    """Times each `Conv1d` of a network by itself.

    Returns:
        name -> (module, input shape, output shape, bytes of one element, least seconds of any call), in order of execution.
    """
    found, started = {}, {}

    def before(name):
        def hook(module, arguments):
            started[name] = synchronized_time(device)

        return hook

    def after(name):
        def hook(module, arguments, output):
            seconds = synchronized_time(device) - started[name]
            least = min(seconds, found[name][-1]) if name in found else seconds
            found[name] = module, arguments[0].shape, output.shape, output.element_size(), least

        return hook

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, Conv1d):
            hooks += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    for _ in range(repeats):
        call()
    for hook in hooks:
        hook.remove()
    return found


def convolution_table(found, flops, n_samples, peak):
    """Markdown table: multiply-adds and bytes (input, output and weights, each once) per sample of audio."""
    whole = sum(seconds for *_, seconds in found.values())
    rows = []
    for name, (module, input_shape, output_shape, element_size, seconds) in found.items():
        multiply_adds = sum(flops[f"WaveGrad.{name}"].values()) / 2
        n_bytes = element_size * (input_shape.numel() + output_shape.numel() + module.weight.numel())
        gflops = 2 * multiply_adds / seconds / 1e9
        shape = f"{module.in_channels} → {module.out_channels}, {module.kernel_size[1]} taps"
        per_sample = number(multiply_adds / n_samples / 1e3, 2), number(n_bytes / n_samples, 0)
        share = f"{seconds / whole:.1%}"
        rows.append([name, shape, output_shape[-1], *per_sample, share, number(gflops, 0), f"{gflops * 1e9 / peak:.0%}"])
    headings = ["convolution", "channels", "length", "thousand multiply-adds", "bytes", "time", "GFLOP/s", "of the peak"]
    return markdown_table(headings, rows)


def operation_table(call, repeats):
    """Markdown table of the operations that take at least 1 % of the time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            call()
    events = profiler.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    rows = [
        [event.key, event.count // repeats, f"{event.self_cpu_time_total / whole:.1%}"]
        for event in sorted(events, key=lambda event: -event.self_cpu_time_total)
        if event.self_cpu_time_total > 0.01 * whole
    ]
    return markdown_table(["operation", "calls", "time"], rows)


def add_arguments(parser):
    parser.add_argument("-c", "--config", default="configs/default.json", help="configuration (default: %(default)s)")
    parser.add_argument("--frames", type=positive_int, default=200, help="mel frames of the call (default: %(default)s)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="calls, of which the fastest counts (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: %(default)s)")


def run(arguments):
    """Prints the tables; returns an exit status.

    Raises:
        OSError, InputError: the configuration cannot be used.
    """
    config, dtype, device = load_config(arguments.config), DTYPES[arguments.dtype], torch.device("cpu")
    network = new_network(config).eval().requires_grad_(False)
    n_samples = arguments.frames * network.hop_length
    y, mel = torch.randn(1, n_samples), torch.randn(1, config.mel.n_mels, arguments.frames)

    @torch.inference_mode()
    def call():
        with autocast(device, dtype):
            network(y, mel, torch.full((1,), 0.5, dtype=torch.float64))

    for _ in range(WARM_UP_CALLS):
        call()
    start = synchronized_time(device)
    for _ in range(arguments.repeats):
        call()
    seconds = (synchronized_time(device) - start) / arguments.repeats
    peak = matmul_peak(device, dtype)
    found = time_convolutions(call, network, device, arguments.repeats)
    print(
        f"{arguments.config}, one call of {arguments.frames} frames in {seconds:.3f} s: {device_name(device)}, "
        f"{torch.get_num_threads()} CPU threads, {arguments.dtype}, peak {peak / 1e9:.0f} GFLOP/s\n"
    )
    print(operation_table(call, arguments.repeats))
    with FlopCounterMode(display=False) as counter:
        call()
    print(convolution_table(found, counter.get_flop_counts(), n_samples, peak))
    return 0
