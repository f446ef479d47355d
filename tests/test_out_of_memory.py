"""Memory that runs out is named as such, with its exit code, wherever it is noticed."""
import errno

import numpy as np
import pytest
from runs import aprnb_here, arch, flags, refused, text_shards

from aprnb.cli import describe
from aprnb.train.step import Trainer


def of_numpy():
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    return caught.value


@pytest.mark.parametrize("error, words", [
    (MemoryError(), "no size is known"), (of_numpy(), "Unable to allocate 1.00 EiB"),
    (OSError(errno.ENOMEM, "Cannot allocate memory", "model.apr"), "Cannot allocate memory")])
def test_every_lack_of_memory_has_one_message_and_one_code(error, words):
    message, code = describe(error)
    assert code == 12 and message.startswith("out of host memory: ") and words in message


@pytest.mark.parametrize("where", ["state_digest", "update"])
def test_a_run_whose_memory_ends_on_the_way_ends_as_such(where, tmp_path, monkeypatch):
    def lacks(*_, **__):
        np.empty(1 << 60, np.uint8)
    text_shards(tmp_path / "data")
    arch(tmp_path / "config.json")
    monkeypatch.setattr(Trainer, where, lacks)
    refused(aprnb_here("pretrain", *flags(tmp_path, num_steps=2)), 12, "out of host memory",
            "Unable to allocate 1.00 EiB")


def test_a_digest_of_the_state_is_that_of_its_bytes():
    """As files of earlier versions hold it; no copy of the moments is made for it."""
    import hashlib
    from types import SimpleNamespace
    state = {"v": np.arange(6, dtype=np.float32), "m": np.ones(6, np.float32),
             "step": np.array([3], np.int64)}
    plain = hashlib.sha256(b"".join(name.encode() + state[name].tobytes()
                                    for name in sorted(state))).hexdigest()
    assert Trainer.state_digest(SimpleNamespace(state=lambda: state)) == plain
