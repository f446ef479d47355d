"""Windows and batches: what is read, in which order, and that a stream resumes exactly."""
import json

import numpy as np
import pytest
from corpora import stdlib_ids

from aprnb.data.batches import BatchStream, Windows, count_repeats, draw, split_validation
from aprnb.data.ngrams import count_shared
from aprnb.data.shards import open_dataset
from aprnb.errors import CheckError, UsageError


def dataset_of(folder, *shards):
    folder.mkdir(parents=True, exist_ok=True)
    for i, ids in enumerate(shards):
        np.asarray(ids, "<u4").tofile(folder / f"shard-{i:05d}.bin")
    return open_dataset(folder)


def numbered(folder, count, seq_length=4):
    """Windows whose tokens all equal the window's number."""
    ids = np.repeat(np.arange(count), seq_length + 1)
    return Windows(dataset_of(folder, ids), seq_length)


def drawn(stream, batches):
    """Window numbers of the next batches, for `numbered` windows."""
    return [next(stream)[0][:, 0].tolist() for _ in range(batches)]


def test_windows_do_not_overlap_and_each_shard_drops_its_remainder(tmp_path):
    windows = Windows(dataset_of(tmp_path, range(14), range(100, 104), range(200, 210)), 4)
    assert len(windows) == 4
    assert [windows[i].tolist() for i in range(4)] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [200, 201, 202, 203, 204], [205, 206, 207, 208, 209]]
    assert windows[0].dtype == np.int32
    with pytest.raises(IndexError):
        windows[4]
    with pytest.raises(IndexError):
        windows[-1]


def test_targets_are_the_next_tokens(tmp_path):
    windows = Windows(dataset_of(tmp_path, range(20)), 4)
    inputs, targets = windows.batch([1, 3])
    assert inputs.tolist() == [[5, 6, 7, 8], [15, 16, 17, 18]]
    assert targets.tolist() == [[6, 7, 8, 9], [16, 17, 18, 19]]
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.flags.c_contiguous and targets.flags.c_contiguous


def test_sequential_batches_are_the_windows_in_order_and_repeat(tmp_path):
    ids = stdlib_ids()[:8 * 256]
    windows = Windows(dataset_of(tmp_path, ids), 255)
    stream = BatchStream(windows, range(8), 2, order="sequential")
    rows = ids.reshape(8, 256)
    for i in range(20):
        inputs, targets = next(stream)
        want = rows[(i % 4) * 2:(i % 4) * 2 + 2]
        assert np.array_equal(inputs, want[:, :-1]) and np.array_equal(targets, want[:, 1:])
        assert stream.pass_number == i // 4


def test_every_pass_uses_every_window_once_in_a_new_order(tmp_path):
    stream = BatchStream(numbered(tmp_path, 40), range(3, 40), 5, seed=7)
    order = np.concatenate(drawn(stream, 37)).reshape(5, 37)  # 37 batches of 5 = 5 passes
    for one_pass in order:
        assert sorted(one_pass) == list(range(3, 40))
    assert len({tuple(one_pass) for one_pass in order}) == 5


def test_a_batch_that_spans_two_passes_is_full_and_announces_the_new_pass(tmp_path):
    stream = BatchStream(numbered(tmp_path, 5), range(5), 2, order="sequential")
    passes = []
    batches = []
    for _ in range(5):
        batches += drawn(stream, 1)
        passes.append(stream.pass_number)
    assert batches == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert passes == [0, 0, 1, 1, 1]


def test_order_depends_on_seed_and_pass_alone(tmp_path):
    windows = numbered(tmp_path, 30)
    first = drawn(BatchStream(windows, range(30), 4, seed=1), 20)
    assert first == drawn(BatchStream(windows, range(30), 4, seed=1), 20)
    assert first != drawn(BatchStream(windows, range(30), 4, seed=2), 20)
    flat = np.concatenate(first)
    other = np.concatenate(drawn(BatchStream(windows, range(30), 10, seed=1), 8))
    assert np.array_equal(flat, other)  # the batch size cuts the stream, it does not change it


def test_the_shuffle_is_the_documented_one(tmp_path):
    stream = BatchStream(numbered(tmp_path, 9), range(9), 9, seed=42)
    for number in range(3):
        generator = np.random.Generator(np.random.PCG64([42, number]))
        assert drawn(stream, 1) == [generator.permutation(9).tolist()]


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_resuming_after_every_batch_gives_the_identical_stream(tmp_path, order):
    windows = numbered(tmp_path, 11)
    whole = drawn(BatchStream(windows, range(1, 11), 3, order, seed=5), 14)
    for cut in range(14):
        before = BatchStream(windows, range(1, 11), 3, order, seed=5)
        assert drawn(before, cut) == whole[:cut]
        state = json.loads(json.dumps(before.state()))
        after = BatchStream(windows, range(1, 11), 3, order, seed=5)
        after.restore(state)
        assert drawn(after, 14 - cut) == whole[cut:]
        drawn(before, 14 - cut)
        assert after.state() == before.state()


