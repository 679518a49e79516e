"""Configuration: frozen, typed, and strict about unknown keys, missing keys and impossible values."""

import itertools
import math
import operator
from typing import Annotated, Literal, Optional, Union

from pydantic import AliasChoices, BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from common.errors import LARGEST_COUNT, LARGEST_SEED
from common.files import read_text
from common.validation import validating

PositiveInt = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Float = Annotated[float, Field(ge=-1e30, le=1e30)]  # float32 holds it
PositiveFloat = Annotated[float, Field(gt=0, le=1e30)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e30)]
Size = Annotated[int, Field(gt=0, le=1 << 17)]  # of an axis of a tensor, which has to fit into memory
Channels = Annotated[int, Field(gt=0, le=4096)]
EvenChannels = Annotated[Channels, Field(multiple_of=2)]  # the noise-level encoding has a sine and a cosine of each frequency


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MelConfig(_Section):
    """What a log-mel spectrogram is. The names are those of `torchaudio.transforms.MelSpectrogram`.

    Keys:
        power: exponent of the magnitude, 1 = magnitude, 2 = power.
        normalized: divide the spectrum by the root of the window's energy (lmnt-com/wavegrad).
        spectrum_offset: added to the power spectrum before anything else (1e-9 in jik876/hifi-gan).
        padding: "center", frame k is centred on sample k * hop_length; "same", on the middle of the k-th hop, as in
            jik876/hifi-gan. Either way there are as many frames as whole hops.
        pad_mode: what stands beyond the ends of the waveform: its reflection, or zeros ("constant").
        log: "ln", "log10", or "db": decibels, 20 log10 of a magnitude, 10 log10 of a power.
        clamp_min: the smallest value before the logarithm.
        clamp: "before" the logarithm, or "zero": only exact zeros are treated, after it, and become 0. The latter is what
            ivanvovk/WaveGrad did, kept to read its checkpoints.
        mean, std: the logarithm is normalised to (log - mean) / std.
        clip: the smallest and largest value after that; nothing is clipped where it is left out.
    """

    sample_rate: PositiveInt
    n_fft: Size
    win_length: Size
    hop_length: Size
    n_mels: Channels
    f_min: NonNegativeFloat
    f_max: PositiveFloat
    power: PositiveFloat = 2.0
    normalized: bool = False
    spectrum_offset: NonNegativeFloat = 0.0
    padding: Literal["center", "same"] = "center"
    pad_mode: Literal["reflect", "constant"] = "reflect"
    mel_scale: Literal["htk", "slaney"] = "htk"
    norm: Optional[Literal["slaney"]] = None
    log: Literal["ln", "log10", "db"] = "log10"
    clamp_min: PositiveFloat = 1e-10
    clamp: Literal["before", "zero"] = "before"
    mean: Float = 0.0
    std: PositiveFloat = 1.0
    clip: Optional[tuple[Float, Float]] = None

    @model_validator(mode="after")
    def _check(self):
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length is {self.win_length}, more than n_fft, which is {self.n_fft}")
        if self.hop_length > self.n_fft // 2:
            raise ValueError(f"hop_length is {self.hop_length}, more than half of n_fft, which is {self.n_fft}")
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min < f_max <= sample_rate / 2 is expected, found f_min {self.f_min:g}, f_max {self.f_max:g}, "
                f"sample_rate {self.sample_rate}"
            )
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip is [{self.clip[0]:g}, {self.clip[1]:g}] (expected: the smaller value first)")
        return self


