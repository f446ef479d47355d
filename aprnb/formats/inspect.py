"""inspect: header, flags, checksums, metadata and tensor table of a file; reads headers only."""
import os

from .apr_layout import FOOTER
from .apr_reader import AprFile
from .model_file import open_tensors

LONG_TEXT, LONG_LIST = 400, 16  # characters, items: what is longer is shown by its length


def inspect_model(path):
    """Report (schema aprnb-inspect-v1) on an .apr file, a .safetensors file or a folder.

    Errors:  the FormatError of the first rule that the headers break; payloads are not read, so
             the footer's checksum is not judged here (`validate` does).
    """
    with open_tensors(path, verify=False) as model:
        report = {"schema": "aprnb-inspect-v1", "model": str(path),
                  "format": "apr-v2" if isinstance(model, AprFile) else "safetensors"}
        if isinstance(model, AprFile):
            header = dict(model.header)
            header["magic"] = header["magic"].decode("latin-1")
            header["reserved"] = header["reserved"].hex()
            checksum = f"{header.pop('header_checksum'):08x}"
            report |= {"header": header, "flags": model.flag_names,
                       "checksums": {"header": checksum, "header_ok": True,
                                     "footer": _stored_footer(path), "footer_ok": None},
                       "metadata": shortened(model.metadata), "warnings": model.warnings}
        else:
            report |= {"files": [f.path.name for f in model.files],
                       "config": model.json("config.json"),
                       "metadata": {f.path.name: shortened(f.metadata) for f in model.files}}
        report["tensors"] = [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape),
                              "offset": t.offset, "bytes": t.nbytes, "file": model.file_of(t.name)}
                             for t in model.tensors.values()]
        report["parameters"] = sum(t.count for t in model.tensors.values())
    return report


def _stored_footer(path):
    """The checksum that the file ends with, as hexadecimal; whether it holds is for `validate`."""
    with open(path, "rb") as file:
        file.seek(-FOOTER.size, os.SEEK_END)
        return f"{FOOTER.unpack(file.read(FOOTER.size))[0]:08x}"


def shortened(metadata):
    """Metadata with vocabularies, merges and digests replaced by what they are and how long."""
    return {key: _short(value) for key, value in metadata.items()}


def _short(value):
    """The value, or what it is and how long."""
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return f"<text of {len(value)} characters>"
    if isinstance(value, (list, dict)) and len(value) > LONG_LIST:
        return f"<{len(value)} entries>"
    return value
