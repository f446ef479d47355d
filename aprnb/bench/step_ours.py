"""The worker of `aprnb bench step` that trains with this engine."""
from itertools import cycle

from ..backend import open_backend
from ..config import PRESETS
from ..errors import DeviceError
from ..model.instance import Model
from ..model.rehearsal import refuse_unserved
from ..train.step import OptimiserSettings, Trainer
from .gpu import device_name
from .turns import serve
from .workload import LEARNING_RATE, batches


def open_side(settings):
    """See turns.serve."""
    backend = _open(settings)
    config, B, T = PRESETS[settings["preset"]], settings["batch"], settings["length"]
    refuse_unserved(config, backend, 1, T, True, settings["recompute"], settings["preset"])
    model = Model.random(config, backend, seed=0)
    trainer = Trainer(model, B, None, T, OptimiserSettings(grad_clip=1.0), settings["recompute"])
    pairs, last = cycle(batches(model.config.vocab_size, B, T)), [None]

    def step():
        last[0], _ = trainer.gradients(*next(pairs))
        trainer.update(LEARNING_RATE)

    def finish():
        backend.synchronize()
        return float(last[0])

    def state():
        return {"memory_peak": backend.memory_peak(), "device": device_name(backend),
                "how": backend.reason}
    return step, finish, state, dict


def _open(settings):
    device = settings["device"]
    try:
        return open_backend(device, settings["precision"], residual=settings["residual"])
    except DeviceError as error:
        if isinstance(error.__cause__, DeviceError):  # its own words: no advice to use auto
            raise DeviceError(f"{error.__cause__}; use another --device, such as cpu") from error
        raise


if __name__ == "__main__":
    serve(open_side)