class NetworkConfig(_Section):
    """The network's shape; channels and dilations are given for each block, in the order of the signal.

    Keys:
        factors: upsampling factor of each UBlock; their product, times `phases`, is the hop length. A block of factor 1 does not resample.
        downsampling_factors: downsampling factor of each DBlock, likewise. Every rate that a UBlock works at must be one
            that the DBlocks pass. Left out, it is the factors other than 1, reversed, without the last.
        interpolation: "linear" (the default) or "nearest" (lmnt-com/wavegrad).
        noise_level_scale: 5000 in the paper; 1 in lmnt-com/wavegrad.
        zero_output: start with the output convolution at zero, so that the network first predicts no noise.
        phases: signals that the waveform is split into; the network works at its rate divided by them. See `model.layers.split_phases`.
        prediction: what the layers predict: "noise", as in the paper, or "velocity"; see `extensions.velocity`.
        mel_mean, mel_std: the network works on (mel - mel_mean) / mel_std, for mels that are not normalised.
    """

    factors: tuple[Size, ...] = Field(min_length=1)
    upsampling_preconv_channels: Channels
    upsampling_channels: tuple[Channels, ...]
    upsampling_dilations: tuple[tuple[Size, Size, Size, Size], ...]
    downsampling_factors: Optional[tuple[Size, ...]] = None
    downsampling_preconv_channels: EvenChannels
    downsampling_channels: tuple[EvenChannels, ...]
    downsampling_dilations: tuple[Annotated[tuple[Size, ...], Field(min_length=1)], ...]
    interpolation: Literal["linear", "nearest"] = "linear"
    noise_level_scale: PositiveFloat = 5000.0
    zero_output: bool = False
    phases: Size = 1
    prediction: Literal["noise", "velocity"] = "noise"
    causal: Literal[False] = Field(exclude=True, default=False)  # of earlier versions
    mel_mean: Float = 0.0
    mel_std: PositiveFloat = 1.0

    @property
    def hop_length(self):
        return math.prod(self.factors) * self.phases

    @property
    def dblock_factors(self):
        if self.downsampling_factors is not None:
            return self.downsampling_factors
        return tuple(factor for factor in self.factors[::-1] if factor > 1)[:-1]

    @property
    def ublock_strides(self):
        """Samples of a phase per sample of each UBlock's output."""
        return [math.prod(self.factors[i + 1 :]) for i in range(len(self.factors))]

    @property
    def dblock_strides(self):
        """Samples of a phase per sample of the first convolution's output and of each DBlock's."""
        return list(itertools.accumulate(self.dblock_factors, operator.mul, initial=1))

    @model_validator(mode="after")
    def _check(self):
        for direction, factors in [("upsampling", self.factors), ("downsampling", self.dblock_factors)]:
            for key in (f"{direction}_channels", f"{direction}_dilations"):
                if len(getattr(self, key)) != len(factors):
                    raise ValueError(f"{key} has {len(getattr(self, key))} entries (expected: {len(factors)}, one for each of its factors)")
        missing = set(self.ublock_strides) - set(self.dblock_strides)
        if missing:
            raise ValueError(
                f"downsampling_factors {list(self.dblock_factors)} pass no rate of one in {min(missing)} samples, "
                f"which a UBlock of factors {list(self.factors)} works at"
            )
        channels_at = {}
        for stride, channels in zip(self.ublock_strides, self.upsampling_channels):
            if channels_at.setdefault(stride, channels) != channels:
                raise ValueError(
                    f"upsampling_channels {channels_at[stride]} and {channels} at one rate, which shares one FiLM (expected: equal)"
                )
        return self


class ScheduleConfig(_Section):
    """A noise schedule from `model.noise_schedule.BUILDERS`; the paper trains with linear(1000, 1e-6, 0.01)."""

    name: Literal["linear", "geometric", "quadratic"] = "linear"
    n_steps: Annotated[int, Field(gt=0, le=10_000_000)] = 1000
    start: float = Field(gt=0, lt=1, default=1e-6)
    stop: float = Field(gt=0, lt=1, default=0.01)


class EnergyPriorConfig(_Section):
    """The energy-based prior of PriorGrad (Lee et al., 2022); see `extensions.priorgrad`.

    Keys:
        kind: its key in `extensions.registry.PRIORS`.
        loudest: energy of a frame (root of the sum of its squared mel magnitudes) from which on the noise has unit variance.
        floor: the smallest standard deviation, that of silence; 0.1 in PriorGrad.
    """

    kind: Literal["energy"] = "energy"
    loudest: PositiveFloat
    floor: float = Field(gt=0, le=1, default=0.1)


class SpectralPriorConfig(_Section):
    """The prior in the shape of the mel, after SpecGrad (Koizumi et al., 2022); see `extensions.specgrad`.

    Keys:
        kind: as above.
        relative_floor: the smallest standard deviation of a band of the noise, relative to the loudest band of its frame.
        floor: the smallest of all, that of silence; 1 is full scale.
    """

    kind: Literal["spectral"]
    relative_floor: float = Field(gt=0, le=1)
    floor: float = Field(gt=0, le=1)


def _kind_of_prior(prior):
    """The tag of a prior, see `common.validation`."""
    return f"<{prior.get('kind', 'energy') if isinstance(prior, dict) else getattr(prior, 'kind', None)}>"


PriorConfig = Annotated[
    Union[Annotated[EnergyPriorConfig, Tag("<energy>")], Annotated[SpectralPriorConfig, Tag("<spectral>")]], Discriminator(_kind_of_prior)
]


