"""Which lane holds which element: the models against first principles and one another, and every
instruction on a GPU against its model, lane by lane, with small integers, so that all is exact."""
from functools import partial

import numpy as np
import pytest

from aprnb.kernels.ptx import layouts
from tolerance import BF16, F32


def integers(seed, shape):
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(BF16)


# ---------------------------------------------------------------- the models

@pytest.mark.parametrize("index, shape", [
    (layouts.mma_a(), (16, 16)), (layouts.mma_b(), (16, 8)), (layouts.mma_c(), (16, 8)),
    (layouts.eight_by_eight(), (4, 8, 8)), (layouts.eight_by_eight(True), (4, 8, 8)),
    (layouts.wgmma_accumulator(8), (64, 8)), (layouts.wgmma_accumulator(256), (64, 256)),
    (layouts.wgmma_a(4), (64, 64))], ids=lambda x: "x".join(map(str, x)) if len(x) < 4 else "")
def test_every_element_has_one_place(index, shape):
    held = np.zeros(shape, int)
    np.add.at(held, index, 1)
    assert (held == 1).all()


def test_ldmatrix_gives_the_fragments_of_mma():
    a, b = np.arange(256).reshape(16, 16), np.arange(128).reshape(16, 8)
    quarters = np.stack([a[:8, :8], a[8:, :8], a[:8, 8:], a[8:, 8:]])
    assert (quarters[layouts.eight_by_eight()] == a[layouts.mma_a()]).all()
    # A stored with m along the lines, B as it is multiplied: .trans turns them round
    lines = np.stack([q.T for q in quarters])
    assert (lines[layouts.eight_by_eight(True)] == a[layouts.mma_a()]).all()
    halves = np.stack([b[:8], b[8:]] * 2)
    assert (halves[layouts.eight_by_eight(True)][:, :2] == b[layouts.mma_b()]).all()
    lines = np.stack([b[:8].T, b[8:].T] * 2)
    assert (lines[layouts.eight_by_eight()][:, :2] == b[layouts.mma_b()]).all()


def test_a_product_is_the_operand_of_the_next():
    """An accumulator, packed to pairs, is A in registers: of wgmma, and of mma."""
    values = np.arange(64 * 64).reshape(64, 64)
    acc, a = values[layouts.wgmma_accumulator(64)], values[layouts.wgmma_a(4)]
    assert (acc.reshape(128, 16, 2) == a).all()
    sixteen = values[:16, :16]
    left, right = (sixteen[:, c:c + 8][layouts.mma_c()].reshape(32, 2, 2) for c in (0, 8))
    assert (np.concatenate([left, right], 1) == sixteen[layouts.mma_a()]).all()


def test_a_warp_of_wgmma_holds_what_mma_holds():
    values = np.arange(64 * 8).reshape(64, 8)
    acc = values[layouts.wgmma_accumulator(8)]
    for warp in range(4):
        mine = values[16 * warp:16 * warp + 16]
        assert (acc[32 * warp:32 * warp + 32] == mine[layouts.mma_c()]).all()


