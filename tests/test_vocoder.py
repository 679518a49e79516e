"""The vocoder as a Python object: what a caller may hand to it, and waveforms that cannot be speech."""

import contextlib

import numpy as np
import pytest
import torch

from common.errors import InputError
from model.checkpoint import save_weights
from model.noise_schedule import linear
from vocoder import Vocoder, WaveformCheck

MEL = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) * 4 - 6


@pytest.fixture
def vocoder(tiny_network, tiny_config):
    return Vocoder(tiny_network, tiny_config, linear(3, 1e-3, 0.6))


def test_loading_warns_of_a_schedule_of_the_other_kind(tmp_path, tiny_network, tiny_config):
    save_weights(tiny_network, tiny_config, tmp_path / "w.safetensors", starts="estimate")
    with pytest.warns(UserWarning, match="starts from noise, and the weights were not trained for that"):
        assert Vocoder.load(tmp_path / "w.safetensors", "linear:3:0.001:0.6").warnings


@pytest.mark.parametrize("dtype, device", [(torch.float64, "cpu"), (torch.float32, "meta"), (torch.float64, "meta")])
def test_other_defaults_of_the_program_change_nothing(tmp_path, tiny_network, tiny_config, dtype, device):
    """Fails if a tensor is made without its dtype or device, or if the defaults are not the program's own again."""
    save_weights(tiny_network, tiny_config, tmp_path / "w.safetensors")
    speech = np.random.default_rng(0).standard_normal(4000) * 0.1

    def results():
        vocoder = Vocoder.load(tmp_path / "w.safetensors", "linear:3:0.001:0.6", gla_grad=1)
        pieces = vocoder.synthesize_stream([MEL[:, :5], MEL[:, 5:]])
        return [vocoder(MEL, seed=3), vocoder.resynthesize(speech, 8000), *pieces, *(piece for _, piece in vocoder.stream([MEL]))]

    expected, before = results(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            found = results()
            assert torch.empty(0).device.type == device and torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"device": "gpu"}, "--device: 'gpu'"),
        ({"device": 7}, "--device: '7'"),
        ({"chunk_frames": True}, "chunk_frames is True"),
        ({"chunk_frames": 0}, "chunk_frames is 0"),
        ({"chunk_frames": 2.5}, "chunk_frames is 2.5"),
        ({"chunk_frames": 10**30}, "chunk_frames is 1000"),
        ({"gla_grad": "2"}, "gla_grad is '2'"),
        ({"sampler": 5}, "sampler '5'"),
        ({"dtype": "float32"}, "dtype is 'float32'"),
        ({"dtype": torch.int8}, "dtype is torch.int8"),
    ],
)
def test_what_is_no_option_is_one_clear_error(tiny_network, tiny_config, options, words):
    with pytest.raises(InputError, match=words):
        Vocoder(tiny_network, tiny_config, linear(3, 1e-3, 0.6), **options)


def test_mels_of_any_kind_give_the_same(vocoder):
    [expected] = vocoder.synthesize([MEL])
    lists = [[MEL], [MEL.numpy()], [MEL[None].numpy()]]
    for mels in (*lists, MEL, MEL[None], MEL.numpy(), MEL.double(), MEL[None].numpy().astype(">f8"), MEL.numpy()[:, ::-1].copy()[:, ::-1]):
        assert torch.equal(vocoder.synthesize(mels, np.int64(0))[0], expected)
    assert torch.equal(vocoder(MEL), expected) and torch.equal(vocoder(MEL.numpy()), expected)
    assert len(vocoder.synthesize([MEL.half()])[0]) == len(vocoder.synthesize(torch.stack([MEL, MEL]).bfloat16())[1]) == 360
    assert vocoder.synthesize([]) == [] and vocoder(torch.stack([MEL, MEL])).shape == (2, 360)


@pytest.mark.parametrize(
    "mel, words",
    [
        (MEL.T, r"mel has shape \[9, 20\] .*frames along the first axis"),
        (MEL[:7], r"mel has shape \[7, 9\]"),
        (MEL * torch.nan, "mel holds NaN"),
        (MEL.tolist(), "mel is a list"),
        (np.ma.masked_greater(MEL.numpy(), 0), "mel is a MaskedArray"),
        (MEL.to("meta"), "mel"),
        (torch.empty(20, 9, dtype=torch.quint4x2), "mel"),
        (torch.nested.nested_tensor([MEL, MEL[:, :4]]), "mel"),
        (MEL[0], "mel"),
        (torch.empty(0, 20, 9), "mel"),
        (None, "mel is a NoneType"),
    ],
)
def test_what_is_no_mel_is_one_clear_error(vocoder, mel, words):
    for use in (vocoder.synthesize, lambda mels: list(vocoder.stream(mels))):
        with pytest.raises(InputError, match=rf"mels\[1\]: {words}"):
            use([MEL, mel])
    with pytest.raises(InputError, match="mel"):
        vocoder(mel)
    for use in () if getattr(mel, "is_meta", False) else (vocoder.diagnose, vocoder.open_stream().push):
        with pytest.raises(InputError, match=words):
            use(mel)


@pytest.mark.parametrize("mel", [MEL[0], MEL.tolist(), [MEL], torch.empty(0, 20, 9), None])
def test_a_call_takes_one_mel_or_a_batch(vocoder, mel):
    with pytest.raises(InputError, match=r"mel is .*expected: a tensor or array \[20, frames\] or \[B, 20, frames\]"):
        vocoder(mel)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, None])
