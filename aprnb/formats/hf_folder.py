"""A Hugging Face model as it lies on disk: weights in one or many safetensors, and its JSON files.

Accepts a folder, or one .safetensors file with config.json beside it. Of several ways in which a
folder can hold weights the one that transformers takes first is taken: model.safetensors, then the
files that model.safetensors.index.json names, then every *.safetensors.
"""
import json
from pathlib import Path

from ..errors import FormatError, LoadError, NotFoundError
from .names import HEAD
from .rejections import BadSafetensors
from .safetensors import read_safetensors

INDEX = "model.safetensors.index.json"
MAX_JSON = 256 << 20  # bytes


class HfModel:
    """The tensors of all files under one table, and the texts beside them.

    Offers what a TensorFile does: tensors, bytes_of, array, values, chunks, file_of, close.
    prefix: taken off the names that begin with it.
    """

    def __init__(self, path, files, prefix=""):
        self.path = Path(path)
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self.files = files
        self.tensors, self._place = {}, {}
        """name -> entry; name -> (file, name in it)"""
        for file in files:
            for stored, entry in file.tensors.items():
                name = stored.removeprefix(prefix)
                if name in self._place:
                    raise BadSafetensors(f"{self.path}: tensor {name} stands in both "
                                         f"{self.file_of(name)} and {file.path.name}")
                self.tensors[name], self._place[name] = entry, (file, stored)
        stored = [stored for _, stored in self._place.values()]
        if prefix and not any(name.startswith(prefix) for name in stored):
            raise LoadError(f"{self.path}: no name begins with {prefix!r}; the file holds "
                            f"{', '.join(stored[:3])}, ...")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let go of the mappings; views that were handed out stay valid."""
        for file in self.files:
            file.close()

    def bytes_of(self, name):
        """The payload as a read-only uint8 view."""
        file, stored = self._place[name]
        return file.bytes_of(stored)

    def array(self, name):
        """A tensor as a read-only view."""
        file, stored = self._place[name]
        return file.array(stored)

    values = array

    def chunks(self, name, **size):
        """The payload in pieces."""
        file, stored = self._place[name]
        return file.chunks(stored, **size)

    def file_of(self, name):
        """Name of the file that holds a tensor."""
        return self._place[name][0].path.name

    def json(self, name, needed=False):
        """A JSON object beside the weights, or None where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            if needed:
                raise NotFoundError(f"{path}: no such file; it is needed beside the weights")
            return None
        return read_json(path)

    def text(self, name):
        """A text beside the weights, or None."""
        path = self.folder / name
        return read_text(path) if path.is_file() else None


def open_hf(path, prefix=""):
    """Open a folder or one .safetensors file; reads headers only.  prefix: as of HfModel."""
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder")
    path = snapshot_of(path)
    if path.is_file() and path.suffix != ".safetensors":
        raise FormatError(f"{path}: is no .safetensors file; need one, or a Hugging Face folder")
    files = [path] if path.is_file() else weight_files(path)
    return HfModel(path, [read_safetensors(f) for f in files], prefix)


def snapshot_of(path):
    """A path as it is; of a model's folder in the hub's cache (models--OWNER--NAME) the snapshot
    that refs/main names, or the only one.

    Errors: LoadError where several are there and none is named.
    """
    snapshots, main = path / "snapshots", path / "refs" / "main"
    if not snapshots.is_dir() or (path / "config.json").exists():
        return path
    if main.is_file() and (named := snapshots / main.read_text().strip()).is_dir():
        return named
    found = sorted(entry for entry in snapshots.iterdir() if entry.is_dir())
    if len(found) != 1:
        raise LoadError(f"{path}: a folder of the hub's cache with {len(found)} snapshots, and "
                        "refs/main names none of them; name one: "
                        f"{', '.join(map(str, found[:5])) or 'there is none, download it again'}")
    return found[0]


def weight_files(folder):
    """The safetensors files of a folder, checked against its index where it has one."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FormatError(f"{folder}: holds no .safetensors file; pickled weights are never read, "
                          "convert them to safetensors first")
    return files


def _indexed_files(folder):
    """The files that the index names: all there, plain names, all tensors held."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{folder / INDEX}: weight_map is missing or no object")
    names = {str(n) for n in weight_map.values()}
    unsafe = [n for n in names if Path(n).name != n]
    if unsafe:
        raise FormatError(f"{folder / INDEX}: {unsafe[0]!r} is no plain file name")
    absent = sorted(n for n in names if not (folder / n).is_file())
    if absent:
        raise NotFoundError(f"{folder}: the index names {', '.join(absent)}, which are not there; "
                            "the download is incomplete")
    files = [folder / n for n in sorted(names)]
    held = {name for file in files for name in read_safetensors(file).tensors}
    lost = sorted(weight_map.keys() - held)
    if lost == [HEAD] and (folder / "config.json").is_file():
        if read_json(folder / "config.json").get("tie_word_embeddings") is True:
            lost = []  # transformers lists a tied head too, and stores the embedding alone
    if lost:
        raise LoadError(f"{folder / INDEX}: lists tensors that no file holds: {lost[:5]}")
    return files


def read_text(path):
    """The text of a file, which has to be UTF-8."""
    if path.stat().st_size > MAX_JSON:
        raise FormatError(f"{path}: is larger than {MAX_JSON} bytes")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 at byte {error.start}") from None


def read_json(path):
    """The JSON object in a file."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: is a JSON {type(value).__name__}, need an object")
    return value
