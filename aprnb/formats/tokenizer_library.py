"""The one place where the `tokenizers` library is entered: what it raises becomes one typed error.

The library raises bare Exception, and a panic of its Rust code is not even that (it derives from
BaseException); neither may reach a user, and Ctrl-C may not be taken for either.
"""
from contextlib import contextmanager

from ..errors import AprnbError, CheckError, FormatError


class TokenizerFormatError(FormatError):
    """The file is not a tokenizer.json that the `tokenizers` library can read."""


class TokenizerStyleError(CheckError):
    """The vocabulary is not byte-level, or nobody says how it cuts words: ids would be guesses."""


@contextmanager
def entered(where):
    """Errors of the library inside the block as a TokenizerFormatError that names `where`."""
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, AprnbError) or not (panic or isinstance(error, Exception)):
            raise
        raise TokenizerFormatError(f"{where}: the tokenizers library refuses it: "
                                   f"{error}") from error


def build(text, where):
    """The library's tokenizer, with everything switched off that would change or cut the text.

    text: a whole tokenizer.json. Errors: TokenizerFormatError.
    """
    import tokenizers  # here: verbs on models without one need not wait for it
    with entered(where):
        library = tokenizers.Tokenizer.from_str(text)
    library.no_truncation()  # a saved max_length would cut documents without a word
    library.no_padding()
    if isinstance(library.model, tokenizers.models.BPE):
        library.model.dropout = None  # a training-time option that makes ids random
    return library
