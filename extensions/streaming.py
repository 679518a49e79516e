"""Streaming: synthesis of any length in constant memory, without another result. Each diffusion step is a stage for the frames.

The network is convolutional: a frame of its prediction depends on a few frames before and after it (`WaveGrad.context_frames`). So step n
can denoise a frame as soon as step n + 1 has denoised the frames around it, and keeps only these. The result is that of denoising the whole
at once, up to rounding, which grows with each step: 1e-13 in float64 and 1e-5 to 4e-4 in float32. The other parts of the
`model.pipeline.Pipeline` are stages before and after the steps.
"""

from collections import defaultdict

import torch

from model.diffusion import predict_y_0
from model.mel import as_mel


class FrameNoise:
    """Standard normal noise of one step, drawn frame by frame, so that it does not depend on how frames are grouped."""

    def __init__(self, seed, n, hop_length):
        self.generator = torch.Generator("cpu").manual_seed((seed << 16) + n)
        self.hop_length = hop_length

    def draw(self, n_frames):
        """The noise of the next `n_frames` frames, `[n_frames * hop_length]`."""
        noise = torch.empty(n_frames, self.hop_length, dtype=torch.float32, device="cpu")
        for of_frame in noise:
            of_frame.normal_(generator=self.generator)
        return noise.flatten()


class _Stage:
    """Receives frames, returns as many frames later, and keeps the frames that later ones depend on.

    Args:
        context: number of frames before a frame that it depends on.
        look_ahead: number of frames after it; None is as many.
    """

    def __init__(self, context, hop_length, look_ahead=None):
        self.context, self.hop_length = context, hop_length
        self.look_ahead = context if look_ahead is None else look_ahead
        self.first = self.done = self.end = 0  # frames: kept from, denoised up to, received up to
        self.mel = self.y = self.last_y_0 = None
        self.closed = False

    def receive(self, mel, y, last_y_0, last):
        """Receives the next frames: mel `[n_mels, F]`, y and the last estimate of y_0 `[F * hop_length]`; `last`: these are the last."""
        self.closed = last
        self.end += mel.shape[1]
        if self.mel is not None:
            mel, y = torch.cat([self.mel, mel], 1), torch.cat([self.y, y])
            last_y_0 = None if last_y_0 is None else torch.cat([self.last_y_0, last_y_0])
        self.mel, self.y, self.last_y_0 = mel, y, last_y_0

    def ready(self):
        """Number of frames from the start whose result can be computed now."""
        return self.end if self.closed else max(self.end - self.look_ahead, self.done)

    def new(self):
        """Slices of the kept frames, and of their samples, whose result can be computed now."""
        frames = slice(self.done - self.first, self.ready() - self.first)
        return frames, slice(frames.start * self.hop_length, frames.stop * self.hop_length)

    def advance(self):
        """Counts the `new` frames as done, and drops the frames that no later frame depends on."""
        self.done = self.ready()
        drop = max(self.done - self.context, 0) - self.first
        self.first += drop
        self.mel, self.y = self.mel[:, drop:], self.y[drop * self.hop_length :]
        if self.last_y_0 is not None:
            self.last_y_0 = self.last_y_0[drop * self.hop_length :]


class _DiffusionStep(_Stage):
    """Diffusion step n: receives frames of y_n, returns frames of y_{n-1}, whitened."""

    def __init__(self, n, pipeline, noise):
        # y_0 is kept within the prior's limit, which depends on other frames too.
        super().__init__(max(pipeline.network.context_frames, pipeline.prior.context_frames), pipeline.network.hop_length)
        self.n, self.pipeline, self.noise = n, pipeline, noise

    def give(self, y_0):
        """Prediction of y_0 in the kept frames -> mel, y_{n-1} and prediction of the frames that are now done."""
        frames, new = self.new()
        last_y_0 = None if self.last_y_0 is None else self.last_y_0[new]
        mel, y_n, y_0 = self.mel[:, frames], self.y[new], y_0[new]
        y = self.pipeline.step(
            self.pipeline.schedule, self.n, y_n, y_0, last_y_0, lambda: self.noise.draw(frames.stop - frames.start).to(y_n)
        )
        self.advance()
        return mel, y, y_0


class _Part(_Stage):
    """Receives frames of a waveform, returns the same frames of what a part of the pipeline makes of them."""

    def __init__(self, part, hop_length):
        super().__init__(part.context_frames, hop_length)
        self.part = part

    def push(self, mel, y, last):
        self.receive(mel, y, None, last)
        frames, new = self.new()
        mel, y = self.mel[:, frames], self.y[new]
        if frames.stop > frames.start:
            y = self.part(self.y[None], self.mel[None])[0, new]
        self.advance()
        return mel, y


