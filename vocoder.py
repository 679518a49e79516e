"""The vocoder as a Python object: mels in, waveforms out."""

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from common.audio import LOWEST_RATE, as_audio
from common.device import DTYPES, autocast, fastest_dtype, own_defaults, pick_device
from common.errors import LARGEST_COUNT, LARGEST_SEED, InputError, naming, shown
from common.resampling import resample
from extensions.interop.diagnosis import diagnose
from extensions.registry import build_network, make_pipeline, read_checkpoint
from extensions.streaming import SynthesisStream, push_all, push_together
from model.checkpoint import schedule_warnings
from model.config import Config
from model.mel import LogMelSpectrogram, MelStatistics, as_mel
from model.network import WaveGrad
from model.noise_schedule import NoiseSchedule, find_schedule

HIGHEST_RATE = 1_000_000  # Hz, of recordings
MOST_AT_FULL_SCALE = 0.25  # of the samples; mels in decibels give 0.4 to 0.9, speech at any level below 0.01


class _MelOfRecordings(LogMelSpectrogram):
    """A `LogMelSpectrogram` of what a caller has: samples that no recording has are an `InputError`."""

    def forward(self, waveform):
        return super().forward(as_audio(waveform))


class WaveformCheck:
    """Refuses a waveform that cannot be speech. The waveform comes piece by piece.

    Args:
        name: its name in messages.
        misfit: one line about why its mel cannot be on the network's scale, or None if it can; see `LogMelSpectrogram.misfit`.

    Attributes:
        n_clipped: number of samples at full scale.
    """

    def __init__(self, name, misfit: Optional[str] = None):
        self.name, self.misfit = name, misfit
        self.n_samples = self.n_clipped = 0

    def add(self, waveform: Tensor):
        """Checks the next piece, `[T]`.

        Raises:
            InputError: it holds NaN or infinity.
        """
        if not waveform.isfinite().all():
            raise InputError(f"{self.name}: the waveform holds NaN or infinity (expected: other weights, another schedule or sampler)")
        self.n_samples += len(waveform)
        self.n_clipped += int((waveform.abs() >= 1).sum())

    def finish(self):
        """Ends the waveform.

        Raises:
            InputError: much of the waveform is at full scale, and its mel cannot be on the network's scale.
        """
        share = self.n_clipped / max(self.n_samples, 1)
        if self.misfit and share > MOST_AT_FULL_SCALE:
            raise InputError(f"{self.name}: {share:.0%} of the waveform is at full scale, which is no speech; {self.misfit}")


def compiled(network: WaveGrad, device: torch.device):
    """A network for inference with `torch.compile`, for any length; on a CPU with frozen weights.

    The first calls take a minute or two.

    Raises:
        InputError: there is no C++ compiler, which a CPU needs.
    """
    if device.type == "cuda":
        return torch.compile(network, dynamic=True)  # without CUDA graphs, which would be recorded and kept for every length
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(f"--compile: {compiler} is not found (expected: a C++ compiler; Debian and Ubuntu: apt install g++)")
    return torch.compile(network, dynamic=True, options={"freezing": True})


def _whole(name, number, least, most=LARGEST_COUNT):
    """An integer of Python or NumPy, within its limits; True and False are none."""
    if isinstance(number, bool) or not (isinstance(number, (int, np.integer)) and least <= number <= most):
        raise InputError(f"{name} is {shown(number)} (expected: a whole number, {least} to {most})")
    return int(number)


class VocoderStream:
    """Vocodes a mel that arrives in pieces. The waveform is that of `Vocoder.synthesize`, up to rounding.

    Args:
        vocoder: a `Vocoder`.
        seed: of the noise.
    """

    @own_defaults()
    def __init__(self, vocoder: "Vocoder", seed: int = 0):
        self.vocoder, self._stream = vocoder, SynthesisStream(vocoder.pipeline, _whole("seed", seed, 0, LARGEST_SEED))

    @property
    def latency_frames(self) -> int:
        """Number of frames that must follow a frame before its waveform is returned."""
        return self._stream.latency_frames

    @property
    def latency_seconds(self) -> float:
        config = self.vocoder.mel_transform.config
        return self.latency_frames * config.hop_length / config.sample_rate

    def push(self, mel: Tensor, last: bool = False) -> Tensor:
        """Receives the next frames and returns the waveform that is complete with them; see `SynthesisStream.push`.

        Args:
            mel: `[n_mels, F]`, F from 0 on, on any device.
            last: these are the last frames.

        Returns:
            `[T]`, on the CPU.
        """
        mel = as_mel(mel, self.vocoder.mel_transform.config.n_mels, fewest_frames=0)
        return self.vocoder.push_together([self._stream], [mel], [last])[0]