def test_resuming_with_other_data_or_settings_is_refused(tmp_path):
    windows = numbered(tmp_path, 11)
    state = BatchStream(windows, range(11), 3, seed=5).state()
    for stream in (BatchStream(windows, range(11), 3, seed=6),
                   BatchStream(windows, range(10), 3, seed=5),
                   BatchStream(windows, range(11), 3, "sequential", seed=5)):
        with pytest.raises(CheckError, match="resume"):
            stream.restore(state)
    with pytest.raises(CheckError, match="position 12"):
        BatchStream(windows, range(11), 3, seed=5).restore(state | {"position": 12})


def test_too_little_data_is_refused(tmp_path):
    dataset = dataset_of(tmp_path, range(9), range(4))
    with pytest.raises(CheckError, match="no window.*need 11"):
        Windows(dataset, 10)
    windows = Windows(dataset, 3)
    with pytest.raises(CheckError, match="3 windows of 4 tokens.*need 4") as caught:
        BatchStream(windows, range(3), 4)
    assert caught.value.exit_code == 5
    with pytest.raises(UsageError, match="order"):
        BatchStream(windows, range(3), 1, order="random")
    with pytest.raises(UsageError, match="seq-length"):
        Windows(dataset, 0)


SIZES = [(2, 256, 1), (19, 256, 1), (40, 256, 2), (400, 256, 20), (10_000, 256, 256),
         (10_000, 2, 2), (100, 1, 1)]


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
@pytest.mark.parametrize("windows, wanted, held_out", SIZES)
def test_validation_and_training_share_no_window_and_leave_none_out(windows, wanted, held_out,
                                                                    order):
    train, val = split_validation(windows, wanted, order)
    assert len(val) == held_out
    assert sorted([*train, *val]) == list(range(windows))
    assert list(train) == sorted(train) and list(val) == sorted(val)
    if order == "sequential":
        assert train == range(0, windows - held_out) and val == range(windows - held_out, windows)


def test_validation_windows_are_drawn_over_all_of_the_data_by_the_seed():
    train, val = split_validation(40_000, 256)
    assert np.array_equal(val, split_validation(40_000, 256, seed=42)[1])
    assert np.array_equal(val, draw(40_000, 256, 42)) and val.dtype == np.int64
    assert min(np.histogram(val, 8, (0, 40_000))[0]) >= 16  # of 32 in every eighth
    other = split_validation(40_000, 256, seed=7)[1]
    assert len(set(val) & set(other)) < 10
    assert set(split_validation(40_000, 100)[1]) < set(val)  # a smaller draw is part of it
    assert len(draw(5, 256, 42)) == 5


def test_a_stream_knows_drawn_windows_again_and_no_others(tmp_path):
    windows = numbered(tmp_path, 60)
    train, _ = split_validation(60, 3)
    stream = BatchStream(windows, train, 4)
    drawn(stream, 9)
    state = json.loads(json.dumps(stream.state()))
    assert state["windows"]["count"] == 57 and len(state["windows"]["sha256"]) == 64
    again = BatchStream(windows, split_validation(60, 3)[0], 4)
    again.restore(state)
    assert drawn(again, 30) == drawn(stream, 30)
    for others in (split_validation(60, 3, seed=1)[0], split_validation(60, 2)[0], range(57)):
        with pytest.raises(CheckError, match="resume: windows was"):
            BatchStream(windows, others, 4).restore(state)
    tail = BatchStream(windows, range(57), 4)  # as states of the first version name them
    tail.restore(tail.state() | {"windows": [0, 57]})


def test_what_fills_no_window_is_counted_by_shard(tmp_path):
    windows = Windows(dataset_of(tmp_path, range(14), range(3), range(10), range(4)), 4)
    assert windows.left_out() == {
        "tokens": 4 + 3 + 4,
        "by_shard": {"count": 3, "names": {"shard-00000.bin": 4, "shard-00001.bin": 3,
                                           "shard-00003.bin": 4}},
        "short_shards": {"count": 2, "names": {"shard-00001.bin": 3, "shard-00003.bin": 4}}}
    many = Windows(dataset_of(tmp_path / "many", range(5), *[range(3)] * 30), 4).left_out()
    assert many["short_shards"]["count"] == 30 and len(many["short_shards"]["names"]) == 20


def test_one_window_cannot_be_split():
    with pytest.raises(CheckError, match="--val-shard"):
        split_validation(1, 256)


def test_repeated_and_shared_windows_are_counted_exactly(tmp_path):
    ids = stdlib_ids()[:330].reshape(30, 11)
    rows = np.concatenate([ids, ids[:4], ids[:2]])
    train = Windows(dataset_of(tmp_path / "a", rows[:20].ravel(), rows[20:].ravel()), 10)
    assert count_repeats(train) == 36 - len({tuple(row) for row in rows})
    other = ids[5:9] + np.uint32(1)
    val = Windows(dataset_of(tmp_path / "b", np.concatenate([ids[3:6], other]).ravel()), 10)
    assert count_shared(val.hashes, train.hashes) == 3
    shuffled = np.concatenate([rows[:1, ::-1], rows[1:2, np.r_[1, 0, 2:11]]])
    other = Windows(dataset_of(tmp_path / "c", shuffled.ravel()), 10)
    assert count_shared(other.hashes, train.hashes) == 0