class _FrameByFrame(_Stage):
    """A part that has a state of its own from frame to frame."""

    def __init__(self, part, hop_length):
        self.state = part.begin()
        super().__init__(0, hop_length, self.state.latency_frames)

    def push(self, mel, y, last):
        self.receive(mel, y, None, last)
        y = self.state.push(y[None], mel[None], last)[0]
        frames = self.mel[:, : len(y) // self.hop_length]
        self.advance()
        return frames, y


class SynthesisStream:
    """Vocodes a mel that arrives in pieces.

    Args:
        pipeline: a `model.pipeline.Pipeline`. A part with the method `begin` is made frame by frame: `begin()` is its state, with
            `push(y, mel, last)` and `latency_frames`.
        seed: of the noise.
    """

    def __init__(self, pipeline, seed=0):
        self.pipeline, self.interrupted = pipeline, False
        n_steps, hop_length = len(pipeline.schedule), pipeline.network.hop_length
        noises = [FrameNoise(seed, n, hop_length) for n in range(n_steps + 1)]
        self.start_noise = noises[n_steps]  # y_N; the noise of step n is that of y_{n-1}
        self.before, self.after = (
            [(_FrameByFrame if hasattr(part, "begin") else _Part)(part, hop_length) for part in parts]
            for parts in (pipeline.before, pipeline.after)
        )
        self.steps = [_DiffusionStep(n, pipeline, noises[n - 1]) for n in range(n_steps, 0, -1)]

    @property
    def latency_frames(self):
        """Number of frames that must follow a frame before its waveform is returned."""
        return sum(stage.look_ahead for stage in [*self.before, *self.steps, *self.after])

    def push(self, mel, last=False):
        """Receives the next frames and returns the waveform that is complete with them.

        Args:
            mel: `[n_mels, F]`, F from 0 on, on the network's device; see `model.mel.as_mel`.
            last: these are the last frames; the rest of the waveform is returned.

        Returns:
            waveform, `[T]`, within [-1, 1]; T is a multiple of the hop length, and may be 0.

        Raises:
            InputError: it is no mel, or has another number of bands than the network.
            RuntimeError: the last frames were pushed before, or a push was interrupted.
        """
        return push_together([self], [as_mel(mel, self.pipeline.network.n_mels, fewest_frames=0)], [last])[0]


@torch.inference_mode()
def push_together(streams, mels, lasts):
    """`SynthesisStream.push` for several streams. One network call serves all streams that hold the same number of frames.

    Each stream returns the waveform that it would return alone.

    Args:
        streams: list of `SynthesisStream`, of one pipeline.
        mels: the next frames of each, `[n_mels, F]`.
        lasts: for each, whether these are the last frames.

    Returns:
        the waveform of each, `[T]`.

    Raises:
        RuntimeError: the last frames of a stream were pushed before, or a push was interrupted.
    """
    if any((stream.before or stream.steps)[0].closed for stream in streams):
        raise RuntimeError("the stream has ended")
    if any(stream.interrupted for stream in streams):
        raise RuntimeError("an earlier push was interrupted, so the stream cannot go on (expected: a new stream)")
    for stream in streams:
        stream.interrupted = True  # until the end: some stages may have taken the frames, and others not
    waveforms = _push_together(streams, mels, lasts)
    for stream in streams:
        stream.interrupted = False
    return waveforms


def _push_together(streams, mels, lasts):
    pipeline = streams[0].pipeline
    noises = [stream.start_noise.draw(mel.shape[1]).to(mel) for stream, mel in zip(streams, mels)]
    pieces = _through([stream.before for stream in streams], zip(mels, noises), lasts)
    pieces = [(mel, y, None) for mel, y in pieces]
    for steps in zip(*(stream.steps for stream in streams)):
        for step, piece, last in zip(steps, pieces, lasts):
            step.receive(*piece, last)
        pieces = [(step.mel[:, :0], step.y[:0], step.y[:0]) for step in steps]
        by_length = defaultdict(list)
        for i, step in enumerate(steps):
            if step.ready() > step.done:
                by_length[step.mel.shape[1]].append(i)
        for group in by_length.values():
            y, mel = torch.stack([steps[i].y for i in group]), torch.stack([steps[i].mel for i in group])
            for i, y_0 in zip(group, predict_y_0(pipeline.network, y, mel, pipeline.schedule, steps[0].n, pipeline.prior.limit(mel))):
                pieces[i] = steps[i].give(y_0)
    pieces = _through([stream.after for stream in streams], ((mel, y) for mel, y, _ in pieces), lasts)
    return [y for _, y in pieces]


def _through(stages, pieces, lasts):
    """Pushes a piece of each stream, mel and y, through the stages of that stream; returns what comes out of each."""
    for of_streams in zip(*stages):
        pieces = [stage.push(*piece, last) for stage, piece, last in zip(of_streams, pieces, lasts)]
    return list(pieces)


def push_all(stream, pieces):
    """Pushes mels `[n_mels, F]`, the pieces of one utterance, into a stream, and yields the waveforms `[T]` that it returns."""
    mel = None
    for mel in pieces:
        yield stream.push(mel)
    if mel is not None:
        yield stream.push(mel[..., :0], last=True)
