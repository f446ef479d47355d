"""APR v2 files: `read_apr`, `write_apr`, and `create_apr` for streaming.

apr_layout.py is the format on one screen, apr_reader.py and apr_writer.py do the work and
rejections.py names everything a reader refuses.
"""
from .apr_reader import AprFile, read_apr
from .apr_writer import AprWriter, create_apr, write_apr
from .tensors import TensorEntry

__all__ = ["AprFile", "AprWriter", "TensorEntry", "create_apr", "read_apr", "write_apr"]
