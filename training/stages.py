"""The stages of a run: each has its own objective, learning rate, average, batch and segment.

A run without stages is one stage. At the start of a later stage the weights, the moments of Adam and the average keep their values; the
learning rate starts with the stage's warm-up. The borders of stages are counted in steps. Learning rate and average are counted in
updates: a skipped step is no update.
"""

from typing import NamedTuple

from model.config import Config, StageConfig


class Stage(NamedTuple):
    """Steps `first` to `end` - 1 of a run.

    Args:
        number: from 1 on.
        config: the run's configuration as it is in this stage; its `training.n_steps` is the number of steps of the stage.
    """

    number: int
    first: int
    end: int
    config: Config


def stages_of(config):
    """The stages of a `Config`, in their order."""
    stages, first = [], 0
    for number, stage in enumerate(config.training.stages or [StageConfig(n_steps=config.training.n_steps)], 1):
        changes = {key: value for key, value in stage if value is not None}
        if stage.infer_grad is False:
            changes["infer_grad"] = None
        segment_frames = changes.pop("segment_frames", config.data.segment_frames)
        data = config.data.model_copy(update={"segment_frames": segment_frames})
        training = config.training.model_copy(update={**changes, "stages": None})
        end = first + training.n_steps
        stages.append(Stage(number, first, end, config.model_copy(update={"data": data, "training": training})))
        first = end
    return stages


def stage_at(stages, step):
    """The stage of a step, or the last one."""
    return next((stage for stage in stages if step < stage.end), stages[-1])