class DataConfig(_Section):
    """Where the recordings are. Filelists are relative to the configuration file, or absolute.

    Keys:
        segment_frames: length of an example in mel frames.
        mix_to_mono, resample: see `common.audio.Conversions`.
        even_over_speakers: draw examples evenly over the speakers, who are named by the recordings' folders, so that one with two hours
            counts as one with two minutes; otherwise evenly over the recordings.
        low_pass_share: share of the training examples that lose what is above a random frequency; see `training.low_pass`.
        n_workers: processes that read examples beside each training process.
    """

    train_filelist: str
    validation_filelist: str
    segment_frames: PositiveInt
    mix_to_mono: bool = False
    resample: bool = False
    even_over_speakers: bool = False
    low_pass_share: float = Field(ge=0, le=1, default=0.0)
    n_workers: NonNegativeInt = 1


class AdversarialConfig(_Section):
    """Discriminators of what InferGrad's steps generate; see `extensions.infer_grad.adversarial`.

    Keys:
        adversarial_weight, feature_weight: of the two parts of the objective, beside the waveforms' distance.
        windows, periods: of the discriminators, in samples; see `extensions.infer_grad.discriminators`.
        channels: their width.
        learning_rate, gradient_clip: of their optimiser.

    Windows, periods and channels are the same in all stages; weights, learning rate and clip may differ.
    """

    adversarial_weight: PositiveFloat = 0.2
    feature_weight: NonNegativeFloat = 0.4
    windows: tuple[Annotated[int, Field(ge=4, le=1 << 17)], ...] = (1024, 512, 256)
    periods: tuple[Size, ...] = (2, 3, 5, 7)
    channels: Annotated[int, Field(gt=0, le=1024)] = 16
    learning_rate: PositiveFloat = 2e-4
    gradient_clip: PositiveFloat = 10.0

    @model_validator(mode="after")
    def _check(self):
        if not (self.windows or self.periods):
            raise ValueError("windows and periods are empty (expected: at least one discriminator)")
        return self

    @property
    def shortest_waveform(self):
        """Samples that the discriminators want: the spectra reflect half a window, and a period must be there once."""
        return max([window // 2 + 1 for window in self.windows] + list(self.periods))


class InferGradConfig(_Section):
    """InferGrad (Chen et al., 2022); see `extensions.infer_grad`.

    Keys:
        noise_schedule: file with the noise schedule of the denoising, relative to the configuration file; or a list of several, of which
            each step takes one at random.
        sampler: one of `model.samplers.SAMPLERS`; left out, the one that each schedule was made for.
        weight: of the waveforms' distance, beside the diffusion loss.
        pmsqe_weight: of `extensions.infer_grad.pmsqe` (PMSQE), which is added to the waveforms' spectral distance; 0: left out.
        from_step, every: it counts at each `every`th optimiser step, from `from_step` on.
        diffusion_every: the diffusion loss is added on every `diffusion_every`th InferGrad step.
        random_share: share of these steps that generate by a random schedule along the same curve of log-SNR instead, so
            that the network learns all noise levels, as sampling in many steps needs them.
        random_steps: the fewest and the most denoising steps of a random schedule.
        many_steps_sampler: in place of `sampler` where a schedule has `many_steps` or more; left out, there is no difference.
        gla_grad: iterations of GLA-Grad after the denoising: the distance is the mean of those before and after it,
            and discriminators judge what is after it; 0: left out.
        adversarial: left out without discriminators.
    """

    noise_schedule: Union[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    sampler: Optional[str] = None
    weight: PositiveFloat = 1.0
    pmsqe_weight: NonNegativeFloat = Field(default=0.0, validation_alias=AliasChoices("pmsqe_weight", "loudness_weight"))  # the old name
    from_step: NonNegativeInt = 0
    every: PositiveInt = 1
    diffusion_every: PositiveInt = 1
    random_share: float = Field(ge=0, le=1, default=0.0)
    random_steps: tuple[PositiveInt, PositiveInt] = (3, 9)
    many_steps: PositiveInt = 10
    many_steps_sampler: Optional[str] = None
    gla_grad: NonNegativeInt = 0
    adversarial: Optional[AdversarialConfig] = None

    @model_validator(mode="after")
    def _check(self):
        fewest, most = self.random_steps
        if not 2 <= fewest <= most:
            raise ValueError(f"random_steps is [{fewest}, {most}] (expected: the fewest, 2 or more, and the most)")
        return self

    def counts_at(self, step):
        return step >= self.from_step and (step - self.from_step) % self.every == 0

    def diffusion_counts_at(self, step):
        """Whether the diffusion loss counts too, at a step in which InferGrad does."""
        return (step - self.from_step) // self.every % self.diffusion_every == 0


class ObjectiveConfig(_Section):
    """What is trained for.

    Keys:
        name: its key in `extensions.registry.OBJECTIVES`.
        options: whatever the objective reads from here.
    """

    name: str
    options: dict[str, JsonValue] = {}


class StageConfig(_Section):
    """A stage of the training: how long it is, and what it changes in the section; keys that are left out are the section's.

    Keys:
        n_steps: optimiser steps of the stage.
        segment_frames: in place of `data.segment_frames`.
        infer_grad: false is none in this stage.
        others: as in `TrainingConfig`, for this stage.
    """

    n_steps: PositiveInt
    batch_size: Optional[PositiveInt] = None
    segment_frames: Optional[PositiveInt] = None
    learning_rate: Optional[PositiveFloat] = None
    final_learning_rate: Optional[PositiveFloat] = None
    warmup_steps: Optional[NonNegativeInt] = None
    gradient_clip: Optional[PositiveFloat] = None
    ema_decay: Optional[float] = Field(ge=0, lt=1, default=None)
    infer_grad: Optional[Union[Literal[False], InferGradConfig]] = None


class TrainingConfig(_Section):
    """How to train.

    Keys:
        batch_size: segments per optimiser step, over all processes.
        n_steps: optimiser steps in all; the learning rate has its final value there.
        learning_rate, final_learning_rate, warmup_steps: linear warm-up, then cosine decay.
        gradient_clip: largest gradient norm.
        ema_decay: of the averaged weights, reached gradually.
        precision: "fp32"; "bf16"; "fp16", on GPUs only.
        micro_batch_size: segments that a process has in memory at once; the gradient is accumulated over as many such
            portions as its share of the batch needs. All at once if absent.
        activation_checkpointing: spare memory by computing the blocks' insides a second time in the backward pass.
        compile: the network's training steps by `torch.compile`; on CPUs it needs a C++ compiler and takes minutes at the start.
        log_every, validate_every, save_every: steps between.
        keep_checkpoints: how many of the last checkpoints are kept; beside them the best by validation loss is, and one
            every `milestone_every` steps, if given.
        n_previews: validation recordings that are resynthesised at every validation, in six steps or as `infer_grad` trains it.
        on_failed_save: what to do when a checkpoint cannot be written (a full disk, say).
        skip_limit: updates with a non-finite loss or gradient are skipped; so many in a row are a divergence.
        explosion_factor: a median loss so many times its lowest value is a divergence.
        max_rollbacks: after a divergence, training goes on from the last good checkpoint with half the learning rate; it
            gives up at the next divergence after so many times.
        objective: left out for WaveGrad's own, or that of `infer_grad`.
        infer_grad: left out for WaveGrad's own objective.
        stages: left out where the whole run is one stage. Their steps add up to `n_steps`.
    """

    batch_size: PositiveInt
    n_steps: PositiveInt
    learning_rate: PositiveFloat
    final_learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt
    gradient_clip: PositiveFloat
    ema_decay: float = Field(ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"]
    seed: int = Field(ge=0, le=LARGEST_SEED)
    micro_batch_size: Optional[PositiveInt] = None
    activation_checkpointing: bool = False
    compile: bool = False
    log_every: PositiveInt = 50
    validate_every: PositiveInt = 1000
    save_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 3
    milestone_every: Optional[PositiveInt] = None
    n_previews: NonNegativeInt = 3
    on_failed_save: Literal["continue", "stop"] = "continue"
    skip_limit: PositiveInt = 20
    explosion_factor: float = Field(gt=1, default=3.0)
    max_rollbacks: NonNegativeInt = 3
    objective: Optional[ObjectiveConfig] = None
    infer_grad: Optional[InferGradConfig] = None
    stages: Optional[tuple[StageConfig, ...]] = Field(min_length=1, default=None)

    @model_validator(mode="after")
    def _check(self):
        total = sum(stage.n_steps for stage in self.stages or ())
        if self.stages and total != self.n_steps:
            raise ValueError(f"n_steps is {self.n_steps}, but the stages have {total} (expected: the same)")
        return self


class Config(_Section):
    """All of it. `prior` is left out for WaveGrad's own, the standard normal distribution."""

    mel: MelConfig
    network: NetworkConfig
    noise_schedule: ScheduleConfig
    prior: Optional[PriorConfig] = None
    data: DataConfig
    training: TrainingConfig

    @model_validator(mode="after")
    def _check(self):
        if self.network.hop_length != self.mel.hop_length:
            product = "product of network.factors" + " and network.phases" * (self.network.phases > 1)
            raise ValueError(f"the {product} is {self.network.hop_length}, but mel.hop_length is {self.mel.hop_length}")
        return self


def parse_config(text: str, origin) -> Config:
    """Reads a configuration from JSON text.

    Raises:
        InputError: one line that names `origin`, the key, what was found and what was expected.
    """
    with validating(origin):
        return Config.model_validate_json(text)


def load_config(path) -> Config:
    """Reads a configuration file.

    Raises:
        OSError: the file cannot be read.
        InputError: see `parse_config`.
    """
    return parse_config(read_text(path, "a configuration in JSON"), path)
