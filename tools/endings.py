"""How a tool ends: what a user can meet is one line on stderr and the exit code of `aprnb`."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def end(main):
    """Run main() and end the process with the status that it returns, or with its error's."""
    from aprnb.errors import AprnbError, StorageError, out_of_memory
    try:
        sys.exit(main())
    except AprnbError as error:
        message, code = str(error), error.exit_code
    except ModuleNotFoundError as error:
        message, code = (f"{error.name} is not installed for {sys.executable}; use .venv/bin/python"
                         " of the checkout, which tools/setup makes"), 9
    except (OSError, MemoryError) as error:
        known = out_of_memory(error) or StorageError(
            f"{error.filename or sys.argv[0]}: {error.strerror or error}")
        message, code = str(known), known.exit_code
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