def test_seeds_that_cannot_be_are_one_clear_error(vocoder, seed):
    for use in (vocoder.open_stream, lambda seed: vocoder.synthesize([MEL], seed)):
        with pytest.raises(InputError, match="seed is "):
            use(seed)


def test_it_says_what_it_takes_and_gives(tiny_checkpoint):
    described = "Vocoder: mel [20, frames] or [B, 20, frames] -> waveform [frames * 40] at 8,000 Hz; 5 steps, "
    assert repr(Vocoder.load(tiny_checkpoint, "linear:3:1e-3:0.6", steps=5)).startswith(described)
    with pytest.raises(InputError, match="linear:3:1e-3:0.6: number of steps is 2.5"):
        Vocoder.load(tiny_checkpoint, "linear:3:1e-3:0.6", steps=2.5)


def test_the_diagnosis_is_that_of_the_command_line(vocoder):
    assert vocoder.diagnose(MEL.numpy()) is None
    with pytest.warns(UserWarning, match=r"mels\[0\]: .*cannot be on the model's mel scale"), pytest.raises(InputError):
        vocoder.synthesize([MEL + 20])
    with pytest.warns(UserWarning, match=r"^the mel: .*cannot be on the model's mel scale"), pytest.raises(InputError, match="^the mel: "):
        vocoder(MEL + 20)  # where there is one mel, no list is spoken of
    assert "mel scale" in vocoder.diagnose((MEL + 20).numpy())


def test_weights_with_nan_give_an_error(vocoder):
    with torch.no_grad():
        vocoder.pipeline.network.output_conv.bias.fill_(torch.nan)
    with pytest.raises(InputError, match=r"mels\[0\]: the waveform holds NaN"):
        vocoder.synthesize([MEL])


def test_a_waveform_at_full_scale_is_an_error_where_its_mel_is_on_no_scale():
    loud = torch.tensor([1.0] * 30 + [0.5] * 70)
    refusal = pytest.raises(InputError, match="a.npy: 30% of the waveform is at full scale, .*values from 3 to 90")
    for misfit, outcome in [("values from 3 to 90 cannot be", refusal), (None, contextlib.nullcontext())]:
        check = WaveformCheck("a.npy", misfit)
        check.add(loud)
        assert check.n_clipped == 30
        with outcome:
            check.finish()


def test_resynthesis_is_that_of_the_recordings_mel(vocoder):
    """Fails if another rate is taken for the network's."""
    recording = 0.1 * torch.randn(1600, generator=torch.Generator().manual_seed(0))
    expected = vocoder(vocoder.mel_transform(recording))
    assert torch.equal(vocoder.resynthesize(recording, 8000), expected)
    assert torch.equal(vocoder.resynthesize(recording[None].double().numpy(), 8000), expected)
    assert torch.equal(vocoder.resynthesize(recording.numpy().astype(">f4"), 8000), expected)
    assert len(vocoder.resynthesize(recording, np.int32(16000))) == len(expected) // 2
    for sample_rate in (None, "8000", 0, -1, True, 8000.0, 10**9):
        with pytest.raises(InputError, match="sample_rate is .* .expected: a whole number, 1000 to"):
            vocoder.resynthesize(recording, sample_rate)
    with pytest.raises(InputError, match="recording has shape"):
        vocoder.resynthesize(torch.zeros(2, 900), 8000)
    for audio, words in [
        (torch.zeros(0), "shape"),
        (recording * 32768, "within"),
        (recording.numpy() * np.nan, "NaN"),
        (recording.int(), "floats"),
        ([0.1, 0.2], "floats"),
    ]:
        for use in (vocoder.mel_transform, lambda audio: vocoder.resynthesize(audio, 8000)):
            with pytest.raises(InputError, match=f"recording.*{words}|samples of up to.*{words}"):
                use(audio)


@pytest.mark.parametrize("options, piece", [({}, 4), ({}, 60), ({"gla_grad": 2}, 30), ({"sampler": "ddim"}, 9)])
def test_a_stream_gives_what_synthesis_gives(tiny_network, tiny_config, options, piece):
    """Fails if a stream has another sampler, correction, seed or noise than the vocoder."""
    mel = torch.rand(20, 60, generator=torch.Generator().manual_seed(1)) * 4 - 6
    vocoder = Vocoder(tiny_network, tiny_config, linear(3, 1e-3, 0.6), dtype=torch.float32, **options)
    [expected] = vocoder.synthesize([mel], seed=5)
    found = list(vocoder.synthesize_stream(mel.split(piece, dim=1), seed=5))
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-4, rtol=0)
    stream = vocoder.open_stream()
    assert stream.latency_seconds == stream.latency_frames * 40 / 8000
    received = [len(stream.push(frames)) // 40 for frames in mel.numpy().reshape(20, 4, 15).transpose(1, 0, 2)]
    assert sum(received) == max(60 - stream.latency_frames, 0)
    assert list(vocoder.synthesize_stream([])) == []
    for waveform in [*found, expected]:
        waveform.mul_(0.5)  # as a player does


def test_a_stream_computes_in_the_vocoders_precision(tiny_network, tiny_config):
    """Fails if a stream computes in float32 where `synthesize` computes in bfloat16: they would differ by more than rounding."""
    schedule = linear(3, 1e-3, 0.6)
    whole, other = (Vocoder(tiny_network, tiny_config, schedule, dtype=dtype)(MEL) for dtype in (torch.bfloat16, torch.float32))
    stream = Vocoder(tiny_network, tiny_config, schedule, dtype=torch.bfloat16).open_stream()
    assert torch.equal(stream.push(MEL, last=True), whole) and not torch.equal(whole, other)
