"""Names below a prefix, as torch.compile, DistributedDataParallel and PEFT write them."""
import hf_fixture as hf
import pytest

from aprnb.errors import LoadError
from aprnb.formats.convert import import_model
from aprnb.formats.model_file import open_model

WRITERS = {"_orig_mod.": ", as torch.compile writes them",
           "module.": ", as DistributedDataParallel writes them",
           "base_model.model.": ", as PEFT writes them",
           "module._orig_mod.": ", as torch.compile and DistributedDataParallel write them",
           "student.": ""}


def prefixed(tmp_path, prefix, keep=0, **more):
    """A folder of the fixture's tensors with a prefix before all names but `keep`."""
    arrays = {(prefix if i >= keep else "") + name: array
              for i, (name, array) in enumerate(hf.tensors().items())}
    return hf.folder(tmp_path / "prefixed", arrays | more, hf.config())


@pytest.mark.parametrize("prefix", WRITERS)
def test_a_prefix_is_named_and_taken_off(prefix, tmp_path):
    source = prefixed(tmp_path, prefix)
    for attempt in (open_model, lambda at: import_model(at, tmp_path / "m.apr")):
        with pytest.raises(LoadError) as caught:
            attempt(source)
        assert str(caught.value) == (
            f"{source}: the names of the tensors begin with {prefix!r}{WRITERS[prefix]}; "
            f"try `aprnb import --strip-prefix {prefix}`")
    import_model(source, tmp_path / "m.apr", strip_prefix=prefix)
    plain = hf.folder(tmp_path / "plain", hf.tensors(), hf.config())
    first = (tmp_path / "m.apr").read_bytes()
    import_model(plain, tmp_path / "m.apr", force=True)
    assert (tmp_path / "m.apr").read_bytes() == first


def test_names_without_the_prefix_stay(tmp_path):
    import_model(prefixed(tmp_path, "module.", keep=3), tmp_path / "m.apr", strip_prefix="module.")
    with open_model(tmp_path / "m.apr") as model:
        assert set(model.names) == set(hf.tensors())


def test_a_prefix_that_nothing_has_is_refused(tmp_path):
    source = prefixed(tmp_path, "module.")
    with pytest.raises(LoadError, match="no name begins with 'modul_'; the file holds module.m"):
        import_model(source, tmp_path / "m.apr", strip_prefix="modul_")


def test_missing_and_foreign_names_are_both_shown(tmp_path):
    """Names that are there stand beside those that are missing, however many are."""
    foreign = {"h." + str(i): array for i, array in enumerate(hf.tensors().values())}
    with pytest.raises(LoadError) as caught:
        open_model(hf.folder(tmp_path / "s", foreign, hf.config()))
    assert "missing model.embed_tokens.weight" in str(caught.value)
    assert "not expected h.0 [272, 16]" in str(caught.value)