class Vocoder:
    """A network with mel definition, schedule, sampler, device and precision: mels -> waveforms.

    Args:
        network: a `WaveGrad`.
        config: its configuration.
        schedule: the noise schedule.
        device: where to compute; None is a GPU if there is one.
        dtype: precision, float32, bfloat16 or float16; None is the fastest of the device.
        chunk_frames: mel frames that are vocoded at once. Memory grows with it; the result does not depend on it, up to rounding.
        sampler: one of `model.samplers.SAMPLERS`, or `ddim:ETA`; None is the one that the schedule was made for.
        gla_grad: iterations of GLA-Grad's correction of the result; 0 leaves it as it is. See `extensions.griffin_lim.gla_grad`.
        mel_statistics: of the network's training, if the checkpoint has them.
        compile: whether to compile the network; see `compiled`.
        starts: what sampling was trained to start from, if the checkpoint says so; see `model.checkpoint.Checkpoint`.

    Attributes:
        warnings: lines on why the schedule is not for the network; `load` gives them.

    Raises:
        InputError: dtype or chunk_frames has no such value, there is no such sampler or no compiler, or the mel is not for GLA-Grad
            or for the estimate of the schedule.
    """

    @own_defaults()
    def __init__(
        self,
        network: WaveGrad,
        config: Config,
        schedule: NoiseSchedule,
        device="cpu",
        dtype: Optional[torch.dtype] = None,
        chunk_frames: int = 400,
        sampler: Optional[str] = None,
        gla_grad: int = 0,
        mel_statistics: Optional[MelStatistics] = None,
        compile: bool = False,
        starts: Optional[str] = None,
    ):
        if dtype not in (None, *DTYPES.values()):
            raise InputError(f"dtype is {shown(dtype)} (expected: None, {', '.join(map(str, DTYPES.values()))})")
        self.device = pick_device(device if device is None else str(device))
        self.dtype = dtype or fastest_dtype(self.device)
        network = network.to(self.device)
        network = compiled(network, self.device) if compile else network
        self.config, self.schedule, self.gla_grad = config, schedule, _whole("gla_grad", gla_grad, 0)
        self.pipeline = make_pipeline(network, config, schedule, sampler and str(sampler), self.gla_grad).to(self.device)
        self.mel_transform = _MelOfRecordings(config.mel)
        self.chunk_frames = _whole("chunk_frames", chunk_frames, 1)
        self.mel_statistics = mel_statistics
        self.warnings = schedule_warnings(schedule, starts)

    @classmethod
    @own_defaults()
    def load(
        cls, checkpoint, schedule, steps: Optional[int] = None, repeat: Optional[int] = None, config: Optional[Config] = None, **options
    ) -> "Vocoder":
        """A vocoder from files.

        Args:
            checkpoint: path of the weights.
            schedule: path or text of the noise schedule; see `model.noise_schedule.find_schedule`.
            steps: number of denoising steps, along the curve of the schedule; None is its own.
            repeat: how often each beta of the schedule is taken; not with `steps`.
            config: a `Config` that the checkpoint must agree with.
            options: as in the constructor.

        Raises:
            OSError, InputError: a file or the schedule cannot be used.
        """
        schedule, content = find_schedule(schedule, steps, repeat), read_checkpoint(checkpoint, config)
        network, known = build_network(content, checkpoint), {"mel_statistics": content.mel_statistics, "starts": content.starts}
        vocoder = cls(network, content.config, schedule, **known, **options)
        for line in vocoder.warnings:
            warnings.warn(line, stacklevel=3)
        return vocoder

    def __repr__(self):
        config, steps = self.mel_transform.config, len(self.schedule)
        gla_grad = f", {self.gla_grad} iterations of GLA-Grad" if self.gla_grad else ""
        return (
            f"Vocoder: mel [{config.n_mels}, frames] or [B, {config.n_mels}, frames] -> waveform [frames * {config.hop_length}] at "
            f"{config.sample_rate:,} Hz; {steps} step{'s' * (steps > 1)}{gla_grad}, {str(self.dtype).removeprefix('torch.')}, {self.device}"
        )

    def __call__(self, mel: Tensor, seed: int = 0) -> Tensor:
        """`synthesize` for tensors: mel `[n_mels, frames]` -> `[T]`, or `[B, n_mels, frames]` -> `[B, T]`; T = frames * hop_length."""
        if getattr(mel, "is_nested", False) or getattr(mel, "ndim", 0) not in (2, 3) or len(mel) == 0:
            n_mels = self.mel_transform.config.n_mels
            raise InputError(f"mel is {shown(mel)} (expected: a tensor or array [{n_mels}, frames] or [B, {n_mels}, frames])")
        waveforms = self.synthesize(mel, seed)
        return torch.stack(waveforms) if mel.ndim == 3 else waveforms[0]

    @own_defaults()
    def resynthesize(self, waveform: Tensor, sample_rate: int, seed: int = 0) -> Tensor:
        """Copy synthesis: a recording -> its mel -> a waveform.

        Args:
            waveform: `[T]`, within [-1, 1], a tensor or a NumPy array.
            sample_rate: of the recording, in Hz; another one than the network's is converted, band-limited.
            seed: of the noise.

        Returns:
            `[T']` at the network's sample rate; T' is a multiple of the hop length.

        Raises:
            InputError: it is no recording, or too short; or there is no such sample rate.
        """
        sample_rate = _whole("sample_rate", sample_rate, LOWEST_RATE, HIGHEST_RATE)
        waveform = as_audio(waveform)
        if waveform.numel() != waveform.shape[-1]:
            raise InputError(f"the recording has shape {list(waveform.shape)} (expected: [T] or [1, T])")
        waveform = resample(waveform.flatten(), sample_rate, self.mel_transform.config.sample_rate)
        return self(self.mel_transform(waveform), seed)

    def open_stream(self, seed: int = 0) -> VocoderStream:
        """A `VocoderStream`, for a mel that arrives in pieces."""
        return VocoderStream(self, seed)

    def synthesize_stream(self, pieces: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        """Vocodes an iterable of mels `[n_mels, F]`, the pieces of one utterance; yields waveforms `[T]`, each as soon as complete."""
        return push_all(self.open_stream(seed), pieces)

    @own_defaults()
    def diagnose(self, mel: Tensor) -> Optional[str]:
        """One line about what looks wrong with a mel `[n_mels, frames]`, or None. Nothing is converted.

        Raises:
            InputError: as `model.mel.as_mel`.
        """
        return diagnose(as_mel(mel, self.mel_transform.config.n_mels).cpu(), self.mel_transform, self.mel_statistics)

    def stream(self, mels: Iterable[Tensor], seed: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Vocodes mels chunk by chunk, in memory that does not grow with their length.

        The waveform of each is the one that it has when it is vocoded alone.

        Args:
            mels: list of `[n_mels, frames]`, of any lengths; see `model.mel.as_mel`.
            seed: of the noise, which is the same for each of the mels.

        Yields:
            (i, waveform `[T]`, on the CPU): the next piece of the i-th mel's waveform.

        Raises:
            InputError: seed is out of range, or a mel does not fit the network; the message says which.
        """
        seed = _whole("seed", seed, 0, LARGEST_SEED)
        mels = [self._mel(mel, f"mels[{i}]") for i, mel in enumerate(mels)]
        with own_defaults():
            streams = [SynthesisStream(self.pipeline, seed) for _ in mels]
        chunks = [list(mel.split(self.chunk_frames, dim=1)) for mel in mels]
        for k in range(max(map(len, chunks), default=0)):
            open_ = [i for i in range(len(mels)) if k < len(chunks[i])]
            lasts = [k == len(chunks[i]) - 1 for i in open_]
            yield from zip(open_, self.push_together([streams[i] for i in open_], [chunks[i][k] for i in open_], lasts))

    @own_defaults()
    def push_together(self, streams: list[SynthesisStream], mels: list[Tensor], lasts: list[bool]) -> list[Tensor]:
        """`extensions.streaming.push_together` on the device and in the precision of the vocoder; the waveforms are on the CPU."""
        with autocast(self.device, self.dtype):
            waveforms = push_together(streams, [mel.to(self.device) for mel in mels], lasts)
        return [waveform.cpu().clone() for waveform in waveforms]  # a caller may change its volume in place

    def _mel(self, mel, name):
        if getattr(mel, "is_meta", False):
            raise InputError(f"{name}: mel is a meta tensor, which has no values (expected: real numbers)")
        with naming(name):
            return as_mel(mel, self.mel_transform.config.n_mels)

    @own_defaults()
    def synthesize(self, mels: Iterable[Tensor], seed: int = 0) -> list[Tensor]:
        """Vocodes mels. The waveform of each is the one that it has when it is vocoded alone. Warns if `diagnose` finds something.

        Args:
            mels: list of `[n_mels, frames]` of any lengths, or `[B, n_mels, frames]`, or one `[n_mels, frames]`; tensors or
                NumPy arrays of any precision.
            seed: of the noise, which is the same for each of the mels.

        Returns:
            list of `[frames * hop_length]` within [-1, 1], on the CPU.

        Raises:
            InputError: seed is out of range, a mel does not fit the network, or its waveform is no speech; the message says which.
        """
        is_one = getattr(mels, "ndim", 3) == 2
        mels = [mels] if is_one else list(mels)
        names = ["the mel"] if is_one else [f"mels[{i}]" for i in range(len(mels))]
        mels = [self._mel(mel, name) for name, mel in zip(names, mels)]
        pieces, checks = [[] for _ in mels], []
        for name, mel in zip(names, mels):
            if complaint := self.diagnose(mel):
                warnings.warn(f"{name}: {complaint}", stacklevel=3)
            checks.append(WaveformCheck(name, self.mel_transform.misfit(mel)))
        for i, piece in self.stream(mels, seed):
            checks[i].add(piece)
            pieces[i].append(piece)
        for check in checks:
            check.finish()
        return [torch.cat(of_one) for of_one in pieces]
