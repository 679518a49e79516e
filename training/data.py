"""The recordings of a run: training and validation examples, what is odd about them, and what their mels look like."""

from common.audio import Conversions
from common.errors import InputError
from datasets import Recordings, spread
from extensions.interop.diagnosis import diagnose
from model.mel import LogMelSpectrogram, mel_statistics, statistics_of_recordings
from training.examples import DiffusionExamples

N_STATISTICS_RECORDINGS = 200  # that the mel statistics are taken of, spread over the filelist
N_COMPARED_MELS = 20  # mel files that are compared with the mels of their recordings, spread over the filelist


class TrainingData:
    """The two lists of a configuration, checked.

    Args:
        config: a `model.config.Config`.
        folder: folder that the filelists are relative to.
        schedule: the `NoiseSchedule` that noise levels are drawn from.
        margin_frames: see `training.examples.DiffusionExamples`.

    Raises:
        OSError, InputError: a list or a recording cannot be used.
    """

    def __init__(self, config, folder, schedule, margin_frames=0):
        self.config, self.schedule, self.margin_frames = config, schedule, margin_frames
        self.mel_transform = LogMelSpectrogram(config.mel)
        self.training = self._recordings(folder / config.data.train_filelist)
        if config.data.low_pass_share and self.training.mel_paths:
            raise InputError(f"data.low_pass_share: expected 0 where mels are read from files, got {config.data.low_pass_share:g}")
        self.validation = self._recordings(folder / config.data.validation_filelist)
        self.validation_examples = self._examples(self.validation, config.data.model_copy(update={"low_pass_share": 0.0}), 0)
        self.known_mel_statistics = None  # of a run that goes on: to compute them anew would delay the first save, after a signal too

    def _recordings(self, filelist):
        if not filelist.exists():
            raise InputError(f"{filelist}: No such filelist; `sh runs/make_filelists.sh FOLDER` writes the lists of a folder of recordings")
        data = self.config.data
        return Recordings(filelist, self.config.mel, Conversions(data.mix_to_mono, data.resample))

    def _examples(self, recordings, data, seed):
        return DiffusionExamples(recordings, data, self.mel_transform.context, self.schedule, seed, self.margin_frames)

    def examples(self, data):
        """The `DiffusionExamples` of a stage's `DataConfig`."""
        return self._examples(self.training, data, self.config.training.seed)

    def warnings(self):
        """Lines on what is unusual."""
        lists = [self.training, self.validation]
        lines = [self.mel_transform.empty_bands, *(line for one in lists for line in [*one.warnings(), self._foreign_mels(one)])]
        if n := len({path.resolve() for path in self.validation.paths} & {path.resolve() for path in self.training.paths}):
            lines.append(
                f"{n} of {len(self.validation)} validation recordings are training recordings too: the validation loss does not show "
                "overfitting"
            )
        return [f"warning: {line}" for line in lines if line]

    def _foreign_mels(self, recordings):
        """One line if mel files are not those of the definition, as the recordings beside them show; else None."""
        if recordings.mel_paths is None:
            return None
        indices = spread(len(recordings), N_COMPARED_MELS)
        statistics = statistics_of_recordings((recordings[i] for i in indices), self.mel_transform)
        complaints = {recordings.mel_paths[i]: diagnose(recordings.mel(i), self.mel_transform, statistics) for i in indices}
        wrong = [f"{path}: {complaint}" for path, complaint in complaints.items() if complaint]
        return f"{len(wrong)} of {len(complaints)} mel files: {wrong[0]}" if wrong else None

    def mel_statistics(self):
        """What the mels of this training look like, as JSON text, for inference to know a foreign mel by."""
        if self.known_mel_statistics is None:
            recordings = self.training
            indices = spread(len(recordings), N_STATISTICS_RECORDINGS)
            mels = (recordings.mel(i) if recordings.mel_paths else self.mel_transform(recordings[i]) for i in indices)
            self.known_mel_statistics = mel_statistics(mels).model_dump_json()
        return self.known_mel_statistics
