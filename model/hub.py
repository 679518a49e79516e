"""WaveGrad for the Hugging Face hub: `save_pretrained`, `from_pretrained`, `push_to_hub`, by the hub's own mixin.

A folder holds `model.safetensors`, which is a checkpoint like any other here, `config.json` and a model card. Local folders
need no network.
"""

import json
from pathlib import Path

from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download

from model.checkpoint import check_same, load_strictly, read_checkpoint, save_weights
from model.config import Config, parse_config
from model.network import WaveGrad
from model.prior import make_prior
from model.shallow import GriffinLimEstimate


class PretrainedWaveGrad(
    WaveGrad,
    PyTorchModelHubMixin,
    library_name="wavegrad",
    pipeline_tag="text-to-speech",
    tags=["vocoder", "diffusion", "audio"],
    paper_url="https://arxiv.org/abs/2009.00713",
    coders={
        Config: (lambda config: json.loads(config.model_dump_json()), lambda values: parse_config(json.dumps(values), "config.json")),
    },
):
    """A `WaveGrad` that holds its whole `Config`.

    Args:
        config: a `Config`; the annotation is what the mixin decodes `config.json` by.

    Attributes:
        mel_statistics: `MelStatistics` of its training, or None. They are saved with the weights.
    """

    def __init__(self, config: Config):
        super().__init__(config.network, config.mel.n_mels, make_prior(config), estimate=GriffinLimEstimate(config.mel))
        self.config = config
        self.mel_statistics = None

    @classmethod
    def from_checkpoint(cls, path):
        """From any file that `read_checkpoint` reads; the same errors."""
        checkpoint = read_checkpoint(path)
        network = cls(checkpoint.config)
        network.mel_statistics = checkpoint.mel_statistics
        load_strictly(network, checkpoint.weights, path)
        return network.eval()

    def _save_pretrained(self, save_directory):
        save_weights(self, self.config, save_directory / constants.SAFETENSORS_SINGLE_FILE, self.mel_statistics)

    @classmethod
    def _from_pretrained(cls, *, model_id, config=None, map_location="cpu", strict=True, **download):
        """As the mixin's own method, which also accepts weights that do not fit (`strict=False`) and any pickle; this one refuses them.

        Raises:
            OSError, InputError: as `read_checkpoint`; or `config.json` is not the configuration of the weights.
        """
        path = Path(model_id) / constants.SAFETENSORS_SINGLE_FILE
        if not Path(model_id).is_dir():
            path = hf_hub_download(repo_id=model_id, filename=constants.SAFETENSORS_SINGLE_FILE, **download)
        network = cls.from_checkpoint(path)
        if config is not None:
            check_same(network.config, config, path)
        return network.to(map_location)