@pytest.mark.parametrize("swizzle, rows_that_differ", [(128, 8), (64, 4)])
def test_swizzle(swizzle, rows_that_differ):
    row, byte = np.divmod(np.arange(64 * swizzle), swizzle)
    address = layouts.tile_address(row, byte, swizzle)
    assert sorted(address) == list(range(64 * swizzle))
    lines = 128 // swizzle  # rows that share 128 bytes
    chunk = (byte // 16) ^ (row // lines % rows_that_differ)
    assert (address == row * swizzle + chunk * 16 + byte % 16).all()
    column = layouts.tile_address(np.arange(8), 0, swizzle)
    assert len(set(column // 16 % 8)) == 8, "eight rows of a matrix meet in a bank"


@pytest.mark.parametrize("mn_major", [False, True])
def test_descriptors_name_the_elements(mn_major):
    """What a descriptor and the start of a k-step say is where the model has the element."""
    from aprnb.kernels.ptx import wgmma
    panel = 16384
    layout = wgmma.mn_major(panel) if mn_major else wgmma.k_major(panel)
    model = layouts.wgmma_mn_major if mn_major else layouts.wgmma_k_major
    mn, k = np.ogrid[:128, :16]
    for step in range(8 if not mn_major else 4):
        named = layouts.descriptor_address(layout.descriptor, layout.offset(step), mn, k, mn_major)
        assert (named == model(mn, 16 * step + k, panel)).all()


@pytest.mark.parametrize("width", [64, 32])
def test_stmatrix_with_the_addresses_of_the_kernel_writes_the_box(width):
    """ptx/tiles.make_stage, as matmul_kernel.py calls it, leaves what the copy engine expects."""
    tile, pitch = integers(0, (64, width)), 2 * width
    acc = tile[layouts.wgmma_accumulator(width)]
    memory = np.zeros(64 * width, BF16)
    matrix, row_of = layouts.row_address()
    for warp in range(4):
        row = 16 * warp + (np.arange(32) & 15)
        place = (np.arange(32) >> 4) ^ (row // (64 // width) % (width // 8))
        for q in range(width // 16):
            address = (row * pitch + (place << 4)) ^ (q << 5)
            pairs = acc[32 * warp:32 * warp + 32, 8 * q:8 * q + 8].reshape(32, 4, 2)
            four = np.empty((4, 8, 8), BF16)
            four[layouts.eight_by_eight()] = pairs
            for lane in range(32):
                at = address[lane] // 2
                memory[at:at + 8] = four[matrix[lane], row_of[lane]]
    row, column = np.ogrid[:64, :width]
    assert (memory[layouts.tile_address(row, 2 * column, pitch) // 2] == tile).all()


def test_staged_results_meet_no_bank_conflict():
    row, column = np.ogrid[:32, :64]
    address = layouts.staged(row, column)
    assert sorted(address.ravel()) == list(range(0, 8192, 4))
    for r in range(0, 32, 4):  # half a warp writes 8 bytes a lane: 4 rows, 8 columns
        for c in range(0, 64, 8):
            assert len(set(address[r:r + 4, c:c + 8:2].ravel() // 8 % 16)) == 16
    # a quarter of a warp reads 16 bytes a lane: every chunk, or the left and right halves of pairs
    for chunks in (range(0, 8), range(8, 16), range(0, 16, 2), range(1, 16, 2)):
        assert len({address[5, 4 * c] // 16 % 8 for c in chunks}) == 8


# ---------------------------------------------------------------- the instructions, on a GPU

def wgmma_cases():
    """name -> (columns, k_steps, A MN-major, B MN-major, panels along k)"""
    return {"k_k": (64, 4, False, False, 1), "k_mn": (192, 4, False, True, 1),
            "mn_mn": (256, 4, True, True, 1), "mn_k": (8, 1, True, False, 1),
            "two_panels": (128, 8, False, False, 2)}


def wgmma_probe(name):
    from aprnb.kernels.ptx.wgmma import k_major, mn_major
    import probes
    columns, k_steps, a_mn, b_mn, panels = wgmma_cases()[name]
    depth, wide = 64 * panels, -(-columns // 64) * 64
    a_bytes, b_bytes = 64 * depth * 2, (wide if b_mn else columns) * depth * 2
    a_panel = b_panel = 8192
    if not b_mn:
        b_panel = columns * 128
    a = mn_major(a_panel) if a_mn else k_major(a_panel)
    b = mn_major(b_panel) if b_mn else k_major(b_panel)
    return probes.wgmma(f"wgmma_{name}", columns, k_steps, a, b, a_bytes, b_bytes), (
        a_bytes, a_panel, b_bytes, b_panel)


def all_probes():
    """name -> what makes the probe."""
    import probes
    from aprnb.kernels.ptx.wgmma import mn_major
    return {name: partial(lambda name: wgmma_probe(name)[0], name) for name in wgmma_cases()} | {
        "wgmma_registers": partial(probes.wgmma_registers, "wgmma_registers", 64, mn_major(8192),
                                   8192),
        "ldmatrix": partial(probes.ldmatrix, False),
        "ldmatrix_trans": partial(probes.ldmatrix, True),
        "mma": probes.mma, "staging": probes.staging, "copies": probes.copies,
        "stmatrix_64": partial(probes.stmatrix, 128, 64),
        "stmatrix_32": partial(probes.stmatrix, 64, 32),
        "box_64": partial(probes.box, 64, 16), "box_32": partial(probes.box, 32, 16)}


PROBES = [*wgmma_cases(), "wgmma_registers", "ldmatrix", "ldmatrix_trans", "mma", "staging",
          "copies", "stmatrix_64", "stmatrix_32", "box_64", "box_32"]


@pytest.fixture
def probe(monkeypatch):
    """name -> probe, where this GPU has the instruction. Probes belong to no file under kernels/,
    so the cache has no key for them: they are built anew."""
    from aprnb.kernels import cache
    monkeypatch.setattr(cache, "load", lambda *key: None)
    monkeypatch.setattr(cache, "store", lambda *kernel: False)
    return usable_probe


def usable_probe(name):
    from aprnb.kernels.launch import this_architecture
    made = all_probes()[name]()
    if "sm_80" not in made.kernel.entry.architectures and this_architecture() != "sm_90a":
        pytest.skip(f"{name} needs compute capability 9.0")
    return made


@pytest.mark.ptx
@pytest.mark.parametrize("name", PROBES)
def test_probe_builds(name):
    from aprnb.kernels.build import build
    entry = all_probes()[name]().kernel.entry
    for architecture in entry.architectures:
        assert build(entry, entry.signatures[0], architecture).registers


def image(matrix, address, count):
    """Shared memory that holds element (mn, k) of a matrix at address(mn, k)."""
    out = np.zeros(count // 2, BF16)
    out[address(*np.ogrid[:matrix.shape[0], :matrix.shape[1]]) // 2] = matrix
    return out


def lanes_of(result):
    """Accumulators as make_partials puts them down: (elements / 4, 128, 4) -> (128, elements)."""
    return result.transpose(1, 0, 2).reshape(result.shape[1], -1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(wgmma_cases()))
def test_wgmma(name, probe):
    made, (a_bytes, a_panel, b_bytes, b_panel) = probe(name), wgmma_probe(name)[1]
    columns, k_steps, a_mn, b_mn, panels = wgmma_cases()[name]
    a, b = integers(1, (64, 64 * panels)), integers(2, (columns, 64 * panels))

    def place(mn_major, panel):
        model = layouts.wgmma_mn_major if mn_major else layouts.wgmma_k_major
        return lambda mn, k: model(mn, k, panel)
    got = made(np.zeros((columns // 8, 128, 4), F32), image(a, place(a_mn, a_panel), a_bytes),
               image(b, place(b_mn, b_panel), b_bytes))
    k = 16 * k_steps
    want = a[:, :k].astype(F32) @ b[:, :k].astype(F32).T
    assert (lanes_of(got) == want[layouts.wgmma_accumulator(columns)]).all()


@pytest.mark.gpu
def test_wgmma_with_a_in_registers(probe):
    a, b = integers(1, (64, 16)), integers(2, (64, 64))
    got = probe("wgmma_registers")(np.zeros((8, 128, 4), F32), a[layouts.wgmma_a(1)],
                                   image(b, layouts.wgmma_mn_major, 8192))
    want = a.astype(F32) @ b[:, :16].astype(F32).T
    assert (lanes_of(got) == want[layouts.wgmma_accumulator(64)]).all()


@pytest.mark.gpu
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed, probe):
    """Four at a time: each 512 bytes behind the other or, transposed, two rows exchanged."""
    image = np.arange(1024, dtype=np.uint16).reshape(4, 32, 8)
    got = probe("ldmatrix_trans" if transposed else "ldmatrix")(
        np.zeros((32, 16, 2), np.uint16), image)
    for i in range(4):
        rows = image[0, np.arange(32) ^ 2 * i] if transposed else image[i]
        want = rows.reshape(4, 8, 8)[layouts.eight_by_eight(transposed)]
        assert (got[:, 4 * i:4 * i + 4] == want).all()


@pytest.mark.gpu
def test_mma(probe):
    a, b = integers(1, (16, 16)), integers(2, (16, 8))
    got = probe("mma")(np.zeros((32, 4), F32), a[layouts.mma_a()], b[layouts.mma_b()])
    assert (got == (a.astype(F32) @ b.astype(F32))[layouts.mma_c()]).all()


def put_down(acc):
    """The reverse of lanes_of."""
    lanes, elements = acc.shape
    return acc.reshape(lanes, elements // 4, 4).transpose(1, 0, 2).astype(F32)


@pytest.mark.gpu
@pytest.mark.parametrize("width, columns", [(64, 128), (32, 64)])
def test_stmatrix(width, columns, probe):
    tile = integers(3, (64, columns))
    got = probe(f"stmatrix_{width}")(np.zeros((2, 64 * width), BF16),
                                     put_down(tile[layouts.wgmma_accumulator(columns)]))
    row, column = np.ogrid[:64, :width]
    place = layouts.tile_address(row, 2 * column, 2 * width) // 2
    assert (np.concatenate([got[0][place], got[1][place]], 1) == tile).all()


@pytest.mark.gpu
def test_staging(probe):
    tile, acc = integers(4, (64, 64)).astype(F32), np.zeros((128, 128), F32)
    for i in range(4):  # 16 rows are laid out as a warp of wgmma has them
        rows = tile[16 * i:16 * i + 16]
        row, column = (x[:32] for x in layouts.wgmma_accumulator(64))
        acc[:32, 32 * i:32 * i + 32] = rows[row, column]
    got = probe("staging")(np.zeros((2, 2048), F32), put_down(acc))
    place = layouts.staged(*np.ogrid[:32, :64]) // 4
    assert (np.concatenate([got[0][place], got[1][place]]) == tile).all()


@pytest.mark.gpu
def test_copies_read_what_exists_and_zero_the_rest(probe):
    source = np.random.default_rng(5).integers(1, 256, (17, 4, 16), np.uint8)
    got = probe("copies")(np.full((17, 4, 16), 255, np.uint8), source)
    want = source.copy()
    want[:, 3] = 0  # line 6 of five
    for n in range(17):
        want[n, :, n:] = 0
    assert (got == want).all()


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [64, 32])
def test_a_box_as_the_copy_engine_swizzles_it(columns, probe):
    from aprnb.kernels.cuda import copy_in, cuda
    from aprnb.kernels.tensor_maps import tensor_map
    made, matrix = probe(f"box_{columns}"), integers(6, (15, 48))
    stream, on_device = cuda.stream(), cuda.device_array(matrix.shape, BF16)
    copy_in(on_device, matrix, stream)
    stream.synchronize()
    where = tensor_map(on_device, (48, 15), (96,), (columns, 16), 2 * columns)
    got = made(np.full(16 * columns, np.nan, BF16), where)
    want = np.zeros((16, columns), BF16)  # from column 8 and row 3: zeros outside the matrix
    part = matrix[3:, 8:8 + columns]
    want[:part.shape[0], :part.shape[1]] = part
    row, column = np.ogrid[:16, :columns]
    assert (got[layouts.tile_address(row, 2 * column, 2 * columns) // 2] == want).all()
